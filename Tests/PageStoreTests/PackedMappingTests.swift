import ShrinkLinux
import Synchronization
import SystemPackage
import TestSupport
import Testing

@testable import PageStore

/// Segments in memory are read where they lie: the same bytes, and what somebody does to the file under the mapping is an error of its pages only.
@Suite struct PackedMappingTests {
    private static let pages = 1500
    private static let id = StoredObjectID(rawValue: 1)!

    private static func options() -> PackedOptions { .alone(segmentBytes: 1 << 20) }

    /// nil where the machine gives no tmpfs of a test's own.
    private static func memory(_ huge: String? = nil) throws -> ScratchMemoryFileSystem? {
        guard Machine.isRoot else {
            Machine.lacks("root", so: "no tmpfs of a test's own: mapped segments are not tested")
            return nil
        }
        do { return try ScratchMemoryFileSystem(sizeBytes: 64 << 20, options: huge.map { "huge=" + $0 }) } catch {
            guard huge != nil else { throw error }
            Machine.lacks("tmpfs with large pages", so: "mapped segments are tested in small pages only")
            return nil
        }
    }

    private static func content(_ page: Int) -> [UInt8] { contents[page] }

    private static let contents = (0..<pages).map(make)

    /// Every third page is stored as it is.
    private static func make(_ page: Int) -> [UInt8] {
        if page % 24 < 8 { return PagePattern(seed: 5).page(page, zeroEvery: 0) }
        return (0..<basePageSize).map { UInt8(truncatingIfNeeded: $0 / 64 &* 31 &+ page &* 7 &+ $0 % 2) }
    }

    private static func fill(_ object: PackedObject, _ range: Range<Int>) throws {
        for first in stride(from: range.lowerBound, to: range.upperBound, by: 8) {
            let run = (first..<min(first + 8, range.upperBound)).flatMap { content($0) }
            _ = try run.withBytes { bytes throws(Errno) in try object.write(bytes, at: first * basePageSize, .buffered) }
        }
    }

    /// nil: an error.
    private static func read(_ object: PackedObject, _ page: Int) -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: basePageSize)
        let count = try? bytes.withMutableBytes { buffer throws(Errno) in try object.read(into: buffer, at: page * basePageSize) }
        return count == basePageSize ? bytes : nil
    }

    private static func expectContent(_ object: PackedObject) throws {
        for page in 0..<pages where read(object, page) != content(page) { Issue.record("page \(page) is not as written") }
        var all = [UInt8](repeating: 0, count: pages * basePageSize)
        _ = try all.withMutableBytes { buffer throws(Errno) in try object.read(into: buffer, at: 0) }
        #expect(all == (0..<pages).flatMap { content($0) })
    }

    /// This process's mappings of files below a directory, and how much of them it has touched.
    private static func mappings(of path: String) throws -> (count: Int, deleted: Int, residentBytes: Int) {
        var found = (count: 0, deleted: 0, residentBytes: 0)
        var isOurs = false
        for line in String(decoding: try Files.contents(of: "/proc/self/smaps", limit: 64 << 20), as: UTF8.self).split(separator: "\n") {
            let fields = line.split(separator: " ", omittingEmptySubsequences: true)
            if fields.count >= 5, fields[0].contains("-") {
                isOurs = line.contains(path + "/segments/")
                if isOurs { found.count += 1 }
                if isOurs, line.hasSuffix("(deleted)") { found.deleted += 1 }
            } else if isOurs, fields[0] == "Rss:" {
                found.residentBytes += (Int(fields[1]) ?? 0) << 10
            }
        }
        return found
    }

    private static func fact(_ store: PackedStore, _ key: String) -> String? { store.facts().first { $0.key == key }?.value }

    @Test(arguments: [nil, "within_size"]) func aMemoryTierIsReadThroughMappings(_ huge: String?) throws {
        guard let memory = try Self.memory(huge) else { return }
        let store = try PackedStore(directories: [memory.path], options: Self.options())
        let object = try store.create(Self.id)
        try Self.fill(object, 0..<Self.pages)
        #expect(try Self.mappings(of: memory.path).count == 0 && Self.fact(store, "mapped_segments") == "0")
        try Self.expectContent(object)
        let mapped = try Self.mappings(of: memory.path)
        #expect(mapped.count > 2 && Self.fact(store, "mapped_segments") == "\(mapped.count)")
        // All that is stored went through them.
        #expect(mapped.residentBytes >= object.attributes.storedBytes)
        #expect(Self.fact(store, "mapping_rereads") == "0")
        // The segments go, and their mappings with them.
        try object.setSize(0)
        #expect(try Self.mappings(of: memory.path).deleted == 0)
        store.close()
    }

    @Test func aDiskIsNotMapped() throws {
        let scratch = try ScratchDirectory()
        let store = try PackedStore(directories: [scratch.path], options: Self.options())
        // Where tests run in memory there is no disk to test.
        guard !store.core.tiers[0].inMemory else {
            return Machine.lacks("a directory on a disk", so: "that disks are not mapped is not tested")
        }
        let object = try store.create(Self.id)
        try Self.fill(object, 0..<Self.pages)
        try Self.expectContent(object)
        #expect(try Self.mappings(of: scratch.path).count == 0 && Self.fact(store, "mapped_segments") == "0")
        store.close()
    }

    @Test func noMoreAreMappedThanTheLimit() throws {
        guard let memory = try Self.memory() else { return }
        var options = Self.options()
        options.mappedBytesLimit = 2 << 20
        let store = try PackedStore(directories: [memory.path], options: options)
        let object = try store.create(Self.id)
        try Self.fill(object, 0..<Self.pages)
        for page in stride(from: 0, to: Self.pages, by: 7) {
            #expect(Self.read(object, page) == Self.content(page))
            #expect(store.core.table.mappings.load(ordering: .relaxed) <= 2)
        }
        #expect(try Self.mappings(of: memory.path).count <= 2)
        try Self.expectContent(object)
        #expect(Self.fact(store, "mapping_rereads") == "0")
        store.close()
    }

    @Test(arguments: [nil, "within_size"], [0, 8192, 100_000])
    func aSegmentCutShortWhileItIsMappedIsAnErrorOfItsPages(_ huge: String?, _ bytes: Int) throws {
        guard let memory = try Self.memory(huge) else { return }
        let store = try PackedStore(directories: [memory.path], options: Self.options())
        let object = try store.create(Self.id)
        try Self.fill(object, 0..<Self.pages)
        try Self.expectContent(object)
        let geometry = store.core.geometry
        let entries = (0..<Self.pages).map { object.index.pointee.entry($0) }
        // The first that was filled, and the one that is appended to: the others stay whole.
        let cut = Set([entries[0], entries[Self.pages - 1]].map { geometry.segment(of: $0.location) })
        try #require(cut.count == 2)
        let directory = try Files.open(memory.path + "/segments", [.readOnly, .directory])
        for number in cut {
            let file = try Files.open(String(number), .readWrite, at: directory.number)
            try Files.truncate(file.number, to: bytes)
        }
        var errors = 0
        for _ in 0..<2 {
            for page in 0..<Self.pages {
                let entry = entries[page]
                let start = geometry.offset(of: entry.location)
                let read = Self.read(object, page)
                if !cut.contains(geometry.segment(of: entry.location)) || start + entry.length <= bytes {
                    #expect(read == Self.content(page), "page \(page)")
                } else if start >= bytes {
                    #expect(read == nil, "page \(page) should be an error")
                    errors += 1
                } else {
                    #expect(read == nil || read == Self.content(page), "page \(page)")
                }
            }
        }
        #expect(errors > 0 && Self.fact(store, "checksum_errors") != "0")
        // What was lost is no longer read through its mapping; the others are.
        #expect(store.core.table.mappings.load(ordering: .relaxed) > 0)
        for number in cut { #expect(AtomicMemory.load(store.core.table.slot(number).mapping) == SegmentMapping.noneToBeHad) }
        // What is written from now on is there, in the segment that was cut too.
        try Self.fill(object, 0..<200)
        for page in 0..<200 { #expect(Self.read(object, page) == Self.content(page)) }
        store.close()
    }

    /// Threads as a server has them, which read while somebody cuts all segments short again and again and a writer makes good.
    @Test(arguments: [nil, "within_size"]) func segmentsCutShortUnderReadersAreErrorsAndNothingElse(_ huge: String?) throws {
        guard let memory = try Self.memory(huge) else { return }
        let seed = testSeed("packed cut under readers")
        let store = try PackedStore(directories: [memory.path], options: Self.options())
        let object = try store.create(Self.id)
        let pages = 512
        let run = UnsafeMutableRawPointer.allocate(byteCount: 16 * basePageSize, alignment: 4096)
        defer { run.deallocate() }
        var generator = SeededGenerator(seed: seed)
        func write(_ first: Int) throws {
            let version = generator.next() | 1
            for i in 0..<16 { PackedConcurrencyTests.make(run + i * basePageSize, page: first + i, version: version) }
            let buffer = UnsafeRawBufferPointer(start: run, count: 16 * basePageSize)
            #expect(try object.write(buffer, at: first * basePageSize, .buffered) == buffer.count)
        }
        for first in stride(from: 0, to: pages, by: 16) { try write(first) }
        let isOver = Atomic<Bool>(false)
        let right = Atomic<Int>(0)
        let errors = Atomic<Int>(0)
        let wrong = Mutex<[String]>([])
        let directory = try Files.open(memory.path + "/segments", [.readOnly, .directory])
        try withThreads(3) { number in
            var generator = SeededGenerator(seed: seed &+ UInt64(number) &+ 1)
            let bytes = UnsafeMutableRawPointer.allocate(byteCount: 2 * basePageSize, alignment: 4096)
            defer { bytes.deallocate() }
            while !isOver.load(ordering: .relaxed) {
                let page = Int(generator.next() % UInt64(pages))
                do throws(Errno) {
                    _ = try object.read(into: UnsafeMutableRawBufferPointer(start: bytes, count: basePageSize), at: page * basePageSize)
                    let isZeros = isZero(bytes, basePageSize)
                    if isZeros || !PackedConcurrencyTests.isWhole(bytes, page: page, bytes + basePageSize) {
                        wrong.withLock { $0.append("page \(page) is \(isZeros ? "zeros" : "torn")") }
                    }
                    right.add(1, ordering: .relaxed)
                } catch {
                    if error != .ioError { wrong.withLock { $0.append("\(error)") } }
                    errors.add(1, ordering: .relaxed)
                }
            }
        } while: {
            defer { isOver.store(true, ordering: .relaxed) }
            let deadline = MonotonicTime.now().advanced(milliseconds: 60_000)
            var round = 0
            while round < 40 || errors.load(ordering: .relaxed) < 100 || right.load(ordering: .relaxed) < 1000,
                MonotonicTime.now() < deadline
            {
                round += 1
                var names: [String] = []
                try Files.forEachName(in: directory.number) { names.append($0) }
                for name in names {
                    guard let file = try? Files.open(name, .readWrite, at: directory.number) else { continue }
                    let bytes = try Files.status(file.number).sizeBytes
                    try Files.truncate(file.number, to: Int(generator.next() % UInt64(bytes + 1)))
                }
                for first in stride(from: 0, to: pages, by: 16) where generator.next() % 4 != 0 { try write(first) }
            }
        }
        #expect(errors.load(ordering: .relaxed) >= 100 && right.load(ordering: .relaxed) >= 1000)
        let found = wrong.withLock { $0 }
        #expect(found.isEmpty, "seed \(seed): \(found.prefix(5))")
        store.close()
    }

    private func withThreads(_ count: Int, _ body: @escaping @Sendable (Int) -> Void, while work: () throws -> Void) throws {
        let threads = try (0..<count).map { number in try DedicatedThread("reader\(number)") { body(number) } }
        defer { for thread in threads { thread.join() } }
        try work()
    }

    /// The segment dies between the reader's look at it and its mapping: nobody else would take that out of use again.
    @Test func aSegmentThatDiesWhileItIsBeingMappedLeavesNoMappingBehind() throws {
        guard let memory = try Self.memory() else { return }
        let waiting = Waiting()
        var options = Self.options()
        options.beforeMapping = { waiting.take()?() }
        let store = try PackedStore(directories: [memory.path], options: options)
        let object = try store.create(Self.id)
        try Self.fill(object, 0..<Self.pages)
        let number = store.core.geometry.segment(of: object.index.pointee.entry(0).location)
        waiting.put { try? object.setSize(0) }
        store.core.pool.withContext { _ in
            #expect(store.core.table.slot(number).state == .sealed)
            _ = store.core.table.mapped(number, 0..<64)
            #expect(store.core.table.slot(number).state == .retired)
            #expect(AtomicMemory.load(store.core.table.slot(number).mapping) == SegmentMapping.notYet)
        }
        store.core.table.grace.collect()
        #expect(store.core.table.slot(number).state == .free)
        #expect(try Self.mappings(of: memory.path).count == 0 && Self.fact(store, "mapped_segments") == "0")
        store.close()
    }

    /// What is to be done once.
    private final class Waiting: Sendable {
        private let action = Mutex<(@Sendable () -> Void)?>(nil)
        func put(_ new: @escaping @Sendable () -> Void) { action.withLock { $0 = new } }
        func take() -> (@Sendable () -> Void)? {
            action.withLock { action in
                defer { action = nil }
                return action
            }
        }
    }

    /// A mapping that somebody else's writes don't show in: what is read is what the file has.
    @Test func whereAMappingShowsOtherBytesTheFileHasTheLastWord() throws {
        guard let memory = try Self.memory() else { return }
        let store = try PackedStore(directories: [memory.path], options: Self.options())
        let object = try store.create(Self.id)
        try Self.fill(object, 0..<64)
        let number = store.core.geometry.segment(of: object.index.pointee.entry(0).location)
        let mapped = try store.core.pool.withContext { _ in try #require(store.core.table.mapped(number, 0..<64)) }
        let name = memory.path + "/segments/\(number)"
        let whole = try Files.contents(of: name)
        let file = try Files.open(name, .readWrite)
        try Files.truncate(file.number, to: 0)
        readByte(mapped)
        _ = whole.withUnsafeBytes { Files.write(file.number, $0, at: 0) }
        for page in 0..<64 { #expect(Self.read(object, page) == Self.content(page)) }
        #expect(Self.fact(store, "mapping_rereads") == "1" && Self.fact(store, "checksum_errors") == "0")
        store.close()
    }
}
