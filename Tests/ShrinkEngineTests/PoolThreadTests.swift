import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@testable import ShrinkEngine

/// What clients that are strangers cost: calls on the pool's own thread, each of which switches threads twice. They are made for whole runs, however the
/// pages of zeros lie between the others.
@Suite struct PoolThreadTests {
    private func calls(_ fixture: EngineFixture) throws -> UInt64 {
        let file = try fixture.engine.state.withLock { state throws(EngineError) in try state.pool(fixture.pool).file }
        return try #require(file.callCount)
    }

    @Test func recoverMakesOneCallForEachRun() throws {
        let fixture = try EngineFixture(configure: { $0.clientsAreStrangers = true })
        // Every second page zero: 512 stretches in four runs of 1 MiB.
        let object = try fixture.makeObject(pages: 1024, zeroEvery: 2)
        #expect(fixture.engine.shrink(.object(object.id)).failure == nil)
        let before = try calls(fixture)
        let result = fixture.engine.recover(.object(object.id))
        #expect(result.failure == nil && result.recoveredPages > 400)
        let made = try calls(fixture) - before
        #expect(made >= 4 && made <= 20, "\(made) calls")
        #expect(try fixture.mismatches(object, zeroEvery: 2) == [])
    }

    /// After a recover the pages of zeros are holes between the others.
    @Test func shrinkOfWhatCameBackMakesThreeCallsForEachRun() throws {
        let fixture = try EngineFixture(configure: { $0.clientsAreStrangers = true })
        let object = try fixture.makeObject(pages: 1024, zeroEvery: 2)
        let engine = fixture.engine
        #expect(engine.shrink(.object(object.id)).failure == nil)
        let recovered = engine.recover(.object(object.id)).recoveredPages
        let resident = try engine.pool(fixture.pool).allocatedBytes.rawValue / basePageSize
        #expect(resident == recovered)
        let before = try calls(fixture)
        let result = engine.shrink(.object(object.id))
        // Holes are not counted: neither as looked at, nor as freed, nor as zeros.
        #expect(result.failure == nil && result.scannedPages == resident && result.backedUpPages == resident)
        #expect(result.freedBytes == ByteCount(resident * basePageSize) && result.zeroPages == 0)
        let made = try calls(fixture) - before
        #expect(made >= 4 && made <= 20, "\(made) calls")
        #expect(try engine.pool(fixture.pool).allocatedBytes == .zero)
        #expect(try fixture.mismatches(object, zeroEvery: 2) == [])
    }

    /// Pages that are in the backup lie in the gaps, and so do holes that were never touched; neither is changed by what goes out around them.
    @Test func whatLiesInTheGapsStaysAsItIs() throws {
        for strangers in [false, true] {
            let fixture = try EngineFixture(configure: { $0.clientsAreStrangers = strangers })
            let engine = fixture.engine
            let object = try engine.createObject(in: fixture.pool, name: "o", size: ByteCount(512 * basePageSize))
            // Data, out, never touched, by turns of different lengths.
            func kind(_ page: Int) -> Int { (page / 3 + page / 7) % 3 }
            for page in 0..<512 where kind(page) != 2 {
                fixture.pattern.fill(fixture.bytes(object, page), index: page, zeroEvery: 0)
            }
            try engine.unpin(object.id)
            #expect(engine.shrink(.object(object.id)).failure == nil)
            let all = (0..<512).map(kind)
            /// Brings back those of the first kind.
            func recoverParts() throws {
                var first = 0
                while first < 512 {
                    var end = first + 1
                    while end < 512, kind(end) == kind(first) { end += 1 }
                    if kind(first) == 0 {
                        let pages = PageIndex(rawValue: first)..<PageIndex(rawValue: end)
                        #expect(engine.recover(object.id, pages: pages).failure == nil)
                    }
                    first = end
                }
            }
            try recoverParts()
            // The others are in the backup, between them.
            let again = engine.shrink(.object(object.id))
            #expect(again.failure == nil && again.backedUpPages == all.count { $0 == 0 }, "\(again)")
            #expect(again.scannedPages == all.count { $0 == 0 } && engine.counters.strayPages == 0)
            try recoverParts()
            // What its client changed since must be what comes back.
            try engine.pin(object.id)
            for page in 0..<512 where kind(page) == 0 {
                fixture.pattern.fill(fixture.bytes(object, page), index: page, version: 1, zeroEvery: 0)
            }
            try engine.unpin(object.id)
            var counts = try engine.object(object.id).pages
            // Pinned, all of it came back.
            #expect(counts.backedUp == 0 && counts.empty == all.count { $0 == 2 }, "\(counts)")
            let result = engine.shrink(.object(object.id))
            #expect(result.failure == nil && result.backedUpPages == all.count { $0 != 2 } && result.zeroPages == 0)
            counts = try engine.object(object.id).pages
            #expect(counts.empty == all.count { $0 == 2 } && counts.zero == 0 && counts.resident == 0, "\(counts)")
            var page = [UInt8](repeating: 0xee, count: basePageSize)
            for index in 0..<512 {
                _ = try page.withUnsafeMutableBytes { try engine.read(object.id, at: ByteCount(index * basePageSize), into: $0) }
                switch kind(index) {
                case 0: #expect(page == fixture.pattern.page(index, version: 1, zeroEvery: 0), "page \(index)")
                case 1: #expect(page == fixture.pattern.page(index, zeroEvery: 0), "page \(index)")
                default: #expect(page.allSatisfy { $0 == 0 }, "page \(index)")
                }
            }
        }
    }

    /// A copy that nobody waits for any more is undone when it ends after all: its pages, and not what lies between them, which may be a client's.
    @Test func whatIsUndoneIsTheCopyAlone() throws {
        let file = try MemoryFile.makeSealed("undo", size: 64 * basePageSize)
        let full = [UInt8](repeating: 7, count: 64 * basePageSize)
        #expect(full.withUnsafeBytes { Files.write(file.number, $0, at: 0) }.error == nil)
        let touch = PoolTouch()
        let claim = touch.claim(10..<20, .copyingIn)
        var pages = RunMask()
        for page in [0, 1, 5, 9] { pages.insert(page) }
        FileCall.Afterwards.undoCopyIn(touch, claim, pages, first: 10).run(file.number)
        var page = [UInt8](repeating: 0, count: basePageSize)
        for index in 0..<64 {
            let read = try page.withUnsafeMutableBytes { try Files.read(file.number, into: $0, at: index * basePageSize) }
            #expect(read == basePageSize && page[0] == ([10, 11, 15, 19].contains(index) ? 0 : 7), "page \(index)")
        }
        // And the claim is over.
        #expect(touch.tryClaim(10..<20, .copyingIn) != nil)
    }
}
