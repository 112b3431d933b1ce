import ShrinkLinux
import SystemPackage

// The ledger of one pool: who owns which range, and where each page is. It lives in a memory file of its own, apart from client
// memory, so that no client can write it, and it is handed from one engine process to the next.
//
//   header   one page: magic, version, geometry, owner, name
//   records  128 bytes an object slot; state is written last when a record is made, first when it goes
//   words    8 bytes a pool page (PageWord), which is 4 KiB or 2 MiB as the header's page size says
//
// The file is sparse: an untouched region costs nothing. All fields are native-endian; the file never leaves the machine.

/// One slot of the record table.
struct ObjectRecord {
    enum State {
        static let free: UInt32 = 0
        static let live: UInt32 = 1
        /// Being destroyed, or not made whole yet: whoever finds it finishes the end.
        static let dying: UInt32 = 2
    }

    static let stride = 128
    private let base: UnsafeMutableRawPointer

    init(_ base: UnsafeMutableRawPointer) { self.base = base }

    private func field(_ offset: Int) -> UnsafeMutablePointer<UInt32> { (base + offset).assumingMemoryBound(to: UInt32.self) }

    var state: UInt32 {
        get { SharedWord32(field(0)).load() }
        nonmutating set { SharedWord32(field(0)).store(newValue) }
    }
    var id: UInt32 {
        get { field(4).pointee }
        nonmutating set { field(4).pointee = newValue }
    }
    var firstPage: UInt32 {
        get { field(8).pointee }
        nonmutating set { field(8).pointee = newValue }
    }
    var pageCount: UInt32 {
        get { field(12).pointee }
        nonmutating set { field(12).pointee = newValue }
    }
    var priority: UInt32 {
        get { field(16).pointee }
        nonmutating set { field(16).pointee = newValue }
    }
    /// What the owner wants of the content (`BufferObject.Content`); set before the first page goes.
    var content: BufferObject.Content {
        get { BufferObject.Content(rawValue: UInt8(truncatingIfNeeded: SharedWord32(field(20)).load())) ?? .kept }
        nonmutating set { SharedWord32(field(20)).store(UInt32(newValue.rawValue)) }
    }
    /// Bytes asked for; the rest of the last page is the object's too.
    var sizeBytes: UInt64 {
        get { (base + 24).assumingMemoryBound(to: UInt64.self).pointee }
        nonmutating set { (base + 24).assumingMemoryBound(to: UInt64.self).pointee = newValue }
    }
    /// How often the content was given up and made zeros.
    var purgeGeneration: UInt32 {
        get { SharedWord32(field(32)).load() }
        nonmutating set { SharedWord32(field(32)).store(newValue) }
    }
    /// 1: leased (`Engine.setLease`).
    var lease: UInt32 {
        get { SharedWord32(field(36)).load() }
        nonmutating set { SharedWord32(field(36)).store(newValue) }
    }
    var name: String {
        get { readName(base + 40) }
        nonmutating set { writeName(newValue, base + 40) }
    }
}

/// Length byte, then UTF-8. `EngineLimits.nameBytes` fit.
private func readName(_ p: UnsafeMutableRawPointer) -> String {
    let length = min(Int(p.load(as: UInt8.self)), EngineLimits.nameBytes)
    return String(decoding: UnsafeRawBufferPointer(start: p + 1, count: length), as: UTF8.self)
}

private func writeName(_ name: String, _ p: UnsafeMutableRawPointer) {
    let bytes = Array(name.utf8.prefix(EngineLimits.nameBytes))
    p.storeBytes(of: UInt8(bytes.count), as: UInt8.self)
    for (i, byte) in bytes.enumerated() { p.storeBytes(of: byte, toByteOffset: 1 + i, as: UInt8.self) }
}

final class Ledger: Sendable {
    static let magic: UInt64 = 0x3152_4744_4c4b_5253
    static let version: UInt32 = 1

    /// What a pool is; fixed when it is made.
    struct Geometry: Sendable, Equatable {
        var pageSize: Int
        var pageCount: Int
        var recordCapacity: Int

        /// Base pages of one page.
        var unitPages: Int { pageSize / basePageSize }
        var recordsOffset: Int { basePageSize }
        var wordsOffset: Int { (recordsOffset + recordCapacity * ObjectRecord.stride + basePageSize - 1) & ~(basePageSize - 1) }
        var fileBytes: Int { wordsOffset + pageCount * 8 }

        init(pageSize: Int, pageCount: Int) {
            self.pageSize = pageSize
            self.pageCount = pageCount
            recordCapacity = min(pageCount, EngineLimits.objectsPerPool)
        }
    }

    let geometry: Geometry
    let descriptor: SharedDescriptor
    private let memory: MappedMemory

    /// A new, empty ledger.
    init(geometry: Geometry, pool: PoolID, owner: UInt32, name: String) throws(EngineError) {
        self.geometry = geometry
        do throws(Errno) {
            let file = try MemoryFile.makeSealed("shrinkd-ledger", size: geometry.fileBytes)
            memory = try MappedMemory(sharing: file.number, count: geometry.fileBytes)
            descriptor = SharedDescriptor(file)
        } catch {
            throw EngineError(
                .outOfMemory, "no memory for the ledger of a pool of \(geometry.pageCount) pages; make a smaller pool", errno: error)
        }
        let h = memory.base
        h.storeBytes(of: Self.version, toByteOffset: 8, as: UInt32.self)
        h.storeBytes(of: UInt32(geometry.pageSize), toByteOffset: 12, as: UInt32.self)
        h.storeBytes(of: UInt64(geometry.pageCount), toByteOffset: 16, as: UInt64.self)
        h.storeBytes(of: UInt64(geometry.recordCapacity), toByteOffset: 24, as: UInt64.self)
        h.storeBytes(of: pool.rawValue, toByteOffset: 32, as: UInt32.self)
        h.storeBytes(of: owner, toByteOffset: 36, as: UInt32.self)
        writeName(name, h + 40)
        // The magic last: a ledger that died young is not one.
        SharedWord(h.assumingMemoryBound(to: UInt64.self)).store(Self.magic)
    }

    /// A ledger that an earlier engine left.
    init(reopening file: consuming OwnedDescriptor) throws(EngineError) {
        do throws(Errno) {
            let size = try Files.status(file.number).sizeBytes
            guard size >= basePageSize else { throw Errno.invalidArgument }
            memory = try MappedMemory(sharing: file.number, count: size)
            descriptor = SharedDescriptor(file)
        } catch {
            throw EngineError(.foreignLedger, "the memory file is no ledger; start without it", errno: error)
        }
        let h = memory.base
        let version = h.load(fromByteOffset: 8, as: UInt32.self)
        guard SharedWord(h.assumingMemoryBound(to: UInt64.self)).load() == Self.magic, version == Self.version else {
            throw EngineError(
                .foreignLedger, "the ledger has version \(version), this engine reads \(Self.version); start the version that wrote it")
        }
        let geometry = Geometry(
            pageSize: Int(h.load(fromByteOffset: 12, as: UInt32.self)),
            pageCount: Int(clamping: h.load(fromByteOffset: 16, as: UInt64.self)))
        guard geometry.pageSize == basePageSize || geometry.pageSize == HugeMemory.unitBytes, geometry.pageCount > 0,
            geometry.pageCount <= EngineLimits.pagesPerPool,
            geometry.recordCapacity == Int(clamping: h.load(fromByteOffset: 24, as: UInt64.self)), geometry.fileBytes == memory.count
        else { throw EngineError(.foreignLedger, "the ledger's size does not fit its geometry; it is damaged") }
        self.geometry = geometry
    }

    var pool: PoolID { PoolID(rawValue: memory.base.load(fromByteOffset: 32, as: UInt32.self)) }
    var owner: UInt32 { memory.base.load(fromByteOffset: 36, as: UInt32.self) }
    var name: String { readName(memory.base + 40) }

    /// Each is stored as one more than it is; 0 is none.
    var limits: PoolLimits {
        get {
            let words = (memory.base + 112).assumingMemoryBound(to: UInt64.self)
            return PoolLimits(
                objects: words[0] == 0 ? nil : Int(clamping: words[0] - 1),
                backedUpBytes: words[1] == 0 ? nil : ByteCount(Int(clamping: words[1] - 1)))
        }
        set {
            let words = (memory.base + 112).assumingMemoryBound(to: UInt64.self)
            words[0] = newValue.objects.map { UInt64(clamping: $0) + 1 } ?? 0
            words[1] = newValue.backedUpBytes.map { UInt64(clamping: $0.rawValue) + 1 } ?? 0
        }
    }

    func record(_ index: Int) -> ObjectRecord {
        precondition(index >= 0 && index < geometry.recordCapacity, "record beyond the ledger")
        return ObjectRecord(memory.base + geometry.recordsOffset + index * ObjectRecord.stride)
    }

    /// Takes the memory of an object's words and record now, when it is made: on the way out nothing may be allocated.
    func populate(record index: Int, firstPage: Int, count: Int) throws(EngineError) {
        do throws(Errno) {
            try Files.allocate(
                descriptor.number, mode: 0, at: geometry.recordsOffset + index * ObjectRecord.stride, length: ObjectRecord.stride)
            try Files.allocate(descriptor.number, mode: 0, at: geometry.wordsOffset + firstPage * 8, length: count * 8)
        } catch {
            throw EngineError(.outOfMemory, "no memory for the page words of an object of \(count) pages; make a smaller one", errno: error)
        }
    }

    /// The words of the object that has these pages of the pool.
    func table(firstPage: Int, count: Int) -> PageTable {
        precondition(firstPage >= 0 && count > 0 && firstPage + count <= geometry.pageCount, "range beyond the pool")
        return PageTable(base: (memory.base + geometry.wordsOffset + firstPage * 8).assumingMemoryBound(to: UInt64.self), count: count)
    }
}
