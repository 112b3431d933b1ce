import ShrinkLinux
public import ShrinkProtocol

/// A pool of this program: opened or made, mapped, with gates.
///
/// The contract of its memory, first of all:
/// - Use an object's bytes only inside `withAccess`, or between `beginAccess` and `endAccess`. Outside, its pages may be gone, and what is
///   written there may be lost.
/// - Accesses belong to the connection. When that ends, for whatever reason, they end with it, and the memory must not be used any more.
/// - The pool's descriptor is never used with read(2), write(2) or fallocate(2): those go around the gates.
/// - A child process that fork(2) makes has the mapping but no accesses of its own: it must not touch the memory.
/// - Two clients of one object see the same bytes. An access keeps pages in place; it is no lock.
///
/// With `SHRINKD_DEBUG_PINS=1` in the environment, memory that is not accessed can't be touched at all: a use outside ends the program (SIGSEGV) every
/// time, not only when pages happen to be out.
///
/// Sizes and offsets are bytes. Errors are `ShrinkdError`.
public final class MappedPool: Sendable {
    public let client: ShrinkdClient
    /// The mapping of the whole pool.
    public let memory: PoolMemory
    /// As it was when the pool was opened.
    public var pool: WirePool { memory.pool }
    /// Of one of its pages: 4096, or 2 MiB.
    public var pageBytes: Int { memory.pool.pageBytes ?? PoolPageKind.base.bytes }
    private let gates: GateMemory
    /// Set in the debug mode only.
    let pinGuard: PinGuard?

    init(_ client: ShrinkdClient, _ memory: PoolMemory) throws(ShrinkdError) {
        self.client = client
        self.memory = memory
        pinGuard = try PinGuard.ifWanted(memory)
        gates = try client.gates.memory(of: client)
    }

    /// Makes an object of zeros with one access begun: fill it, then `endAccess()`.
    ///
    /// - Parameters:
    ///   - sizeBytes: 1 byte to 1 TiB; its memory is that in whole pages of the pool (`pool.pageBytes`).
    ///   - priority: 0 goes out first, 3 last.
    ///   - purgeable: its content may be given up when memory is short; the next access then says so.
    ///   - leased: a device uses its memory during accesses (`revocations`).
    public func makeObject(
        _ name: String, sizeBytes: Int, priority: Int = 2, purgeable: Bool = false, leased: Bool = false
    ) throws(ShrinkdError) -> MappedObject {
        let parameters = CreateObjectParameters(
            pool: PoolAddress(id: pool.poolId), objectName: name, sizeBytes: sizeBytes, priority: priority, purgeable: purgeable,
            leased: leased)
        let made = ObjectAddress(objectId: try client.call(Methods.createObject, parameters).bufferObject.objectId)
        do throws(ShrinkdError) { return try attach(made.objectId) } catch {
            // One without a gate is of no use to anybody.
            _ = try? client.call(Methods.destroyObject, made)
            throw error
        }
    }

    /// As the blocking call.
    public func makeObject(
        _ name: String, sizeBytes: Int, priority: Int = 2, purgeable: Bool = false, leased: Bool = false
    ) async throws(ShrinkdError) -> MappedObject {
        let parameters = CreateObjectParameters(
            pool: PoolAddress(id: pool.poolId), objectName: name, sizeBytes: sizeBytes, priority: priority, purgeable: purgeable,
            leased: leased)
        let made = ObjectAddress(objectId: try await client.call(Methods.createObject, parameters).bufferObject.objectId)
        do throws(ShrinkdError) { return try await attach(made.objectId) } catch {
            _ = try? await client.call(Methods.destroyObject, made)
            throw error
        }
    }

    /// An object that is there, made by this program or another. No access is begun.
    public func object(_ objectID: Int) throws(ShrinkdError) -> MappedObject { try attach(objectID) }

    /// As the blocking call.
    public func object(_ objectID: Int) async throws(ShrinkdError) -> MappedObject { try await attach(objectID) }

    private func attach(_ objectID: Int) throws(ShrinkdError) -> MappedObject {
        for abandoned in gates.takeAbandoned() { try detach(abandoned) }
        gates.hold(objectID)
        do throws(ShrinkdError) {
            return try mapped(try client.call(Methods.attachGate, ObjectAddress(objectId: objectID)))
        } catch {
            gates.letGo(objectID)
            throw error
        }
    }

    private func attach(_ objectID: Int) async throws(ShrinkdError) -> MappedObject {
        for abandoned in gates.takeAbandoned() {
            do throws(ShrinkdError) { _ = try await client.call(Methods.detachGate, ObjectAddress(objectId: abandoned)) } catch {
                if !Self.isGone(error) { throw error }
            }
        }
        gates.hold(objectID)
        do throws(ShrinkdError) {
            return try mapped(try await client.call(Methods.attachGate, ObjectAddress(objectId: objectID)))
        } catch {
            gates.letGo(objectID)
            throw error
        }
    }

    private func detach(_ objectID: Int) throws(ShrinkdError) {
        do throws(ShrinkdError) { _ = try client.call(Methods.detachGate, ObjectAddress(objectId: objectID)) } catch {
            if !Self.isGone(error) { throw error }
        }
    }

    /// An object that was destroyed needs no detaching.
    private static func isGone(_ error: ShrinkdError) -> Bool { error.code == .noSuchObject || error.code == .notPinned }

    private func mapped(_ reply: AttachGateReply) throws(ShrinkdError) -> MappedObject {
        guard let gate = gates.gate(reply), let bytes = memory.bytes(of: reply.bufferObject) else {
            throw ShrinkdError(
                .invalidArgument, "object \(reply.bufferObject.objectId) is not in pool \(pool.poolName); open the pool that it is in")
        }
        return MappedObject(self, gates, gate, reply, bytes)
    }
}

extension ShrinkdClient {
    /// Opens the caller's pool of that name, or makes it.
    ///
    /// - Parameters:
    ///   - sizeBytes: a multiple of the page. A pool that is there already must have at least that.
    ///   - pages: `huge` is for huge pages of 2 MiB, of which the machine has some set aside (vm.nr_hugepages). A pool that is there must have the same.
    public func pool(_ name: String, sizeBytes: Int, pages: PoolPageKind = .base) throws(ShrinkdError) -> MappedPool {
        let memory: PoolMemory
        do throws(ShrinkdError) {
            memory = try openPool(PoolAddress(name: name))
        } catch  where error.code == .noSuchPool {
            do throws(ShrinkdError) { memory = try createPool(name, sizeBytes: sizeBytes, pages: pages) } catch {
                // Somebody else of this uid was quicker.
                guard error.code == .nameTaken else { throw error }
                memory = try openPool(PoolAddress(name: name))
            }
        }
        guard memory.pool.sizeBytes >= sizeBytes else {
            throw ShrinkdError(
                .invalidSize,
                "pool \(name) is there and has \(memory.pool.sizeBytes) bytes, less than \(sizeBytes); use it as it is, or another name")
        }
        guard (memory.pool.pageBytes ?? 4096) == pages.bytes else {
            throw ShrinkdError(
                .invalidSize,
                "pool \(name) is there and has pages of \(memory.pool.pageBytes ?? 4096) bytes, not \(pages.bytes); use another name")
        }
        return try MappedPool(self, memory)
    }

    /// Opens a pool that is there.
    public func pool(_ address: PoolAddress) throws(ShrinkdError) -> MappedPool { try MappedPool(self, try openPool(address)) }

    /// As the blocking call, on a thread of the client's own.
    public func pool(_ name: String, sizeBytes: Int, pages: PoolPageKind = .base) async throws(ShrinkdError) -> MappedPool {
        try await onOwnThread { (client) throws(ShrinkdError) in try client.pool(name, sizeBytes: sizeBytes, pages: pages) }
    }

    /// As the blocking call, on a thread of the client's own.
    public func pool(_ address: PoolAddress) async throws(ShrinkdError) -> MappedPool {
        try await onOwnThread { (client) throws(ShrinkdError) in try client.pool(address) }
    }

    /// Blocking calls in a row, for those who may not block.
    private func onOwnThread<R: Sendable>(
        _ work: @escaping @Sendable (ShrinkdClient) throws(ShrinkdError) -> R
    ) async throws(ShrinkdError) -> R {
        let result: Result<R, ShrinkdError> = await withCheckedContinuation { continuation in
            do {
                try DedicatedThread("shrink-client") {
                    continuation.resume(returning: Result { () throws(ShrinkdError) in try work(self) })
                }.detach()
            } catch {
                continuation.resume(returning: .failure(ShrinkdError(.system, "no thread for the call: \(error)")))
            }
        }
        return try result.get()
    }
}
