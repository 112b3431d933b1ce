import ShrinkLinux
public import ShrinkProtocol
import SystemPackage

/// What a pool's memory consists of.
public enum PoolPageKind: Sendable, Equatable {
    /// Pages of 4096 bytes.
    case base
    /// Huge pages of 2 MiB: sizes of pools and places of objects are whole ones, and they go out and come back whole.
    case huge

    public var bytes: Int { self == .base ? 4096 : 2 << 20 }
}

/// A pool, opened and mapped.
///
/// The mapping is shared with the daemon and everybody else who has the pool. Touch an object's range only while it is pinned.
public final class PoolMemory: Sendable {
    /// As it was when the pool was opened.
    public let pool: WirePool
    private let memory: MappedMemory

    private init(_ pool: WirePool, _ memory: consuming MappedMemory) {
        self.pool = pool
        self.memory = memory
    }

    fileprivate convenience init(_ opened: consuming DescriptorReply<PoolReply>) throws(ShrinkdError) {
        let pool = opened.reply.pool
        do throws(Errno) {
            self.init(pool, try MappedMemory(sharing: opened.descriptor.number, count: pool.sizeBytes))
        } catch {
            throw ShrinkdError(.system, "cannot map the \(pool.sizeBytes) bytes of pool \(pool.poolName): \(error)")
        }
    }

    /// The whole mapping.
    var all: UnsafeMutableRawBufferPointer { memory.bytes }

    /// The object's bytes, as many as were asked for when it was made. Valid for reading and writing while the object is pinned by this process.
    /// Nil if the object is none of this pool.
    public func bytes(of object: WireObject) -> UnsafeMutableRawBufferPointer? {
        guard object.poolId == pool.poolId, object.offsetBytes >= 0, object.sizeBytes >= 0, object.offsetBytes <= memory.count,
            object.sizeBytes <= memory.count - object.offsetBytes
        else { return nil }
        return UnsafeMutableRawBufferPointer(start: memory.base + object.offsetBytes, count: object.sizeBytes)
    }
}

extension ShrinkdClient {
    /// Makes a pool of the caller's uid and maps it. `sizeBytes` is a multiple of the page.
    ///
    /// - Throws: `outOfMemory` if huge pages are wanted and the machine has none set aside.
    public func createPool(_ name: String, sizeBytes: Int, pages: PoolPageKind = .base) throws(ShrinkdError) -> PoolMemory {
        let parameters = CreatePoolParameters(poolName: name, sizeBytes: sizeBytes, huge: pages == .huge ? true : nil)
        return try PoolMemory(try call(Methods.createPool, parameters) { $0.poolFileDescriptor })
    }

    /// Maps a pool that is there.
    public func openPool(_ address: PoolAddress) throws(ShrinkdError) -> PoolMemory {
        try PoolMemory(try call(Methods.openPool, address) { $0.poolFileDescriptor })
    }

    /// Reads a range of an object without changing any page's state: at most 4 MiB, less at the object's end.
    public func read(_ objectID: Int, at offset: Int, length: Int) throws(ShrinkdError) -> [UInt8] {
        let parameters = ReadObjectParameters(objectId: objectID, offsetBytes: offset, lengthBytes: length)
        let copy = try call(Methods.readObject, parameters) { $0.contentFileDescriptor }
        guard copy.reply.lengthBytes >= 0, copy.reply.lengthBytes <= length else {
            throw ShrinkdError(.protocolViolation, "shrinkd sent \(copy.reply.lengthBytes) bytes where \(length) were asked for")
        }
        var bytes = [UInt8](repeating: 0, count: copy.reply.lengthBytes)
        let fd = copy.descriptor.number
        do throws(Errno) {
            let n = try bytes.withMutableBytes { (buffer) throws(Errno) in try Files.read(fd, into: buffer, at: 0) }
            if n == bytes.count { return bytes }
        } catch {
            throw ShrinkdError(.system, "cannot read the copy: \(error)")
        }
        throw ShrinkdError(.protocolViolation, "shrinkd's copy is shorter than it says")
    }
}
