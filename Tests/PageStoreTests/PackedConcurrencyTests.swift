import ShrinkLinux
import Synchronization
import SystemPackage
import TestSupport
import Testing

@testable import PageStore

/// Writers, readers, punches, the cleaner and moves between tiers on one object at once: a page read is one version, whole.
@Suite struct PackedConcurrencyTests {
    /// A page that tells which one it is, which version, and whether it is whole.
    static func make(_ bytes: UnsafeMutableRawPointer, page: Int, version: UInt64) {
        for i in 0..<512 {
            let noise = (version ^ UInt64(page)) &* 0x9E37_79B9_7F4A_7C15 &+ UInt64(i) &* (version | 1)
            bytes.storeBytes(
                of: i == 0 ? UInt64(page) : i == 1 ? version : i % 3 == 0 ? noise : version &+ UInt64(page), toByteOffset: i * 8,
                as: UInt64.self)
        }
    }

    static func isWhole(_ bytes: UnsafeMutableRawPointer, page: Int, _ scratch: UnsafeMutableRawPointer) -> Bool {
        if isZero(bytes, basePageSize) { return true }
        guard bytes.load(as: UInt64.self) == UInt64(page) else { return false }
        make(scratch, page: page, version: bytes.load(fromByteOffset: 8, as: UInt64.self))
        for i in 0..<512 where bytes.load(fromByteOffset: i * 8, as: UInt64.self) != scratch.load(fromByteOffset: i * 8, as: UInt64.self) {
            return false
        }
        return true
    }

    private final class Shared: Sendable {
        let wrong = Mutex<[String]>([])
        let isOver = Atomic<Bool>(false)
        let readPages = Atomic<Int>(0)
        let sawMappings = Atomic<Bool>(false)
    }

    /// In memory segments are mapped for the readers.
    @Test(arguments: [false, true]) func everyPageReadIsOneVersionWhole(_ inMemory: Bool) throws {
        let seed = testSeed("packed concurrency")
        if inMemory, !Machine.isRoot {
            return Machine.lacks("root", so: "no tmpfs of a test's own: readers of mapped segments are not tested")
        }
        let memory = inMemory ? try ScratchMemoryFileSystem(sizeBytes: 256 << 20) : nil
        let disk = try ScratchDirectory()
        let firstPath = memory?.path ?? disk.path
        let second = try ScratchDirectory()
        var options = PackedOptions()
        options.segmentBytes = 1 << 20
        options.runsInBackground = false
        options.ageSeconds = 0
        let store = try PackedStore(directories: [firstPath, second.path], options: options)
        let object = try store.create(try #require(StoredObjectID(rawValue: 1)))
        let pages = 600
        try object.setSize(pages * basePageSize)
        let shared = Shared()

        func thread(
            _ number: UInt64, _ body: @escaping @Sendable (inout SeededGenerator, UnsafeMutableRawPointer) throws -> Void, rounds: Int?
        ) throws -> DedicatedThread {
            try DedicatedThread("t\(number)") {
                var generator = SeededGenerator(seed: seed &+ number)
                let memory = UnsafeMutableRawPointer.allocate(byteCount: 66 * basePageSize, alignment: 4096)
                defer { memory.deallocate() }
                var round = 0
                while rounds.map({ round < $0 }) ?? !shared.isOver.load(ordering: .relaxed) {
                    do { try body(&generator, memory) } catch {
                        shared.wrong.withLock { $0.append("\(error)") }
                        return
                    }
                    round += 1
                }
            }
        }
        let writers = try (1...2 as ClosedRange<UInt64>).map { number in
            try thread(
                number,
                { generator, memory in
                    let count = Int(generator.next() % 64) + 1
                    let start = Int(generator.next() % UInt64(pages - count))
                    for i in 0..<count { Self.make(memory + i * basePageSize, page: start + i, version: generator.next() | 1) }
                    if generator.next() % 4 == 0 {
                        try object.punch(at: start * basePageSize, length: count * basePageSize)
                    } else {
                        let n = try object.write(
                            UnsafeRawBufferPointer(start: memory, count: count * basePageSize), at: start * basePageSize, .buffered)
                        if n != count * basePageSize { shared.wrong.withLock { $0.append("short write \(n)") } }
                    }
                }, rounds: 300)
        }
        let others = [
            try thread(
                11,
                { generator, memory in
                    let count = Int(generator.next() % 64) + 1
                    let start = Int(generator.next() % UInt64(pages - count))
                    _ = try object.read(
                        into: UnsafeMutableRawBufferPointer(start: memory, count: count * basePageSize), at: start * basePageSize)
                    for i in 0..<count where !Self.isWhole(memory + i * basePageSize, page: start + i, memory + 65 * basePageSize) {
                        shared.wrong.withLock { $0.append("page \(start + i) is torn") }
                    }
                    shared.readPages.add(count, ordering: .relaxed)
                    if store.core.table.mappings.load(ordering: .relaxed) > 0 { shared.sawMappings.store(true, ordering: .relaxed) }
                }, rounds: nil),
            try thread(12, { _, _ in _ = store.cleaner.cleanOne(urgent: true) }, rounds: nil),
            try thread(
                13,
                { _, _ in
                    _ = store.moveAgedSegments()
                    try object.sync()
                }, rounds: nil),
        ]
        for writer in writers { writer.join() }
        shared.isOver.store(true, ordering: .relaxed)
        for other in others { other.join() }
        let wrong = shared.wrong.withLock { $0 }
        #expect(wrong.isEmpty, "seed \(seed): \(wrong.prefix(5))")
        #expect(shared.readPages.load(ordering: .relaxed) > 0)
        #expect(store.core.counters.checksumErrors.load(ordering: .relaxed) == 0)
        #expect(
            store.core.counters.cleanedSegments.load(ordering: .relaxed) > 0
                && store.core.counters.movedSegments.load(ordering: .relaxed) > 0)
        // No mapping showed another segment than the one that was asked for, and none outlives its own.
        #expect(shared.sawMappings.load(ordering: .relaxed) == inMemory)
        #expect(store.core.counters.mappingRereads.load(ordering: .relaxed) == 0)
        #expect(try Self.staleMappings(store, firstPath).isEmpty)
        // What lives is what the index says, whoever moved it.
        #expect((0..<store.core.table.numberLimit).reduce(0) { $0 + store.core.table.slot($1).liveBytes } == object.attributes.storedBytes)
        #expect(try object.pages(from: StoredPageIndex(rawValue: 0)!, limit: pages).count == object.attributes.pageCount)
    }

    /// Mappings of segments that are gone, when nobody reads any more.
    private static func staleMappings(_ store: PackedStore, _ path: String) throws -> [Substring] {
        store.core.table.grace.collect()
        let maps = String(decoding: try Files.contents(of: "/proc/self/maps", limit: 64 << 20), as: UTF8.self)
        return maps.split(separator: "\n").filter { $0.contains(path + "/segments/") && $0.hasSuffix("(deleted)") }
    }

    /// Segments die and their numbers are taken again as fast as a writer can, while others read them where they lie.
    @Test func aNumberUsedAgainNeverShowsTheSegmentThatHadIt() throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "no tmpfs of a test's own: numbers used again are not tested") }
        let seed = testSeed("packed numbers")
        let memory = try ScratchMemoryFileSystem(sizeBytes: 512 << 20)
        var options = PackedOptions()
        options.segmentBytes = 1 << 20
        options.runsInBackground = false
        options.memoryFloorBytes = 0
        // Some go before their segments do.
        options.mappedBytesLimit = 4 << 20
        let store = try PackedStore(directories: [memory.path], options: options)
        let object = try store.create(try #require(StoredObjectID(rawValue: 1)))
        let pages = 1024
        try object.setSize(pages * basePageSize)
        let shared = Shared()
        let readers = try (0..<3).map { number in
            try DedicatedThread("reader\(number)") {
                var generator = SeededGenerator(seed: seed &+ UInt64(number))
                let memory = UnsafeMutableRawPointer.allocate(byteCount: 33 * basePageSize, alignment: 4096)
                defer { memory.deallocate() }
                while !shared.isOver.load(ordering: .relaxed) {
                    let start = Int(generator.next() % UInt64(pages - 32))
                    let buffer = UnsafeMutableRawBufferPointer(start: memory, count: 32 * basePageSize)
                    do throws(Errno) { _ = try object.read(into: buffer, at: start * basePageSize) } catch {
                        shared.wrong.withLock { $0.append("\(error)") }
                    }
                    for i in 0..<32 where !Self.isWhole(memory + i * basePageSize, page: start + i, memory + 32 * basePageSize) {
                        shared.wrong.withLock { $0.append("page \(start + i) is torn") }
                    }
                }
            }
        }
        let cleaner = try DedicatedThread("cleaner") {
            while !shared.isOver.load(ordering: .relaxed) { _ = store.cleaner.cleanOne(urgent: true) }
        }
        // What is appended fills segments of a mebibyte; numbers that were taken once more make the difference.
        var generator = SeededGenerator(seed: seed &- 1)
        let run = UnsafeMutableRawPointer.allocate(byteCount: 64 * basePageSize, alignment: 4096)
        defer { run.deallocate() }
        var written = 0
        let deadline = MonotonicTime.now().advanced(milliseconds: 120_000)
        while written / options.segmentBytes < store.core.table.numberLimit + 60, MonotonicTime.now() < deadline {
            let start = Int(generator.next() % UInt64(pages - 64))
            let version = generator.next() | 1
            for i in 0..<64 { Self.make(run + i * basePageSize, page: start + i, version: version) }
            let buffer = UnsafeRawBufferPointer(start: run, count: 64 * basePageSize)
            #expect(try object.write(buffer, at: start * basePageSize, .buffered) == buffer.count)
            // At least a third of each page does not compress.
            written += buffer.count / 3
        }
        shared.isOver.store(true, ordering: .relaxed)
        for thread in readers + [cleaner] { thread.join() }
        #expect(written / options.segmentBytes >= store.core.table.numberLimit + 60, "numbers were not used again")
        let wrong = shared.wrong.withLock { $0 }
        #expect(wrong.isEmpty, "seed \(seed): \(wrong.prefix(5))")
        #expect(store.core.counters.mappingRereads.load(ordering: .relaxed) == 0)
        #expect(store.core.counters.checksumErrors.load(ordering: .relaxed) == 0)
        #expect(try Self.staleMappings(store, memory.path).isEmpty)
        store.close()
    }

    @Test func writesToPartsOfOnePageLoseNothing() throws {
        let directory = try ScratchDirectory()
        var options = PackedOptions()
        options.segmentBytes = 1 << 20
        options.runsInBackground = false
        let store = try PackedStore(directories: [directory.path], options: options)
        let object = try store.create(try #require(StoredObjectID(rawValue: 1)))
        let threads = try (0..<4).map { part in
            try DedicatedThread("part\(part)") {
                for round in 0..<200 {
                    let bytes = [UInt8](repeating: UInt8(part * 50 + round % 50), count: 1024)
                    _ = try? bytes.withBytes { buffer throws(Errno) in try object.write(buffer, at: part * 1024, .buffered) }
                }
            }
        }
        for thread in threads { thread.join() }
        var page = [UInt8](repeating: 0, count: basePageSize)
        _ = try page.withMutableBytes { buffer throws(Errno) in try object.read(into: buffer, at: 0) }
        for part in 0..<4 { #expect(page[part * 1024..<part * 1024 + 1024].allSatisfy { $0 == UInt8(part * 50 + 49) }) }
    }
}
