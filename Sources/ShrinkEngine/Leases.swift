import ShrinkLinux
import SystemPackage

extension Engine {
    /// Says whether a device uses the object's memory while it is pinned: then its users are asked before its pages go.
    public func setLease(_ id: ObjectID, _ isLeased: Bool) throws(EngineError) {
        try state.withLock { state throws(EngineError) in
            let slot = try state.slot(id)
            state.pool(of: slot).ledger.record(Int(state.objects[slot].record)).lease = isLeased ? 1 : 0
            state.objects[slot].isLeased = isLeased
        }
    }
}
