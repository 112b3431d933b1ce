import Glibc
import PackedWorkload
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@testable import PageStore

/// On a tmpfs that has large pages (`huge=within_size`) segments consist of them, and waste little for that.
@Suite(.serialized) struct PackedHugePageTests {
    static let id = StoredObjectID(rawValue: 1)!

    /// nil where the machine gives no tmpfs with large pages.
    private static func memory(sizeBytes: Int) throws -> ScratchMemoryFileSystem? {
        guard Machine.isRoot else {
            Machine.lacks("root", so: "no tmpfs of a test's own: segments in large pages are not tested")
            return nil
        }
        guard let memory = try? ScratchMemoryFileSystem(sizeBytes: sizeBytes, options: "huge=within_size") else {
            Machine.lacks("tmpfs with large pages", so: "segments in large pages are not tested")
            return nil
        }
        return memory
    }

    static func options() -> PackedOptions { .alone(segmentBytes: 4 << 20) }

    private static func fact(_ store: PackedStore, _ key: String) -> String? { store.facts().first { $0.key == key }?.value }

    /// No two pages alike, and none that compresses.
    static func write(_ object: PackedObject, pages: Int) throws {
        for first in stride(from: 0, to: pages, by: 8) {
            let run = (first..<first + 8).flatMap { PagePattern(seed: 9).page($0, zeroEvery: 0) }
            _ = try run.withBytes { bytes throws(Errno) in try object.write(bytes, at: first * basePageSize, .buffered) }
        }
    }

    static func wrongPages(_ object: PackedObject, pages: Int) throws -> [Int] {
        var bytes = [UInt8](repeating: 0, count: basePageSize)
        return try (0..<pages).filter { page in
            _ = try bytes.withMutableBytes { buffer throws(Errno) in try object.read(into: buffer, at: page * basePageSize) }
            return bytes != PagePattern(seed: 9).page(page, zeroEvery: 0)
        }
    }

    /// Bytes of this process's mappings below a directory that are mapped by large pages.
    private static func mappedByLargePages(below path: String) throws -> Int {
        var sum = 0
        var isOurs = false
        for line in String(decoding: try Files.contents(of: "/proc/self/smaps", limit: 64 << 20), as: UTF8.self).split(separator: "\n") {
            let fields = line.split(separator: " ", omittingEmptySubsequences: true)
            if fields.count >= 5, fields[0].contains("-") { isOurs = line.contains(path + "/segments/") }
            if isOurs, fields[0] == "ShmemPmdMapped:" { sum += (Int(fields[1]) ?? 0) << 10 }
        }
        return sum
    }

    /// Whether a file of 32 MiB that is made there gets large pages only.
    private static func givesLargePages(_ memory: ScratchMemoryFileSystem) throws -> Bool {
        let directory = memory.path + "/probe/segments"
        for path in [memory.path + "/probe", directory] { try Files.makeDirectory(path) }
        let file = try Files.open(directory + "/probe", [.readWrite, .create])
        try Files.truncate(file.number, to: 32 << 20)
        try Files.allocate(file.number, mode: 0, at: 0, length: 32 << 20)
        let mapping = try MappedMemory(sharing: file.number, count: 32 << 20)
        for offset in stride(from: 0, to: 32 << 20, by: 2 << 20) { readByte(mapping.base + offset) }
        let large = try mappedByLargePages(below: memory.path + "/probe")
        let opened = try Files.open(directory, [.readOnly, .directory])
        try Files.remove("probe", at: opened.number)
        return large == 32 << 20
    }

    private static func allocatedBytes(below path: String) throws -> (segments: Int, bytes: Int) {
        let directory = try Files.open(path + "/segments", [.readOnly, .directory])
        var found = (segments: 0, bytes: 0)
        var names: [String] = []
        try Files.forEachName(in: directory.number) { names.append($0) }
        for name in names {
            found.segments += 1
            found.bytes += try Files.status(of: name, at: directory.number).allocatedBytes
        }
        return found
    }

    @Test func segmentsConsistOfLargePagesAndWasteLittle() throws {
        guard let memory = try Self.memory(sizeBytes: 128 << 20) else { return }
        let store = try PackedStore(directories: [memory.path], options: Self.options())
        #expect(Self.fact(store, "huge_segments") == "yes")
        let object = try store.create(Self.id)
        let pages = 8192
        try Self.write(object, pages: pages)
        #expect(try Self.wrongPages(object, pages: pages) == [])
        let large = try Self.mappedByLargePages(below: memory.path)
        if try Self.givesLargePages(memory) {
            // Of every segment that is full, the last large page too.
            #expect(large >= object.attributes.storedBytes * 3 / 4, "\(large) bytes are mapped by large pages")
        } else {
            Machine.lacks("free memory in pieces of 2 MiB", so: "that segments are in large pages was not seen")
        }
        // A sealed segment ends at most a block before its full length; an open one, of the first writers, has a large page and half a run ahead at most.
        let used = try Self.allocatedBytes(below: memory.path)
        let stored = object.attributes.storedBytes
        #expect(used.bytes <= stored + used.segments * (4 << 20) / 64 + RunReserve.firstWriters * ((2 << 20) + RunReserve.runBytes / 2))
        // All comes back to the file system with the pages.
        try object.setSize(0)
        store.core.table.grace.collect()
        #expect(try Self.allocatedBytes(below: memory.path).bytes <= RunReserve.firstWriters * (4 << 20))
        store.close()
        #expect(try Self.allocatedBytes(below: memory.path).bytes == 0)
    }

    @Test func anOrdinaryTmpfsHasSmallOnes() throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "no tmpfs of a test's own: segments in memory are not tested") }
        let memory = try ScratchMemoryFileSystem(sizeBytes: 64 << 20)
        let store = try PackedStore(directories: [memory.path], options: Self.options())
        #expect(Self.fact(store, "huge_segments")?.hasPrefix("no: the store's tmpfs has small pages only") == true)
        let object = try store.create(Self.id)
        try Self.write(object, pages: 64)
        for context in store.core.pool.contexts where context.open[0].number >= 0 { #expect(!context.open[0].isFullLength) }
        store.close()
    }

    /// A large page taken for a small need could be the memory that the next one needs: who runs short does without, and is told when nothing is left.
    @Test func whenMemoryGetsShortSegmentsGrowInSmallOnes() async throws {
        guard let memory = try Self.memory(sizeBytes: 128 << 20) else { return }
        guard let group = try? MemoryGroup.make("-large"), group.killed != nil else {
            return Machine.lacks("a writable memory cgroup (version 1)", so: "segments of large pages are not tested without memory")
        }
        defer { group.remove() }
        await #expect(processExitsWith: .success) { [path = group.path as String, store = memory.path as String] in
            let group = MemoryGroup(path: path)
            try group.enter()
            let store = try PackedStore(directories: [store], options: PackedHugePageTests.options())
            let object = try store.create(PackedHugePageTests.id)
            try PackedHugePageTests.write(object, pages: 8)
            func open() -> [(number: Int, isFullLength: Bool)] {
                store.core.pool.contexts.map { ($0.open[0].number, $0.open[0].isFullLength) }.filter { $0.0 >= 0 }
            }
            guard open().contains(where: { $0.isFullLength }) else { throw Errno.invalidArgument }
            for _ in 0..<3 { try? group.dropCaches() }
            // Less than what is called plenty (64 MiB), and a look that is new.
            try group.limit(try group.usageBytes + (24 << 20))
            let rested = MonotonicTime.now().advanced(milliseconds: 30)
            while MonotonicTime.now() < rested { sched_yield() }
            // More than its first large page holds, and less than the segment.
            try PackedHugePageTests.write(object, pages: 480)
            let written = open().filter { store.core.table.slot($0.number).livePages > 0 }
            guard !written.isEmpty, written.allSatisfy({ !$0.isFullLength }) else { throw Errno.noMemory }
            guard try PackedHugePageTests.wrongPages(object, pages: 480) == [] else { throw Errno.ioError }
            store.close()
        }
        #expect(group.killed == 0)
    }

    /// What a full tier has ahead in its open segments is given back before a write fails.
    @Test func aFullTierTakesAllThatFits() throws {
        guard let memory = try Self.memory(sizeBytes: 32 << 20) else { return }
        let store = try PackedStore(directories: [memory.path], options: Self.options())
        let object = try store.create(Self.id)
        var pages = 0
        let failure = #expect(throws: Errno.self) {
            while true {
                let run = (pages..<pages + 8).flatMap { PagePattern(seed: 9).page($0, zeroEvery: 0) }
                let count = try run.withBytes { bytes throws(Errno) in try object.write(bytes, at: pages * basePageSize, .buffered) }
                guard count == bytes(of: 8) else { throw Errno.noSpace }
                pages += 8
            }
        }
        #expect(failure == .noSpace)
        // Of 32 MiB the reserve has 4. The two writers that wrote nothing had a large page each, which is 24.
        #expect(pages * basePageSize >= 26 << 20, "\(pages) pages")
        #expect(try Self.wrongPages(object, pages: pages) == [])
        // There is room again where pages went.
        try object.punch(at: 0, length: pages / 2 * basePageSize)
        for _ in 0..<16 { _ = store.cleanOneSegment() }
        try Self.write(object, pages: pages / 4)
        #expect(try Self.wrongPages(object, pages: pages / 4) == [])
        store.close()
    }

    /// Of full length, with a part of it lost and the rest alive: what is alive stays so, also when it moves.
    @Test func whatLiesBehindAHoleIsThereAfterAReopenAndAMove() throws {
        guard let memory = try Self.memory(sizeBytes: 64 << 20) else { return }
        let disk = try ScratchDirectory()
        let pages = 960
        let hole = (first: 1 << 20, last: 2 << 20)
        do {
            let store = try PackedStore(directories: [memory.path], options: Self.options())
            try Self.write(try store.create(Self.id), pages: pages)
            store.close()
        }
        let name = try #require(
            (0..<8).map { memory.path + "/segments/\($0)" }.max {
                (try? Files.status(of: $0).sizeBytes) ?? 0 < (try? Files.status(of: $1).sizeBytes) ?? 0
            })
        let file = try Files.open(name, .readWrite)
        try Files.punch(file.number, at: hole.first, length: hole.last - hole.first)
        // As it is while it grows.
        try Files.truncate(file.number, to: 4 << 20)
        for _ in 0..<2 {
            let store = try PackedStore(directories: [memory.path, disk.path], options: Self.options())
            let object = try #require(try store.object(Self.id))
            var bytes = [UInt8](repeating: 0, count: basePageSize)
            var lost = 0
            for page in 0..<pages {
                let entry = object.index.pointee.entry(page)
                let start = store.core.geometry.offset(of: entry.location)
                let count = try? bytes.withMutableBytes { buffer throws(Errno) in try object.read(into: buffer, at: page * basePageSize) }
                let isRight = count == basePageSize && bytes == PagePattern(seed: 9).page(page, zeroEvery: 0)
                if start >= hole.last || start + entry.length <= hole.first {
                    #expect(isRight, "page \(page)")
                } else if start >= hole.first, start + entry.length <= hole.last {
                    lost += 1
                    #expect(count == nil, "page \(page)")
                } else {
                    #expect(count == nil || isRight, "page \(page)")
                }
            }
            #expect(lost > 200 && lost < 300, "\(lost)")
            // It goes to the disk as it is, and is read from there the second time.
            try object.sync()
            store.close()
        }
    }

    private func bytes(of pages: Int) -> Int { pages * basePageSize }

    @Test(arguments: [
        KillPoint.segmentFileMade, .segmentHeaderWritten, .bytesWritten, .entriesPublished, .segmentRetired, .segmentUnlinked,
    ])
    func aKillLosesNothingThatWasAnswered(_ point: KillPoint) throws {
        guard try Self.memory(sizeBytes: 256 << 20) != nil else { return }
        try PackedCrashTests.killAtPassings([1, 3, 20], of: point) { passing, seed in
            let memory = try #require(try Self.memory(sizeBytes: 256 << 20))
            return try PackedCrashTests.isKilled(
                at: point, passing: passing, seed, objectBytes: 4 << 20, operations: 300, segmentBytes: 2 << 20, [memory.path])
        }
    }
}
