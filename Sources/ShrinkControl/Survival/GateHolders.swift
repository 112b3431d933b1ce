import ShrinkEngine
import ShrinkLinux
import Synchronization

/// Which connection has which gates, and which content each has seen. Gates wait, as sessions do, for a client whose connection the engine's death ended.
final class GateHolders: Sendable {
    private struct State {
        var byConnection: [UInt64: GateClientID] = [:]
        var waiting: [SessionToken: GateClientID] = [:]
        /// The generation of each object's content that a connection saw last.
        var seenContent: [UInt64: [ObjectID: UInt32]] = [:]
    }

    private let survival: Survival
    private let state: Mutex<State>
    /// One client at a time is made and kept.
    private let making = Monitor<UInt8>(0)

    /// Gates of sessions that do not wait any more are dropped.
    init(_ survival: Survival, _ engine: Engine, waiting tokens: Set<SessionToken>) {
        self.survival = survival
        var state = State()
        let left = survival.gatesByToken()
        for (token, client) in left where tokens.contains(token) && engine.owner(of: client) != nil { state.waiting[token] = client }
        let kept = Set(state.waiting.values)
        for client in Set(left.values).union(engine.gateClients) where !kept.contains(client) {
            engine.removeGateClient(client)
            survival.forgetGates(client)
        }
        self.state = Mutex(state)
    }

    func gates(_ connection: UInt64) -> GateClientID? { state.withLock { $0.byConnection[connection] } }

    /// The connection's gates, made if it has none.
    func make(_ connection: UInt64, _ token: SessionToken, owner: UInt32, _ engine: Engine) throws(ControlError) -> GateClientID {
        try making.withLock { (_) throws(ControlError) in
            if let own = gates(connection) { return own }
            let client: GateClientID
            do throws(EngineError) { client = try engine.addGateClient(owner: owner) } catch { throw ControlError(error) }
            do throws(ControlError) { try survival.keepGates(client, of: engine, token: token) } catch {
                engine.removeGateClient(client)
                throw error
            }
            state.withLock { $0.byConnection[connection] = client }
            return client
        }
    }

    /// A client has come back and has its session again.
    func resume(_ connection: UInt64, _ token: SessionToken) {
        state.withLock { state in
            if let client = state.waiting.removeValue(forKey: token) { state.byConnection[connection] = client }
        }
    }

    /// The connection has ended, and its gates with it.
    func end(_ connection: UInt64, _ engine: Engine) {
        let client = state.withLock { state in
            state.seenContent[connection] = nil
            return state.byConnection.removeValue(forKey: connection)
        }
        if let client { drop(client, engine) }
    }

    /// The connection, which has no gates, has ended.
    func forget(connection: UInt64) { state.withLock { $0.seenContent[connection] = nil } }

    /// The client does not come back.
    func expire(_ token: SessionToken, _ engine: Engine) {
        if let client = state.withLock({ $0.waiting.removeValue(forKey: token) }) { drop(client, engine) }
    }

    private func drop(_ client: GateClientID, _ engine: Engine) {
        engine.removeGateClient(client)
        survival.forgetGates(client)
    }

    /// Whether the content is what the connection last saw, which from now on is this one. One that never saw it has nothing to miss.
    func sees(_ generation: UInt32, of object: ObjectID, _ connection: UInt64) -> Bool {
        state.withLock { state in
            let seen = state.seenContent[connection, default: [:]]
            if seen[object] != nil || seen.count < Sessions.pinnedObjectsLimit {
                state.seenContent[connection, default: [:]][object] = generation
            }
            return seen[object].map { $0 == generation } ?? true
        }
    }

    /// The object is gone.
    func forget(_ object: ObjectID) {
        state.withLock { state in
            for connection in state.seenContent.keys { state.seenContent[connection]?[object] = nil }
        }
    }
}
