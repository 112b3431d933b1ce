import Logging
import ShrinkLinux

extension Engine {
    /// Destroys a pool and its objects. Busy, and nothing changed, while one of them is pinned; from the moment on when it is not, nobody pins any of
    /// them again.
    public func destroyPool(_ id: PoolID) throws(EngineError) {
        let (pool, ids) = try state.withLock { state throws(EngineError) in (try state.beginEnd(of: id), state.objectIDs(in: id)) }
        do throws(EngineError) { try destroyObjects(ids, of: pool) } catch {
            // What is left can be used again; gates open with the next pin.
            state.withLock { _ in pool.isDying = false }
            throw error
        }
        state.withLock { state in
            state.addReady(-pool.readyPages, to: pool)
            state.leave(id)
        }
        for mapping in faultServer.ids(of: id) { endMapping(mapping) }
        logger.info("pool destroyed", metadata: ["pool": "\(id.rawValue)"])
    }

    /// Returns when the pool has no objects, also none that others are just destroying: they need the pool until they are done.
    private func destroyObjects(_ ids: [ObjectID], of pool: Pool) throws(EngineError) {
        var ids = ids
        repeat {
            for object in ids {
                do throws(EngineError) { try destroyObject(object) } catch { if error.code != .noSuchObject { throw error } }
            }
            ids = state.wait { state -> [ObjectID]? in
                if pool.objectCount == 0 { return [] }
                let live = state.objectIDs(in: pool.id).filter { id in
                    state.objects.slot(of: id).map { state.objects[$0].life == .live } ?? false
                }
                return live.isEmpty ? nil : live
            }
        } while !ids.isEmpty
    }
}

extension EngineState {
    /// Closes a pool to everybody, or changes nothing if one of its objects is pinned.
    fileprivate mutating func beginEnd(of id: PoolID) throws(EngineError) -> Pool {
        let pool = try pool(id)
        guard pool.pinnedObjects == 0 else {
            throw EngineError(.busy, "\(id) has \(pool.pinnedObjects) pinned objects; unpin them first")
        }
        var closed: [UInt32] = []
        for object in objectIDs(in: id) {
            guard let slot = objects.slot(of: object), objects[slot].areGatesOpen else { continue }
            guard closeGates(slot) else {
                for slot in closed { openGates(slot) }
                throw EngineError(.busy, "\(object) of \(id) is pinned through a gate; its user has to unpin it first")
            }
            closed.append(slot)
        }
        pool.isDying = true
        return pool
    }

    /// Before a pin, whose reservation came before the end: nobody gets hold of what goes, or goes with its pool.
    func checkStays(_ slot: UInt32) throws(EngineError) {
        guard objects[slot].life == .live else {
            throw EngineError(.noSuchObject, "\(ObjectID(rawValue: objects[slot].id)) is being destroyed")
        }
        if pool(of: slot).isDying {
            throw EngineError(.noSuchPool, "\(ObjectID(rawValue: objects[slot].id)) is being destroyed with its pool")
        }
    }
}
