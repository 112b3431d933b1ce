import ShrinkEngine
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import Varlink

// Gates belong to a connection, as pins do: its memory is passed to nobody else, and its words end with it.
extension ControlService {
    func mapGates(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        let (engine, sessions, gates, connection) = (engine, sessions, gates, call.connection.id)
        return try await perform(call, .backup, NoParameters.self) { (_, caller) throws(ControlError) in
            guard let token = sessions.token(connection) else { throw .service(.systemFailure, "the connection has ended") }
            let client = try gates.make(connection, token, owner: caller.userID, engine)
            do throws(EngineError) {
                let memory = SharedDescriptor(try engine.gateDescriptor(client))
                let reply = MapGatesReply(
                    gatesFileDescriptor: 0, gateCount: GateMemoryLayout.gateCount, gateClientId: Int(client.rawValue))
                return VarlinkReply(reply, descriptors: [memory])
            } catch {
                throw ControlError(error)
            }
        }
    }

    func attachGate(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        let (engine, sessions, gates, connection) = (engine, sessions, gates, call.connection.id)
        return VarlinkReply(
            try await perform(call, .backup, ObjectAddress.self) { (address, caller) throws(ControlError) in
                let object = try engine.object(address.objectId, for: caller)
                let client = try Self.client(of: gates, connection)
                // This connection's calls come one after the other, so nobody else takes its pins meanwhile.
                let pins = sessions.pins(object.id, connection)
                let attachment: GateAttachment
                do throws(EngineError) {
                    attachment = try engine.attachGate(object.id, client: client, takingOver: pins)
                } catch {
                    throw ControlError(error)
                }
                sessions.takePins(object.id, connection)
                return AttachGateReply(
                    bufferObject: try Self.reply(try engine.object(address.objectId, for: caller, countingPages: true), engine)
                        .bufferObject,
                    gateIndex: Int(attachment.gate), gateGeneration: Int(attachment.gateGeneration),
                    purgeGeneration: Int(attachment.purgeGeneration))
            })
    }

    func detachGate(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        let (engine, gates, connection) = (engine, gates, call.connection.id)
        try await perform(call, .bookkeeping, ObjectAddress.self) { (address, caller) throws(ControlError) in
            let object = try engine.object(address.objectId, for: caller)
            let client = try Self.client(of: gates, connection)
            do throws(EngineError) { try engine.detachGate(object.id, client: client) } catch { throw ControlError(error) }
        }
        return VarlinkReply()
    }

    func pinGate(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        let (engine, gates, connection) = (engine, gates, call.connection.id)
        return VarlinkReply(
            try await perform(call, .backup, ObjectAddress.self) { (address, caller) throws(ControlError) in
                let object = try engine.object(address.objectId, for: caller)
                let client = try Self.client(of: gates, connection)
                let answer: PinAnswer
                do throws(EngineError) { answer = try engine.pinGate(object.id, client: client) } catch { throw ControlError(error) }
                let isKnown = gates.sees(answer.purgeGeneration, of: object.id, connection)
                return PinReply(
                    bufferObject: try Self.reply(try engine.object(address.objectId, for: caller, countingPages: true), engine)
                        .bufferObject,
                    retained: answer.retained && isKnown, purgeGeneration: Int(answer.purgeGeneration))
            })
    }

    func setPurgeable(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        let engine = engine
        return VarlinkReply(
            try await perform(call, .backup, SetPurgeableParameters.self) { (parameters, caller) throws(ControlError) in
                let object = try engine.object(parameters.objectId, for: caller)
                do throws(EngineError) {
                    return RetainedReply(retained: try engine.setPurgeable(object.id, parameters.purgeable).retained)
                } catch {
                    throw ControlError(error)
                }
            })
    }

    func setLease(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        let engine = engine
        try await perform(call, .backup, SetLeaseParameters.self) { (parameters, caller) throws(ControlError) in
            let object = try engine.object(parameters.objectId, for: caller)
            do throws(EngineError) { try engine.setLease(object.id, parameters.leased) } catch { throw ControlError(error) }
        }
        return VarlinkReply()
    }

    private static func client(of gates: GateHolders, _ connection: UInt64) throws(ControlError) -> GateClientID {
        guard let client = gates.gates(connection) else {
            throw .service(.notPinned, "this connection has no gates; call MapGates first")
        }
        return client
    }
}
