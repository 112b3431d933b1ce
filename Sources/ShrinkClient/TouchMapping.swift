public import ShrinkLinux
public import ShrinkProtocol
import SystemPackage
import Varlink

/// A pool's memory that may be used without a pin: a page that is out comes back when it is touched.
///
/// The contract, first of all:
/// - Never a zero page where content belongs: a page that can't be had is SIGBUS for whoever touches it. That holds while this object lives.
/// - When the daemon's engine dies or is restarted, threads that touch a missing page wait for the next one and go on; nothing has to be called.
/// - When the daemon is stopped, what could not be brought back is SIGBUS, and the rest is this program's own from then on.
/// - The registration belongs to the client's session. When the client is closed, threads that touch a missing page wait until the mapping is
///   registered with another one (`register(with:)`).
/// - With `reach` user mode, a system call that is given memory whose page is out fails with EFAULT: touch the pages first, or pin.
/// - A child of fork(2) does not have this mapping. mremap(2) and munmap(2) of parts are followed while the daemon lives, and wait for it.
/// - madvise(MADV_DONTNEED, MADV_REMOVE) on it is not allowed, nor is the pool's descriptor used for anything else than this.
/// - Memory that belongs to no object reads as anything.
/// - In a pool of huge pages a touch brings a whole unit of 2 MiB, and waits until a huge page is free for it.
public final class TouchMapping: Sendable {
    /// As it was when the pool was opened.
    public let pool: WirePool
    /// Whether system calls may be given memory whose pages are out.
    public let reach: Userfaults.Reach
    private let memory: MappedMemory
    private let registration: TouchRegistration
    private var userfaults: SharedDescriptor { registration.userfaults }

    fileprivate init(
        _ pool: WirePool, _ memory: consuming MappedMemory, _ userfaults: SharedDescriptor, _ reach: Userfaults.Reach
    ) {
        self.pool = pool
        registration = TouchRegistration(
            RegisterMappingParameters(
                pool: PoolAddress(id: pool.poolId), userfaultFileDescriptor: 0, address: Int(bitPattern: memory.base), offsetBytes: 0,
                lengthBytes: memory.count), userfaults)
        self.memory = memory
        self.reach = reach
    }

    deinit {
        registration.abandon()
        // Unmapping waits for whoever reads the events, so the memory leaves the userfaultfd first; nobody touches it any more.
        let start = UInt(bitPattern: memory.base)
        try? Userfaults.unregister(userfaults.number, start..<start + UInt(memory.count))
    }

    /// Registers the mapping with a client, which does so again with every engine that comes. `mapForTouch` has done it; after `close` of its client the mapping
    /// can be given to another one.
    public func register(with client: ShrinkdClient) throws(ShrinkdError) { try client.register(registration) }

    /// Why touches of missing pages wait: the engine that came last did not take the mapping. Nil if it is served.
    public var registrationFailure: ShrinkdError? { registration.failure }

    /// Ends the registration. From now on the memory may be used only while its objects are pinned.
    public func unregister(from client: ShrinkdClient) throws(ShrinkdError) {
        guard registration.id != nil else { return }
        try client.unregister(registration)
        let start = UInt(bitPattern: memory.base)
        try? Userfaults.unregister(userfaults.number, start..<start + UInt(memory.count))
    }

    /// The object's bytes, as many as were asked for when it was made. Nil if the object is none of this pool.
    public func bytes(of object: WireObject) -> UnsafeMutableRawBufferPointer? {
        guard object.poolId == pool.poolId, object.offsetBytes >= 0, object.sizeBytes >= 0, object.offsetBytes <= memory.count,
            object.sizeBytes <= memory.count - object.offsetBytes
        else { return nil }
        return UnsafeMutableRawBufferPointer(start: memory.base + object.offsetBytes, count: object.sizeBytes)
    }
}

extension ShrinkdClient {
    /// Maps a pool and registers the mapping for touch.
    ///
    /// `systemCalls`: also faults of system calls are to be served, where the machine allows it (`TouchMapping.reach` says what came of it).
    public func mapForTouch(_ address: PoolAddress, systemCalls: Bool = true) throws(ShrinkdError) -> TouchMapping {
        let opened = try call(Methods.openPool, address) { $0.poolFileDescriptor }
        let pool = opened.reply.pool
        let mapping: TouchMapping
        do throws(Errno) {
            let memory = try MappedMemory(sharing: opened.descriptor.number, count: pool.sizeBytes)
            try ProcessMemory.keepFromForks(memory.bytes)
            if systemCalls, let full = fullUserfaults() {
                mapping = TouchMapping(pool, memory, SharedDescriptor(full), .full)
            } else {
                mapping = TouchMapping(pool, memory, SharedDescriptor(try Userfaults.open(.userMode)), .userMode)
            }
        } catch {
            throw ShrinkdError(.system, "pool \(pool.poolName) can't be mapped for touch: \(error)")
        }
        try mapping.register(with: self)
        return mapping
    }

    /// Whichever way is open: the device, the system call, the device from the daemon.
    private func fullUserfaults() -> OwnedDescriptor? {
        if let device = try? Files.open(Userfaults.device, .readWrite), let made = try? Userfaults.open(device: device.number) {
            return made
        }
        if let made = try? Userfaults.open(.full) { return made }
        guard let passed = try? call(Methods.openUserfaultDevice, NoParameters(), descriptor: { $0.deviceFileDescriptor }) else {
            return nil
        }
        return try? Userfaults.open(device: passed.descriptor.number)
    }
}

extension MappedPool {
    /// The pool's memory once more, to be used without accesses. `systemCalls`: as for `ShrinkdClient.mapForTouch`.
    public func mapForTouch(systemCalls: Bool = true) throws(ShrinkdError) -> TouchMapping {
        try client.mapForTouch(PoolAddress(id: pool.poolId), systemCalls: systemCalls)
    }
}
