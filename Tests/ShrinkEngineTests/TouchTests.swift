import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@testable import ShrinkEngine

/// Memory that is used without a pin, through a mapping that is registered: pages go out under it and come back when they are touched.
@Suite(.serialized) struct TouchTests {
    @Test func aTouchedPageIsWhatItWas() throws {
        let fixture = try TouchFixture(seed: testSeed("touch"))
        let objects = try [700, 1, 33].map { try fixture.base.makeObject(pages: $0) }
        #expect(fixture.engine.shrink(.all).failure == nil)
        #expect(try fixture.engine.pool(fixture.base.pool).allocatedBytes == .zero)
        for object in objects {
            for page in 0..<object.pageCount { #expect(fixture.matches(object, page)) }
            let pages = try fixture.engine.object(object.id).pages
            #expect(pages.backedUp == 0, "everything came back, and is counted")
        }
        fixture.engine.waitForTouchDrops()
        #expect(fixture.engine.status().backup.storedBytes == 0, "the copies are dropped")
        #expect(fixture.engine.brokenInvariants() == [])
        // And once more: what came back by touch goes out like anything else.
        #expect(fixture.engine.shrink(.all).failure == nil)
        #expect(try fixture.engine.pool(fixture.base.pool).allocatedBytes == .zero)
        for object in objects { #expect(try fixture.base.mismatches(object) == []) }
    }

    @Test func pagesAroundComeInOrderAndNotAtRandom() throws {
        let fixture = try TouchFixture(seed: testSeed("touch"))
        let object = try fixture.base.makeObject(pages: 2048, zeroEvery: 0)
        #expect(fixture.engine.shrink(.all).failure == nil)
        for page in 0..<2048 {
            #expect(fixture.page(object, page)[0] == fixture.base.pattern.page(Int(object.id.rawValue) << 20 | page, zeroEvery: 0)[0])
        }
        #expect(fixture.engine.touchCounts.faults < 200, "in order: \(fixture.engine.touchCounts)")
        fixture.engine.waitForTouchDrops()
        #expect(fixture.engine.shrink(.all).failure == nil)
        let before = fixture.engine.touchCounts
        var generator = SeededGenerator(seed: testSeed("random"))
        // Far apart, so that no two of them look like a thread going on.
        for page in stride(from: 0, to: 2048, by: 128).shuffled(using: &generator) { #expect(fixture.matches(object, page, zeroEvery: 0)) }
        let recovered = fixture.engine.touchCounts.recoveredPages - before.recoveredPages
        #expect(recovered < 16 * 20, "at random: \(recovered) pages for 16")
    }

    @Test func whatIsWrittenWhileItGoesOutStays() throws {
        let seed = testSeed("touch")
        let fixture = try TouchFixture(poolPages: 2048, seed: seed)
        let objects = try (0..<4).map { _ in try fixture.base.makeObject(pages: 256, zeroEvery: 0) }
        let stop = Monitor(false)
        let writers = 2
        let failures = Monitor<[String]>([])
        try withDedicatedThreads { threads in
            for writer in 0..<writers {
                let base = UInt(bitPattern: fixture.touched.base)
                let offsets = objects.map(\.offsetBytes.rawValue)
                threads.start("hammer-\(writer)") {
                    // Each writer has a word of every page to itself and knows what it wrote there last.
                    var generator = SeededGenerator(seed: seed &+ UInt64(writer))
                    var last = [UInt64](repeating: 0, count: 4 * 256)
                    for i in last.indices { Self.word(base, offsets[i / 256], i % 256, writer).pointee = 0 }
                    while !stop.withLock({ $0 }) {
                        let i = Int(generator.next() % UInt64(last.count))
                        let word = Self.word(base, offsets[i / 256], i % 256, writer)
                        if word.pointee != last[i] {
                            failures.withLock { $0.append("page \(i) had \(word.pointee), written was \(last[i])") }
                            return
                        }
                        last[i] &+= generator.next() | 1
                        word.pointee = last[i]
                    }
                }
            }
            var generator = SeededGenerator(seed: seed &+ 99)
            let end = MonotonicTime.now().advanced(milliseconds: 4000)
            while MonotonicTime.now() < end, failures.withLock({ $0.isEmpty }) {
                switch generator.next() % 3 {
                case 0: #expect(fixture.engine.shrink(.all).failure == nil)
                case 1: #expect(fixture.engine.recover(.all).failure == nil)
                default: _ = fixture.engine.shrink(.bytes(.kibibytes(256)))
                }
            }
            stop.withLock { $0 = true }
        }
        #expect(failures.withLock { $0 } == [], "seed \(seed)")
        let counts = fixture.engine.touchCounts
        #expect(counts.recoveredPages > 0, "\(counts)")
        #expect(counts.poisonedPages == 0)
        #expect(fixture.engine.brokenInvariants() == [])
        print("touch: \(counts)")
    }

    private static func word(_ base: UInt, _ offset: Int, _ page: Int, _ writer: Int) -> UnsafeMutablePointer<UInt64> {
        // Bound each time: the address is real memory that the compiler must look at anew.
        UnsafeMutablePointer(bitPattern: base + UInt(offset + page * basePageSize + 64 * writer))!
    }
}
