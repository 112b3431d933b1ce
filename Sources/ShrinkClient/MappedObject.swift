import ShrinkLinux
public import ShrinkProtocol
import Synchronization

/// A buffer object of a `MappedPool`.
///
/// Use its bytes only while an access is begun (see `MappedPool` for the contract). While all of it is in memory an access costs two atomic
/// operations and no system call; otherwise beginning one brings its pages back first, which may take as long as reading them takes.
///
/// Purgeable objects follow the contract of Apple's NSPurgeableData: they are born accessed, an access keeps the content, and beginning one
/// says whether the content is still there. If it is not, the bytes are all zeros and the program makes its content anew.
public final class MappedObject: Sendable {
    /// As it was when the object was opened.
    public let info: WireObject
    public var objectID: Int { info.objectId }
    private let pool: MappedPool
    private let gates: GateMemory
    private let gate: Gate
    private let pinGuard: PinGuard?
    private let start: SharedPointer
    /// The content's generation that this client last heard of.
    private let seen: Atomic<UInt32>

    init(_ pool: MappedPool, _ gates: GateMemory, _ gate: Gate, _ reply: AttachGateReply, _ bytes: UnsafeMutableRawBufferPointer) {
        self.pool = pool
        self.gates = gates
        self.gate = gate
        pinGuard = pool.pinGuard
        info = reply.bufferObject
        start = SharedPointer(address: bytes.baseAddress)
        seen = Atomic(UInt32(truncatingIfNeeded: reply.purgeGeneration))
        // One that is new is accessed already.
        if let pinGuard { pinGuard.follow(gate, bytes) }
    }

    deinit { gates.letGo(info.objectId) }

    /// Where the mapping is; Sendable, as whoever shares it brings the order.
    private struct SharedPointer: @unchecked Sendable {
        let address: UnsafeMutableRawPointer?
    }

    // MARK: Accesses

    /// Begins an access, waiting until the object's pages are back if need be. Accesses count; each needs an `endAccess`.
    ///
    /// - Returns: whether the content is still there. False is said once to each client, however many have the object: its bytes are zeros now.
    /// - Throws: `damaged` if the backup has lost a page (never zeros in its place), `outOfMemory` if there is no room to bring it back,
    ///   `noSuchObject` if it was destroyed, `shuttingDown` if the daemon was stopped, and what a call can meet with.
    public func beginAccess() throws(ShrinkdError) -> Bool {
        if let word = gate.pin() { return begun(word.purgeGeneration) }
        try checkNotEnded()
        return begun(try pool.client.call(Methods.pinGate, ObjectAddress(objectId: info.objectId)))
    }

    /// As the blocking call.
    public func beginAccess() async throws(ShrinkdError) -> Bool {
        if let word = gate.pin() { return begun(word.purgeGeneration) }
        try checkNotEnded()
        return begun(try await pool.client.call(Methods.pinGate, ObjectAddress(objectId: info.objectId)))
    }

    /// Begins an access if that takes no call: nil if the object's pages may have to be brought back first.
    public func beginAccessIfResident() -> Bool? { gate.pin().map { begun($0.purgeGeneration) } }

    /// Ends one access. `notPinned` if none is begun.
    public func endAccess() throws(ShrinkdError) {
        if !gate.unpin() {
            throw ShrinkdError(
                .notPinned, "object \(info.objectId) has no access of this client to end: it was ended already, or the object is destroyed")
        }
        if let pinGuard { pinGuard.follow(gate, unsafeBytes) }
    }

    /// Accesses of this client now.
    public var accessCount: Int { gate.pins }

    /// The object's bytes, as many as were asked for. To be used during an access only.
    public var unsafeBytes: UnsafeMutableRawBufferPointer { UnsafeMutableRawBufferPointer(start: start.address, count: info.sizeBytes) }

    /// Runs `body` with the object's bytes, which stay where they are until it returns; blocking.
    ///
    /// `bytes` checks its bounds. `retained` false: the content was given up since this client's last access, and all bytes are zero.
    public func withAccess<R>(_ body: (_ bytes: inout MutableRawSpan, _ retained: Bool) throws -> R) throws -> R {
        let retained = try beginAccess()
        defer { try? endAccess() }
        var bytes = unsafeBytes.mutableBytes
        return try body(&bytes, retained)
    }

    /// As the blocking form; only beginning may wait. The body does not await: who holds memory should not.
    public func withAccess<R>(_ body: (_ bytes: inout MutableRawSpan, _ retained: Bool) throws -> R) async throws -> R {
        let retained = try await beginAccess()
        defer { try? endAccess() }
        var bytes = unsafeBytes.mutableBytes
        return try body(&bytes, retained)
    }

    private func checkNotEnded() throws(ShrinkdError) {
        guard gate.isEnded else { return }
        throw ShrinkdError(
            .shuttingDown,
            "shrinkd was stopped, and object \(info.objectId) ended with it: what could be brought back is in memory, the rest is in the store; start shrinkd, and make pool and object anew"
        )
    }

    private func begun(_ reply: PinReply) -> Bool { begun(UInt32(truncatingIfNeeded: reply.purgeGeneration)) }

    /// An access is begun.
    @inline(__always)
    private func begun(_ generation: UInt32) -> Bool {
        if let pinGuard { pinGuard.follow(gate, unsafeBytes) }
        return isRetained(generation)
    }

    @inline(__always)
    private func isRetained(_ generation: UInt32) -> Bool {
        // Whoever is first of this client's threads hears it.
        seen.load(ordering: .relaxed) == generation || seen.exchange(generation, ordering: .relaxed) == generation
    }

    // MARK: The object as a whole

    /// Says whether the content may be given up when memory is short and no access is begun. False: it was given up already.
    @discardableResult
    public func setPurgeable(_ isPurgeable: Bool) throws(ShrinkdError) -> Bool {
        try pool.client.call(Methods.setPurgeable, SetPurgeableParameters(objectId: info.objectId, purgeable: isPurgeable)).retained
    }

    /// Says whether a device uses the object's memory during accesses. Then its pages go only after this program was asked to quiesce the device.
    public func setLease(_ isLeased: Bool) throws(ShrinkdError) {
        _ = try pool.client.call(Methods.setLease, SetLeaseParameters(objectId: info.objectId, leased: isLeased))
    }

    /// Destroys the object and its content, this client's accesses included. `busy` while another client has one begun.
    public func destroy() throws(ShrinkdError) {
        _ = try pool.client.call(Methods.destroyObject, ObjectAddress(objectId: info.objectId))
        if let pinGuard { pinGuard.follow(gate, unsafeBytes) }
    }
}
