import ShrinkLinux
import Synchronization
import SystemPackage
import TestSupport
import Testing

@testable import PageStore

/// What the cleaner leaves behind is called damage only if it is.
@Suite struct PackedLeftBehindTests {
    private final class Reports: Sendable {
        let lines = Mutex<[String]>([])
    }

    private static func random(_ seed: UInt64) -> [UInt8] {
        var generator = SeededGenerator(seed: seed)
        return (0..<basePageSize).map { _ in UInt8(truncatingIfNeeded: generator.next()) }
    }

    /// Two objects page by page in one sealed segment, and what the store reports.
    private static func twoObjects(_ path: String) throws -> (PackedStore, [PackedObject], Reports) {
        let reports = Reports()
        var options = PackedOptions()
        options.segmentBytes = 1 << 20
        options.deadSharePercent = 20
        options.runsInBackground = false
        options.report = { line in reports.lines.withLock { $0.append(line) } }
        let store = try PackedStore(directories: [path], options: options)
        let objects = try [1, 2].map { try store.create(try #require(StoredObjectID(rawValue: $0))) }
        for page in 0..<100 {
            for (i, object) in objects.enumerated() {
                _ = try random(UInt64(page * 2 + i)).withBytes { buffer throws(Errno) in
                    try object.write(buffer, at: page * basePageSize, .buffered)
                }
            }
        }
        for context in store.core.pool.contexts {
            store.core.pool.withContext(of: context.slot) { store.core.sealOpen($0, 0) }
        }
        return (store, objects, reports)
    }

    private static func sealed(_ store: PackedStore) -> [SegmentTable.Slot] {
        (0..<store.core.table.numberLimit).map { store.core.table.slot($0) }.filter { $0.state == .sealed && $0.livePages > 0 }
    }

    private static func isRight(_ object: PackedObject, page: Int, _ seed: UInt64) throws -> Bool {
        var bytes = [UInt8](repeating: 0, count: basePageSize)
        _ = try bytes.withMutableBytes { buffer throws(Errno) in try object.read(into: buffer, at: page * basePageSize) }
        return bytes == random(seed)
    }

    /// `zeros`: behind the blocks, as a segment of full length in memory has them that was open when its server was killed.
    @Test(arguments: [false, true]) func pagesOfARemovedObjectThatIsOpenAreNoDamage(_ zeros: Bool) throws {
        if zeros, !Machine.isRoot { return Machine.lacks("root", so: "a memory tier is not tested") }
        let directory = try ScratchDirectory()
        let memory = zeros ? try ScratchMemoryFileSystem(sizeBytes: 64 << 20) : nil
        var (store, objects, reports) = try Self.twoObjects(memory?.path ?? directory.path)
        if zeros {
            for number in 0..<store.core.table.numberLimit where store.core.table.slot(number).state == .sealed {
                let slot = store.core.table.slot(number)
                try store.core.pool.withContext { _ throws(Errno) in
                    try Files.truncate(try store.core.table.descriptor(number), to: store.segmentBytes)
                }
                slot.usedBytes = store.segmentBytes
            }
        }
        try store.remove(objects[1].id)
        try objects[0].punch(at: 0, length: 90 * basePageSize)
        // The first object's remaining pages move; the second's can't.
        #expect(!store.cleanOneSegment())
        #expect(!store.cleanOneSegment(), "nothing died since")
        let left = Self.sealed(store).filter { $0.livePages == 100 }
        #expect(left.count == 1)
        for slot in left { slot.leftBehind.at &-= 100 }
        _ = store.cleanOneSegment()
        #expect(left.allSatisfy { !$0.isDamaged })
        #expect(reports.lines.withLock { $0 } == [])
        for page in 90..<100 { #expect(try Self.isRight(objects[0], page: page, UInt64(page * 2))) }
        for page in 0..<100 { #expect(try Self.isRight(objects[1], page: page, UInt64(page * 2 + 1))) }
        // With its last user the object's pages die, and the segment with them.
        objects.removeLast()
        store.core.table.grace.collect()
        #expect(left.allSatisfy { (slot: SegmentTable.Slot) in slot.state == .free })
        store.close()
    }

    @Test func aBlockThatCannotBeReadIsSaidOnce() throws {
        let directory = try ScratchDirectory()
        let (store, objects, reports) = try Self.twoObjects(directory.path)
        try objects[0].punch(at: 0, length: 90 * basePageSize)
        let segment = store.core.geometry.segment(of: objects[1].index.pointee.entry(50).location)
        let offset = store.core.geometry.offset(of: objects[1].index.pointee.entry(50).location)
        var zero: UInt64 = 0
        let fd = try store.core.table.descriptor(segment)
        #expect(withUnsafeBytes(of: &zero) { Files.write(fd, $0, at: offset).error } == nil)
        #expect(!store.cleanOneSegment())
        let slot = store.core.table.slot(segment)
        #expect(reports.lines.withLock { $0 } == [], "it may have been pages dying just then")
        for _ in 0..<2 {
            slot.leftBehind.at &-= 100
            _ = store.cleanOneSegment()
        }
        #expect(slot.isDamaged)
        #expect(reports.lines.withLock { $0.count } == 1)
        #expect(reports.lines.withLock { $0.first?.contains("can't be read") } == true)
        // What lies before it and behind it reads still.
        for page in 0..<100 where page != 50 { #expect(try Self.isRight(objects[1], page: page, UInt64(page * 2 + 1))) }
        store.close()
    }
}

@Suite struct SegmentDescriptorTests {
    private static func openSegments(below path: String) throws -> Int {
        let directory = try Files.open("/proc/self/fd", [.readOnly, .directory])
        var count = 0
        try Files.forEachName(in: directory.number) { name in
            if let target = try? Files.resolved("/proc/self/fd/" + name), target.hasPrefix(path + "/"), target.contains("/segments/") {
                count += 1
            }
        }
        return count
    }

    /// Segments of a memory tier are never synced; their descriptors are closed all the same when there are many.
    @Test func descriptorsStayBelowTheLimitAlsoInMemory() throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "a memory tier is not tested") }
        let memory = try ScratchMemoryFileSystem(sizeBytes: 64 << 20)
        try withExtendedLifetime(memory) {
            var options = PackedOptions()
            options.segmentBytes = 1 << 20
            options.runsInBackground = false
            let store = try PackedStore(directories: [memory.path], options: options)
            #expect(store.core.tiers[0].inMemory)
            let table = try SegmentTable(
                geometry: store.core.geometry, identity: store.core.identity, tiers: store.core.tiers, pins: WorkerPool.size,
                descriptorLimit: 16, mappingLimit: 1, beforeMapping: nil)
            // What opening made is the store's table's.
            _ = try runProgram("/usr/bin/find", [memory.path + "/segments", "-type", "f", "-delete"])
            var numbers: [Int] = []
            for _ in 0..<200 {
                let number = try table.make(tier: 0)
                table.slot(number).addLive(pages: 1, bytes: 64)
                table.seal(number)
                table.grace.collect()
                numbers.append(number)
                #expect(try Self.openSegments(below: memory.path) <= 17)
            }
            for number in numbers.shuffled() {
                #expect(table.isReadable(number))
                table.grace.collect()
                #expect(try Self.openSegments(below: memory.path) <= 17)
            }
            store.close()
        }
    }
}

extension SegmentTable {
    fileprivate func isReadable(_ number: Int) -> Bool {
        var header = [UInt8](repeating: 0, count: Self.headerBytes)
        guard let fd = try? descriptor(number) else { return false }
        let got = header.withUnsafeMutableBytes { try? Files.read(fd, into: $0, at: 0) }
        return got == Self.headerBytes && header.withUnsafeBytes { isHeader($0.baseAddress!, of: number) }
    }
}
