import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@testable import ShrinkEngine

/// Pages that come before anybody touches them.
@Suite(.serialized) struct TouchAheadTests {
    private static let depth = FaultAround.longest * FaultAround.aheadWindows

    /// Waits until nothing is being brought any more, and tells how many pages of an object are out.
    private func settled(_ fixture: TouchFixture, _ object: ObjectInfo) throws -> Int {
        fixture.engine.waitForTouchDrops()
        return try fixture.engine.object(object.id).pages.backedUp
    }

    @Test func whoReadsSlowlyFindsPagesThere() throws {
        let fixture = try TouchFixture(poolPages: 8192, seed: testSeed("ahead"))
        let object = try fixture.base.makeObject(pages: 8000)
        #expect(fixture.engine.shrink(.all).failure == nil)
        let all = try fixture.engine.object(object.id).pages.backedUp
        var read = 0
        // Long enough that the window is at its longest.
        while read < 3000 {
            #expect(fixture.matches(object, read))
            read += 1
        }
        let out = try settled(fixture, object)
        #expect(fixture.engine.touchCounts.aheadPages > 1000, "\(fixture.engine.touchCounts)")
        #expect(all - out <= read + Self.depth + 2 * FaultAround.longest, "what is ahead has a limit")
        // From here on the reader waits until all is quiet before each page that tells where it is: it asks for more long before it comes to the end.
        let before = fixture.engine.touchCounts.faults
        while read < 8000 {
            #expect(fixture.matches(object, read))
            read += 1
            if read % 64 == 0 { fixture.engine.waitForTouchDrops() }
        }
        let faults = fixture.engine.touchCounts.faults - before
        #expect(faults <= 200, "5000 pages with \(faults) faults")
        #expect(try settled(fixture, object) == 0)
        #expect(fixture.engine.brokenInvariants() == [])
        // All of it goes out again, what nobody touched included.
        #expect(fixture.engine.shrink(.all).failure == nil)
        #expect(try fixture.base.mismatches(object) == [])
    }

    @Test func whereMemoryIsShortNothingComesAhead() throws {
        let fixture = try TouchFixture(seed: testSeed("short")) { $0.memoryFloor = ByteCount(1 << 50) }
        let object = try fixture.base.makeObject(pages: 1000, zeroEvery: 0)
        #expect(fixture.engine.shrink(.all).failure == nil)
        for page in 0..<300 { #expect(fixture.matches(object, page, zeroEvery: 0)) }
        #expect(try settled(fixture, object) == 700, "what is touched comes, and not a page more")
        #expect(fixture.engine.touchCounts.aheadPages == 0)
    }

    @Test func aDamagedPageAheadHarmsNoOther() throws {
        guard (try? Userfaults.open(.full)) != nil else { return Machine.lacks("a full userfaultfd", so: "a damaged page was not touched") }
        let fixture = try TouchFixture(seed: testSeed("damaged"), reach: .full)
        let object = try fixture.base.makeObject(pages: 2000)
        #expect(fixture.engine.shrink(.all).failure == nil)
        func isZero(_ page: Int) -> Bool { fixture.base.pattern.page(Int(object.id.rawValue) << 20 | page).allSatisfy { $0 == 0 } }
        // The first page behind some zeros, far enough for the window to be long.
        let bad = try #require((800..<2000).first { !isZero($0) && isZero($0 - 1) })
        let data = try Files.open(fixture.base.backup.path + "/objects/\(object.id.rawValue)/data", .readWrite)
        try Files.punch(data.number, at: bad * basePageSize, length: basePageSize)
        for page in 0..<2000 where page != bad { #expect(fixture.matches(object, page), "page \(page)") }
        #expect(try fixture.systemCall(on: object, bad) == .badAddress)
        #expect(try fixture.systemCall(on: object, bad - 1) == nil)
        #expect(fixture.engine.touchCounts.poisonedPages == 1)
    }
}
