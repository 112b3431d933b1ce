import ShrinkLinux
import SystemPackage
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

    /// A look at the free blocks in batches, each taken out and given back as the pool's shrinker does: every block once, in so many steps as there are words
    /// and blocks.
    @Test func aLookAtFreeBlocksIsLinear() {
        for pageCount in [64, 1000, 200_000] {
            var allocator = BlockAllocator(pageCount: pageCount)
            // Every other page is taken: as many blocks as there can be.
            for page in stride(from: 0, to: pageCount, by: 2) { _ = allocator.reserve(first: page, count: 1) }
            var position = BlockAllocator.Position()
            var seen: [Int] = []
            while true {
                var batch: [(first: Int, count: Int)] = []
                while batch.count < 64, let block = allocator.nextFreeBlock(&position) {
                    _ = allocator.reserve(first: block.first, count: block.count)
                    batch.append(block)
                }
                if batch.isEmpty { break }
                for block in batch { allocator.release(first: block.first, count: block.count) }
                seen += batch.map(\.first)
            }
            #expect(seen == Array(stride(from: 1, to: pageCount, by: 2)))
            #expect(position.steps <= seen.count + pageCount / 32 + 64, "\(position.steps) steps for \(seen.count) blocks")
        }
    }

    /// One that is gone leaves its place: those that are there stay, as many as there may be.
    @Test func openFilesOfRemovedObjectsTakeNoPlace() throws {
        func file() throws -> BackupFile { BackupFile(try MemoryFile.make("f", size: basePageSize), isStableOnlyWhenSynced: false) }
        var files = OpenBackupFiles(limit: 4)
        let ids = (1...6).map { ObjectID(rawValue: $0) }
        for _ in 0..<10 {
            files.keep(try file(), of: ids[0])
            files.forget(ids[0])
        }
        files.keep(try file(), of: ids[0])
        // Two that opened one at once.
        files.keep(try file(), of: ids[0])
        for id in ids[1..<4] { files.keep(try file(), of: id) }
        for id in ids[0..<4] { #expect(files[id] != nil) }
        #expect(files.count == 4)
        files.keep(try file(), of: ids[4])
        #expect(files[ids[0]] == nil && files[ids[4]] != nil, "the oldest makes room")
        files.forget(ids[2])
        files.keep(try file(), of: ids[5])
        #expect(files[ids[1]] != nil && files[ids[5]] != nil && files.count == 4, "a free place is used first")
    }

    @Test func everyStateReadsBackAndNoOtherWordIsOne() {
        let states: [PageState] = [
            .empty, .resident, .zero, .purged, .backedUp(Handle(PageIndex(rawValue: 0))), .backedUp(Handle(rawValue: 1 << 44)),
        ]
        for state in states { #expect(PageWord.decode(PageWord.encode(state)) == state) }
        // A unit of huge pages also says how many of its base pages are stored.
        for stored in [1, 2, 511, 512] {
            for handle in [Handle(rawValue: 1), Handle(rawValue: 1 << 44)] {
                let word = PageWord.encode(handle, storedBasePages: stored)
                #expect(PageWord.decode(word) == .backedUp(handle) && PageWord.storedBasePages(word) == stored && PageWord.isBackedUp(word))
            }
        }
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

    @Test func bulkMovesKeepTheOrderOfAPlainModel() {
        let seed = testSeed("bulk order")
        var generator = SeededGenerator(seed: seed)
        for _ in 0..<150 {
            var lru = LRU()
            lru.reserveSlots(24)
            var lists = [[UInt32]](repeating: [], count: 4)
            var bulkOf = [UInt32?](repeating: nil, count: 24)
            let bulks = [lru.makeBulk(), lru.makeBulk()].compactMap { $0 }
            func place(_ slot: UInt32, _ priority: Int) {
                for p in 0..<4 { lists[p].removeAll { $0 == slot } }
                if let bulk = bulkOf[Int(slot)], let last = lists[priority].lastIndex(where: { bulkOf[Int($0)] == bulk }) {
                    lists[priority].insert(slot, at: last + 1)
                } else {
                    lists[priority].append(slot)
                }
            }
            for _ in 0..<120 {
                let slot = UInt32.random(in: 0..<24, using: &generator)
                switch Int.random(in: 0..<8, using: &generator) {
                case 0..<4:
                    let priority = Priority.allCases.randomElement(using: &generator) ?? .normal
                    lru.touch(slot, priority)
                    place(slot, Int(priority.rawValue))
                case 4:
                    lru.remove(slot)
                    for p in 0..<4 { lists[p].removeAll { $0 == slot } }
                case 5:
                    let bulk = Bool.random(using: &generator) ? bulks.randomElement(using: &generator) : nil
                    let priority = lists.firstIndex { $0.contains(slot) }
                    lru.setBulk(slot, bulk)
                    bulkOf[Int(slot)] = bulk
                    if let priority { place(slot, priority) }
                default:
                    guard let bulk = bulks.randomElement(using: &generator) else { break }
                    lru.bump(bulk: bulk)
                    for p in 0..<4 {
                        lists[p] = lists[p].filter { bulkOf[Int($0)] != bulk } + lists[p].filter { bulkOf[Int($0)] == bulk }
                    }
                }
                #expect(order(&lru) == lists.flatMap { $0 }, "seed \(seed)")
                #expect(lru.count == lists.reduce(0) { $0 + $1.count })
            }
        }
    }

    private func order(_ lru: inout LRU) -> [UInt32] {
        guard var cursor = lru.makeCursor() else { return [] }
        var seen: [UInt32] = []
        while let slot = lru.next(&cursor) { seen.append(slot) }
        lru.end(cursor)
        return seen
    }

    /// A bulk that is bumped while cursors stand in it takes no cursor along (reference §1.1).
    @Test func cursorsMissNothingWhileBulksMove() {
        let seed = testSeed("bulk cursor")
        var generator = SeededGenerator(seed: seed)
        for _ in 0..<400 {
            var lru = LRU()
            lru.reserveSlots(48)
            let bulks = [lru.makeBulk(), lru.makeBulk(), lru.makeBulk()].compactMap { $0 }
            for slot in 0..<48 as Range<UInt32> {
                lru.touch(slot, slot % 3 == 0 ? .low : .normal)
                if slot >= 16 { lru.setBulk(slot, bulks[Int(slot) % bulks.count]) }
            }
            // 0…15 stay where they are; 16…31 only move with their bulks; the others come and go.
            var seen: [UInt32: Int] = [:]
            guard var cursor = lru.makeCursor() else { return #expect(Bool(false), "no cursor") }
            var steps = 0
            while let slot = lru.next(&cursor) {
                seen[slot, default: 0] += 1
                steps += 1
                #expect(steps < 2000, "an endless walk (seed \(seed))")
                guard steps < 150 else { continue }
                let mover = UInt32.random(in: 32..<48, using: &generator)
                switch Int.random(in: 0..<6, using: &generator) {
                case 0: lru.remove(mover)
                case 1: lru.touch(mover, slot % 2 == 0 ? .low : .normal)
                case 2: if let bulk = bulks.randomElement(using: &generator) { lru.bump(bulk: bulk) }
                case 3: lru.setBulk(mover, bulks.randomElement(using: &generator))
                default: break
                }
            }
            for slot in 0..<16 as Range<UInt32> { #expect(seen[slot] == 1, "seed \(seed)") }
            for slot in 16..<32 as Range<UInt32> { #expect(seen[slot, default: 0] >= 1, "\(slot) was missed (seed \(seed))") }
            lru.end(cursor)
        }
    }

    @Test func idsAreFoundAmongManyAndAfterMany() {
        let seed = testSeed("table")
        var generator = SeededGenerator(seed: seed)
        var table = ObjectTable()
        var model: [UInt32: UInt32] = [:]
        for step in 0..<20_000 {
            if model.isEmpty || Int.random(in: 0..<5, using: &generator) < (step < 12_000 ? 3 : 1) {
                let id = UInt32.random(in: 1...40_000, using: &generator)
                guard model[id] == nil else { continue }
                model[id] = table.insert(BufferObject(id: id))
            } else if let (id, slot) = model.first {
                table.remove(slot)
                model[id] = nil
            }
            let asked = UInt32.random(in: 1...40_000, using: &generator)
            #expect(table.slot(of: ObjectID(rawValue: asked)) == model[asked], "seed \(seed)")
        }
        #expect(table.count == model.count)
        for (id, slot) in model { #expect(table.slot(of: ObjectID(rawValue: id)) == slot) }
    }

    @Test func orderedIDsListFromAnyPlace() {
        var ordered = OrderedIDs()
        var alive: Set<UInt32> = []
        for id in [5, 3, 9, 12, 11, 40] as [UInt32] {
            ordered.insert(id)
            alive.insert(id)
        }
        #expect(Array(ordered.ids) == [3, 5, 9, 11, 12, 40])
        for id in [9, 3, 40, 5] as [UInt32] {
            alive.remove(id)
            ordered.remove(id) { alive.contains($0) }
        }
        #expect(ordered.ids.filter { alive.contains($0) } == [11, 12])
        #expect(ordered.ids.count <= 4)
        #expect(ordered.ids[ordered.place(after: 11)] == 12)
    }
}
