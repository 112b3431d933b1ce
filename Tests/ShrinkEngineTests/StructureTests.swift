import TestSupport
import Testing

@testable import ShrinkEngine

/// Structures without I/O, against plain models.
@Suite struct StructureTests {
    @Test func theAllocatorNeverGivesAPageTwiceAndMergesWhatComesBack() {
        let seed = testSeed("allocator")
        var generator = SeededGenerator(seed: seed)
        for pageCount in [1, 7, 64, 1000, 4096] {
            var allocator = BlockAllocator(pageCount: pageCount)
            var taken = [Bool](repeating: false, count: pageCount)
            var ranges: [(first: Int, count: Int)] = []
            for _ in 0..<2000 {
                if Bool.random(using: &generator) || ranges.isEmpty {
                    let count = Int.random(in: 1...max(1, pageCount / 4), using: &generator)
                    if let first = allocator.allocate(count: count) {
                        #expect(!taken[first..<first + count].contains(true), "seed \(seed)")
                        for page in first..<first + count { taken[page] = true }
                        ranges.append((first, count))
                    } else {
                        #expect(taken.contains(true), "an empty pool has room for a quarter (seed \(seed))")
                    }
                } else {
                    let range = ranges.remove(at: Int.random(in: 0..<ranges.count, using: &generator))
                    allocator.release(first: range.first, count: range.count)
                    for page in range.first..<range.first + range.count { taken[page] = false }
                }
                #expect(allocator.freePages == taken.count { !$0 })
            }
            for range in ranges { allocator.release(first: range.first, count: range.count) }
            let largest = allocator.allocate(count: 1 << (Int.bitWidth - 1 - pageCount.leadingZeroBitCount))
            #expect(largest != nil, "the largest block is whole again")
        }
    }

    @Test func aRangeCanBeReservedByNameUnlessPartOfItIsTaken() {
        var allocator = BlockAllocator(pageCount: 1000)
        func reserve(_ first: Int, _ count: Int) -> Bool { allocator.reserve(first: first, count: count) }
        #expect(reserve(100, 50))
        #expect(allocator.freePages == 950)
        #expect(!reserve(140, 20))
        #expect(!reserve(90, 11))
        #expect(!reserve(999, 2))
        #expect(allocator.freePages == 950)
        #expect(reserve(150, 850))
        #expect(reserve(0, 100))
        #expect(allocator.freePages == 0)
    }

    @Test func everyStateReadsBackAndNoOtherWordIsOne() {
        let states: [PageState] = [
            .empty, .resident, .zero, .purged, .backedUp(Handle(PageIndex(rawValue: 0))), .backedUp(Handle(rawValue: 1 << 60)),
        ]
        for state in states { #expect(PageWord.decode(PageWord.encode(state)) == state) }
        #expect(PageWord.encode(.empty) == 0)
        for word: UInt64 in [5, 6, 7, 3, 8, 1 << 63] { #expect(PageWord.decode(word) == nil) }
    }

    @Test func cursorsMissNothingWhileTheListChanges() {
        let seed = testSeed("cursor")
        var generator = SeededGenerator(seed: seed)
        for _ in 0..<200 {
            var lru = LRU()
            lru.reserveSlots(64)
            var priorities = (0..<32).map { _ in Priority.allCases.randomElement(using: &generator) ?? .normal }
            for slot in 0..<32 { lru.touch(UInt32(slot), priorities[slot]) }
            // These stay where they are for the whole walk, so the cursor must see each exactly once.
            let steady = Set((0..<16).map { UInt32($0) })
            var seen: [UInt32: Int] = [:]
            guard var cursor = lru.makeCursor(), var other = lru.makeCursor() else { return #expect(Bool(false), "no cursor") }
            var steps = 0
            while let slot = lru.next(&cursor) {
                seen[slot, default: 0] += 1
                steps += 1
                #expect(steps < 1000, "an endless walk (seed \(seed))")
                let mover = UInt32.random(in: 16..<32, using: &generator)
                switch Int.random(in: 0..<4, using: &generator) {
                case 0: lru.remove(mover)
                case 1 where steps < 100:
                    priorities[Int(mover)] = Priority.allCases.randomElement(using: &generator) ?? .normal
                    lru.touch(mover, priorities[Int(mover)])
                case 2: _ = lru.next(&other)
                default: break
                }
            }
            for slot in steady { #expect(seen[slot] == 1, "seed \(seed)") }
            lru.end(cursor)
            lru.end(other)
            for slot in 0..<32 { lru.remove(UInt32(slot)) }
            #expect(lru.count == 0)
        }
    }
}
