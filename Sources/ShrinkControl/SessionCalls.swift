import ShrinkEngine
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import Varlink

// What a connection holds, and how it is held when the engine dies under it.
extension ControlService {
    /// How long a new engine holds pins of clients that do not come back.
    public static let sessionGraceMilliseconds = SessionGrace.milliseconds

    func beginSession(_ connection: VarlinkConnection) throws(ControlError) {
        let id = connection.id
        switch sessions.begin(id, connection.peer) {
        case .known: return
        case .full:
            throw .service(
                .limitReached,
                "there are \(ParkedState.sessionCapacity) sessions, those of clients that are to come back included; try again")
        case .new: break
        }
        connection.onEnd { [self] in
            let pins = sessions.end(id)
            let hasGates = gates.gates(id) != nil
            let hasMappings = mappings.has(id)
            if pins.isEmpty, !hasGates, !hasMappings { return gates.forget(connection: id) }
            _ = await workers.run(.bookkeeping) { [engine, gates, mappings] in
                mappings.end(connection: id)
                gates.end(id, engine)
                Self.unpin(pins, engine)
            }
        }
    }

    static func unpin(_ pins: [ObjectID: Int], _ engine: Engine) {
        for (object, count) in pins {
            // One that was destroyed meanwhile has no pins left.
            for _ in 0..<count { try? engine.unpin(object) }
        }
    }

    /// Pins again what clients of the last engine had pinned, and watches whether they come back.
    static func holdPins(
        of sessions: Sessions, _ gates: GateHolders, _ mappings: MappingHolders, _ engine: Engine, _ graceMilliseconds: UInt64
    ) throws(Errno) -> SessionGrace? {
        let waiting = sessions.waiting
        if waiting.isEmpty { return nil }
        for session in waiting {
            for (object, count) in session.pins {
                do throws(EngineError) {
                    for _ in 0..<count { try engine.pin(object) }
                } catch {
                    // Of an object that was being made or destroyed when the engine died.
                    sessions.dropPin(object, waiting: session.token)
                }
            }
        }
        return try SessionGrace(waiting, milliseconds: graceMilliseconds) { token, _ in
            guard let pins = sessions.expire(token) else { return }
            mappings.expire(token)
            unpin(pins, engine)
            gates.expire(token, engine)
        }
    }

    func openSession(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        let (sessions, grace) = (sessions, graceMilliseconds)
        let connection = call.connection.id
        return VarlinkReply(
            try await perform(call, .bookkeeping, NoParameters.self) { (_, _) throws(ControlError) in
                guard let token = sessions.token(connection) else { throw .service(.systemFailure, "the connection has ended") }
                return OpenSessionReply(sessionToken: token.text, graceMilliseconds: Int(clamping: grace))
            })
    }

    func resumeSession(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        let (sessions, gates, mappings) = (sessions, gates, mappings)
        let (connection, peer) = (call.connection.id, call.connection.peer)
        return VarlinkReply(
            try await perform(call, .bookkeeping, ResumeSessionParameters.self) { (parameters, _) throws(ControlError) in
                guard let token = SessionToken(text: parameters.sessionToken) else { throw .parameter("sessionToken") }
                switch sessions.resume(connection, token, peer) {
                case .resumed:
                    gates.resume(connection, token)
                    mappings.resume(connection, token)
                    return ResumeSessionReply(poolIds: sessions.pools(connection).map { Int($0.rawValue) }.sorted())
                case .unknown:
                    throw .service(
                        .noSuchSession,
                        "no session of that token waits for its client: the daemon was stopped meanwhile, or the connection ended in another way than by its death; its pins are gone"
                    )
                case .notEmpty:
                    throw .service(
                        .busy, "this connection holds pools or pins of its own; resume a session first of all, on a new connection")
                }
            })
    }

    func listPins(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        let (sessions, connection) = (sessions, call.connection.id)
        return VarlinkReply(
            try await perform(call, .bookkeeping, ListPinsParameters.self) { (parameters, _) throws(ControlError) in
                guard let after = UInt32(exactly: parameters.afterObjectId ?? 0) else { throw .parameter("afterObjectId") }
                let found = sessions.pins(connection, after: ObjectID(rawValue: after), limit: Methods.pinChunk + 1)
                let pins = found.prefix(Methods.pinChunk).map { WirePin(objectId: Int($0.object.rawValue), count: $0.count) }
                return ListPinsReply(pins: pins, nextAfterObjectId: found.count > pins.count ? pins.last?.objectId : nil)
            })
    }
}
