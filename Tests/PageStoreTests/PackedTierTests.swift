import Glibc
import ShrinkLinux
import Synchronization
import SystemPackage
import TestSupport
import Testing

@testable import PageStore

/// Segments go to the next tier on sync, with age, within the budget; a tier that fails keeps nothing from anybody.
@Suite struct PackedTierTests {
    private static func options() -> PackedOptions {
        var options = PackedOptions()
        options.segmentBytes = 1 << 20
        options.runsInBackground = false
        return options
    }

    private static let seed: UInt64 = 77

    private static func write(_ object: PackedObject, pages: Range<Int>, _ durability: Durability = .buffered) throws(Errno) {
        let bytes = pages.flatMap { PagePattern(seed: seed).page($0, zeroEvery: 0) }
        _ = try bytes.withBytes { buffer throws(Errno) in try object.write(buffer, at: pages.lowerBound * basePageSize, durability) }
    }

    private static func expect(_ object: PackedObject, pages: Range<Int>, tier: Int?) throws {
        var bytes = [UInt8](repeating: 0, count: basePageSize)
        for page in pages {
            _ = try bytes.withMutableBytes { buffer throws(Errno) in try object.read(into: buffer, at: page * basePageSize) }
            if bytes != PagePattern(seed: seed).page(page, zeroEvery: 0) { Issue.record("page \(page) is not as written") }
            let index = try #require(StoredPageIndex(rawValue: UInt32(page)))
            let info = try #require(try object.page(index))
            if tier != nil, info.tier != tier { Issue.record("page \(page) is in tier \(info.tier.map(String.init) ?? "none")") }
        }
    }

    private static func names(_ path: String) throws -> [String] {
        let handle = try Files.open(path, [.readOnly, .directory])
        var names: [String] = []
        try Files.forEachName(in: handle.number) { names.append($0) }
        return names.sorted()
    }

    @Test func syncPutsTheObjectInTheNextTierAndNothingIsLeftAbove() throws {
        let first = try ScratchDirectory()
        let second = try ScratchDirectory()
        let id = try #require(StoredObjectID(rawValue: 1))
        do {
            let store = try PackedStore(directories: [first.path, second.path], options: Self.options())
            let object = try store.create(id)
            try Self.write(object, pages: 0..<700)
            try Self.expect(object, pages: 0..<700, tier: 0)
            try object.sync()
            try Self.expect(object, pages: 0..<700, tier: 1)
            #expect(try Self.names(first.file("segments")).isEmpty)
            // What is written afterwards is above again.
            try Self.write(object, pages: 10..<20)
            try Self.expect(object, pages: 10..<20, tier: 0)
        }
        let store = try PackedStore(directories: [first.path, second.path], options: Self.options())
        let object = try #require(try store.object(id))
        try Self.expect(object, pages: 0..<700, tier: nil)
        try Self.expect(object, pages: 20..<700, tier: 1)
    }

    @Test func whatWasSyncedIsThereAgainWhenTheFirstTierIsLost() throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "no memory tier of a test's own: its loss is not tested") }
        let second = try ScratchDirectory()
        var generator = SeededGenerator(seed: testSeed("lost tier"))
        do {
            let memory = try ScratchMemoryFileSystem(sizeBytes: 32 << 20)
            let store = try PackedStore(directories: [memory.path, second.path], options: Self.options())
            let object = try store.create(try #require(StoredObjectID(rawValue: 5)))
            try object.setHint(.name, to: "buffer")
            try Self.write(object, pages: 0..<700)
            try Self.write(object, pages: 100_000..<100_020)
            try object.sync()
            // Compacted below after the sync: the copy goes along.
            for _ in 0..<40 { try object.punch(at: (Int(generator.next() % 60) * 10 + 50) * basePageSize, length: 10 * basePageSize) }
            try Self.write(object, pages: 50..<660)
            try object.sync()
            while store.cleaner.cleanOne(urgent: false) {}
            #expect(store.core.counters.cleanedSegments.load(ordering: .relaxed) > 0)
            // Not synced, and lost.
            try Self.write(object, pages: 800..<900)
            let gone = try store.create(try #require(StoredObjectID(rawValue: 6)))
            try Self.write(gone, pages: 0..<10)
            try gone.sync()
            try store.remove(gone.id)
        }
        let memory = try ScratchMemoryFileSystem(sizeBytes: 32 << 20)
        let store = try PackedStore(directories: [memory.path, second.path], options: Self.options())
        #expect(store.objects(after: nil, limit: 10).map(\.rawValue) == [5])
        let object = try #require(try find(store, 5))
        #expect(object.hint(.name) == "buffer")
        try Self.expect(object, pages: 0..<700, tier: 1)
        try Self.expect(object, pages: 100_000..<100_020, tier: 1)
        #expect(object.attributes.pageCount == 720)
    }

    /// Each sync copies the object's index to the second tier, as the cleaner does: one after the other, or two of them write one file.
    @Test func syncsOfOneObjectAtOnceLoseNothing() throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "no memory tier of a test's own: syncs at once are not tested") }
        let second = try ScratchDirectory()
        do {
            let memory = try ScratchMemoryFileSystem(sizeBytes: 32 << 20)
            let store = try PackedStore(directories: [memory.path, second.path], options: Self.options())
            let object = try store.create(try #require(StoredObjectID(rawValue: 5)))
            let errors = Monitor<[String]>([])
            let threads = try (0..<3).map { number in
                try DedicatedThread("syncs") {
                    for round in 0..<40 {
                        let first = (number * 40 + round) * 10
                        do {
                            try Self.write(object, pages: first..<first + 10)
                            try object.sync()
                        } catch { return errors.withLock { $0.append("\(error)") } }
                    }
                }
            }
            for thread in threads { thread.join() }
            #expect(errors.withLock { $0 } == [])
        }
        let memory = try ScratchMemoryFileSystem(sizeBytes: 32 << 20)
        let store = try PackedStore(directories: [memory.path, second.path], options: Self.options())
        try Self.expect(try #require(try find(store, 5)), pages: 0..<1200, tier: 1)
    }

    /// Its copy below would bring it back when the memory is lost.
    @Test func aSyncOfARemovedObjectDoesNotBringItBack() throws {
        guard Machine.isRoot else {
            return Machine.lacks("root", so: "no memory tier of a test's own: syncs of removed objects are not tested")
        }
        let second = try ScratchDirectory()
        do {
            let memory = try ScratchMemoryFileSystem(sizeBytes: 32 << 20)
            let store = try PackedStore(directories: [memory.path, second.path], options: Self.options())
            let open = try store.create(try #require(StoredObjectID(rawValue: 1)))
            try Self.write(open, pages: 0..<10)
            try open.sync()
            try store.remove(open.id)
            try open.sync()
            // And beside syncs that are under way.
            for number in 2...60 as ClosedRange<UInt32> {
                let object = try store.create(try #require(StoredObjectID(rawValue: number)))
                try Self.write(object, pages: 0..<10)
                let isDone = Monitor(false)
                let syncer = try DedicatedThread("syncs") {
                    repeat { try? object.sync() } while !isDone.withLock { $0 }
                }
                defer {
                    isDone.withLock { $0 = true }
                    syncer.join()
                }
                // From any moment of one on.
                usleep(number * 20)
                try store.remove(object.id)
            }
        }
        let memory = try ScratchMemoryFileSystem(sizeBytes: 32 << 20)
        let store = try PackedStore(directories: [memory.path, second.path], options: Self.options())
        #expect(store.objects(after: nil, limit: 100).isEmpty)
        #expect(try runProgram("/bin/ls", [second.file("objects")]).output.split(separator: "\n").filter { !$0.hasSuffix(".new") } == [])
    }

    /// Neither synced nor there any more, and still never given again.
    @Test func noIDIsUsedAgainWhenTheFirstTierIsLost() throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "no memory tier of a test's own: its loss is not tested") }
        let second = try ScratchDirectory()
        var generator = SeededGenerator(seed: testSeed("lost ids"))
        let ids = Set([1, 2, 3, UInt32.max] as [UInt32]).union(
            (0..<20).map { _ in UInt32(truncatingIfNeeded: generator.next() % 100_000 + 10) })
        for round in 0..<3 {
            // Lost each time with all that was in it.
            let memory = try ScratchMemoryFileSystem(sizeBytes: 32 << 20)
            let store = try PackedStore(directories: [memory.path, second.path], options: Self.options())
            #expect(store.objects(after: nil, limit: 100).isEmpty)
            for id in ids.sorted() {
                let id = try #require(StoredObjectID(rawValue: id))
                if round == 0 {
                    _ = try store.create(id)
                    if id.rawValue % 2 == 0 { try store.remove(id) }
                } else {
                    #expect(throws: Errno.fileExists) { try store.create(id) }
                }
            }
            if round > 0 { #expect(store.highestID == .max) }
            // Far from all of them: not used up by this.
            let free = try #require(StoredObjectID(rawValue: 2_000_000 + UInt32(round) * 448))
            _ = try store.create(free)
            store.close()
        }
    }

    @Test func aDurableWriteIsInTheNextTierWhenItReturns() throws {
        let first = try ScratchDirectory()
        let second = try ScratchDirectory()
        let store = try PackedStore(directories: [first.path, second.path], options: Self.options())
        let object = try store.create(try #require(StoredObjectID(rawValue: 1)))
        try Self.write(object, pages: 0..<100, .durable)
        try Self.expect(object, pages: 0..<100, tier: 1)
    }

    @Test func ageMovesSealedSegments() throws {
        let first = try ScratchDirectory()
        let second = try ScratchDirectory()
        var options = Self.options()
        options.ageSeconds = 0
        let store = try PackedStore(directories: [first.path, second.path], options: options)
        let object = try store.create(try #require(StoredObjectID(rawValue: 1)))
        try Self.write(object, pages: 0..<600)
        #expect(store.moveAgedSegments())
        // Two segments are full, the third is being filled.
        try Self.expect(object, pages: 0..<400, tier: 1)
        try Self.expect(object, pages: 599..<600, tier: 0)
    }

    @Test func theWriteBudgetIsKeptAcrossRestarts() throws {
        let first = try ScratchDirectory()
        let second = try ScratchDirectory()
        var options = Self.options()
        options.writeBudgetBytesPerDay = 2 << 20
        let id = try #require(StoredObjectID(rawValue: 1))
        do {
            let store = try PackedStore(directories: [first.path, second.path], options: options)
            let object = try store.create(id)
            try Self.write(object, pages: 0..<300)
            try object.sync()
            try Self.write(object, pages: 300..<600)
            #expect(throws: Errno.diskQuotaExceeded) { try object.sync() }
            try Self.expect(object, pages: 0..<600, tier: nil)
        }
        let store = try PackedStore(directories: [first.path, second.path], options: options)
        let object = try #require(try store.object(id))
        #expect(throws: Errno.diskQuotaExceeded) { try object.sync() }
        let spent = try Self.names(second.file("segments")).reduce(0) {
            $0 + (try Files.status(of: second.file("segments/" + $1)).sizeBytes)
        }
        #expect(spent > 0 && spent <= 2 << 20)
        try Self.expect(object, pages: 0..<600, tier: nil)
    }

    @Test(arguments: ["18446744073709551615", "9223372036854775808", "-1", "much"])
    func aBudgetThatIsNoSumOfBytesIsUsedUp(_ spent: String) throws {
        let first = try ScratchDirectory()
        let second = try ScratchDirectory()
        var options = Self.options()
        options.writeBudgetBytesPerDay = 2 << 20
        try PackedStore(directories: [first.path, second.path], options: options).close()
        try Files.replaceContents(of: second.file("budget"), with: Array("spent 4000000 \(spent)\n".utf8))
        let store = try PackedStore(directories: [first.path, second.path], options: options)
        let object = try store.create(try #require(StoredObjectID(rawValue: 1)))
        try Self.write(object, pages: 0..<10)
        #expect(throws: Errno.diskQuotaExceeded) { try object.sync() }
        try Self.expect(object, pages: 0..<10, tier: nil)
    }

    @Test func aTierThatFailsKeepsThePagesAboveAndIsShown() throws {
        let first = try ScratchDirectory()
        let second = try ScratchDirectory()
        let store = try PackedStore(directories: [first.path, second.path], options: Self.options())
        let object = try store.create(try #require(StoredObjectID(rawValue: 1)))
        try Self.write(object, pages: 0..<300)
        // Unplugged: the directory is gone under the open descriptor.
        try Files.removeDirectory(second.file("segments"))
        #expect(throws: Errno.self) { try object.sync() }
        try Self.expect(object, pages: 0..<300, tier: 0)
        #expect(store.facts().first { $0.key == "tier.1.state" }?.value.contains("errors") == true)
        #expect(store.facts().first { $0.key == "tier.0.state" }?.value == "ok")
        // A durable write can't be; it says so, and the store goes on.
        #expect(throws: Errno.self) { try Self.write(object, pages: 300..<310, .durable) }
        try Self.write(object, pages: 300..<310)
        try Self.expect(object, pages: 0..<310, tier: 0)
    }

    @Test func aSecondTierInMemoryIsRefusedWithTheReason() throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "no tmpfs of a test's own: its refusal as second tier is not tested") }
        let first = try ScratchDirectory()
        let memory = try ScratchMemoryFileSystem(sizeBytes: 8 << 20)
        do throws(StoreError) {
            _ = try PackedStore(directories: [first.path, memory.path], options: Self.options())
            Issue.record("a tmpfs was taken for a disk")
        } catch {
            #expect(error.code == .unsupported && error.message.contains("tmpfs"))
        }
    }

    @Test func tiersInAnotherOrderOrOfAnotherStoreAreRefused() throws {
        let first = try ScratchDirectory()
        let second = try ScratchDirectory()
        let other = try ScratchDirectory()
        do { _ = try PackedStore(directories: [first.path, second.path], options: Self.options()) }
        do { _ = try PackedStore(directories: [other.path], options: Self.options()) }
        for directories in [[second.path, first.path], [first.path, other.path], [second.path]] {
            #expect(throws: StoreError.self) { try PackedStore(directories: directories, options: Self.options()) }
        }
    }
}
