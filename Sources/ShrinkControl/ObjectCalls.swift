import ShrinkEngine
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import Varlink

extension ControlService {
    func createObject(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        let (engine, sessions, gates, connection) = (engine, sessions, gates, call.connection.id)
        return VarlinkReply(
            try await perform(call, .backup, CreateObjectParameters.self) { (parameters, caller) throws(ControlError) in
                let pool = try engine.pool(parameters.pool, for: caller)
                guard let priority = Priority(rawValue: UInt8(clamping: parameters.priority ?? Int(Priority.normal.rawValue))),
                    (0...3).contains(parameters.priority ?? 0)
                else { throw .parameter("priority") }
                guard sessions.hasRoomForPin(ObjectID(rawValue: 0), connection) else { throw Self.tooManyPins }
                var announced: ObjectID?
                var isNoted = true
                do throws(EngineError) {
                    // The pin is written down before the object counts: a client whose reply is lost finds one pin more, and that is its object.
                    let object = try engine.createObject(
                        in: pool.id, name: parameters.objectName, size: ByteCount(parameters.sizeBytes), priority: priority
                    ) { id in
                        announced = id
                        isNoted = sessions.addPin(id, connection)
                    }
                    guard isNoted else {
                        try engine.destroyObject(object.id, ownPins: 1, gates: gates.gates(connection))
                        throw EngineError(.limitReached, Self.noPlaceForPin)
                    }
                    _ = gates.sees(0, of: object.id, connection)
                    if parameters.purgeable == true { _ = try engine.setPurgeable(object.id, true) }
                    if parameters.leased == true { try engine.setLease(object.id, true) }
                    return ObjectReply(bufferObject: WireObject(try engine.object(object.id), poolName: pool.name))
                } catch {
                    if let announced { _ = sessions.removePin(announced, connection) }
                    throw ControlError(error)
                }
            })
    }

    func destroyObject(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        let (engine, sessions, gates, connection) = (engine, sessions, gates, call.connection.id)
        try await perform(call, .backup, ObjectAddress.self) { (address, caller) throws(ControlError) in
            let object = try engine.object(address.objectId, for: caller)
            do throws(EngineError) {
                try engine.destroyObject(object.id, ownPins: sessions.pins(object.id, connection), gates: gates.gates(connection))
            } catch {
                throw ControlError(error)
            }
            sessions.forget(object.id)
            gates.forget(object.id)
        }
        return VarlinkReply()
    }

    func getObject(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        let engine = engine
        return VarlinkReply(
            try await perform(call, .bookkeeping, ObjectAddress.self) { (address, caller) throws(ControlError) in
                try Self.reply(try engine.object(address.objectId, for: caller, countingPages: true), engine)
            })
    }

    func pin(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        let (engine, sessions, gates, connection) = (engine, sessions, gates, call.connection.id)
        return VarlinkReply(
            try await perform(call, .backup, ObjectAddress.self) { (address, caller) throws(ControlError) in
                let object = try engine.object(address.objectId, for: caller)
                guard sessions.hasRoomForPin(object.id, connection) else { throw Self.tooManyPins }
                let answer: PinAnswer
                do throws(EngineError) {
                    answer = try engine.pin(object.id)
                    // This runs before the connection's end is worked on, whatever became of the client: the pin will be undone then.
                    guard sessions.addPin(object.id, connection) else {
                        try engine.unpin(object.id)
                        throw EngineError(.limitReached, Self.noPlaceForPin)
                    }
                } catch {
                    throw ControlError(error)
                }
                let isKnown = gates.sees(answer.purgeGeneration, of: object.id, connection)
                return PinReply(
                    bufferObject: try Self.reply(try engine.object(address.objectId, for: caller, countingPages: true), engine)
                        .bufferObject,
                    retained: answer.retained && isKnown, purgeGeneration: Int(answer.purgeGeneration))
            })
    }

    func unpin(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        let (engine, sessions, connection) = (engine, sessions, call.connection.id)
        try await perform(call, .bookkeeping, ObjectAddress.self) { (address, caller) throws(ControlError) in
            let object = try engine.object(address.objectId, for: caller)
            guard sessions.removePin(object.id, connection) else {
                throw .service(
                    .notPinned, "this connection has not pinned object \(object.id.rawValue); pins belong to the connection that made them")
            }
            do throws(EngineError) { try engine.unpin(object.id) } catch { throw ControlError(error) }
        }
        return VarlinkReply()
    }

    func listObjects(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        // One chunk more than is sent tells whether the list goes on.
        var after: Int?
        while true {
            let chunk = try await objects(call, after: after)
            if !call.wantsMore || chunk.nextAfterObjectId == nil { return VarlinkReply(chunk) }
            after = chunk.nextAfterObjectId
            let reply = ListObjectsReply(bufferObjects: chunk.bufferObjects, nextAfterObjectId: nil)
            do throws(VarlinkDisconnected) { try await call.send(VarlinkReply(reply)) } catch { return VarlinkReply() }
        }
    }

    private func objects(_ call: VarlinkCall, after: Int?) async throws(ControlError) -> ListObjectsReply {
        let engine = engine
        return try await perform(call, .bookkeeping, ListObjectsParameters.self) { (parameters, caller) throws(ControlError) in
            let start = after ?? parameters.afterObjectId ?? 0
            guard var last = UInt32(exactly: start) else { throw .parameter("afterObjectId") }
            let pool = parameters.pool.isEmpty ? nil : try engine.pool(parameters.pool, for: caller)
            var names = Dictionary(uniqueKeysWithValues: engine.pools().map { ($0.id, $0.name) })
            if let pool { names = [pool.id: pool.name] }
            var found: [WireObject] = []
            while true {
                let batch = engine.objects(in: pool?.id, after: ObjectID(rawValue: last), limit: Methods.listChunk + 1)
                for object in batch where caller.sees(object) {
                    if found.count == Methods.listChunk {
                        return ListObjectsReply(bufferObjects: found, nextAfterObjectId: found.last?.objectId)
                    }
                    found.append(WireObject(object, poolName: names[object.pool] ?? ""))
                }
                guard batch.count > Methods.listChunk, let end = batch.last else {
                    return ListObjectsReply(bufferObjects: found, nextAfterObjectId: nil)
                }
                last = end.id.rawValue
            }
        }
    }

    func readObject(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        let engine = engine
        return try await perform(call, .backup, ReadObjectParameters.self) { (parameters, caller) throws(ControlError) in
            let object = try engine.object(parameters.objectId, for: caller)
            guard parameters.offsetBytes >= 0 else { throw .parameter("offsetBytes") }
            guard parameters.lengthBytes > 0, parameters.lengthBytes <= ReadObjectParameters.lengthLimit else {
                throw .parameter("lengthBytes")
            }
            let size = object.sizeBytes.rawValue
            guard parameters.offsetBytes <= size else {
                throw .service(
                    .invalidSize,
                    "offset \(parameters.offsetBytes) is beyond the end of object \(object.id.rawValue), which has \(size) bytes")
            }
            let length = min(parameters.lengthBytes, size - parameters.offsetBytes)
            let file = try Self.snapshot(object, at: parameters.offsetBytes, length: length, engine)
            return VarlinkReply(ReadObjectReply(contentFileDescriptor: 0, lengthBytes: length), descriptors: [file])
        }
    }

    /// A sealed memory file with a range of the object.
    private static func snapshot(_ object: ObjectInfo, at offset: Int, length: Int, _ engine: Engine) throws(ControlError)
        -> SharedDescriptor
    {
        var failure: EngineError?
        do throws(Errno) {
            let file = SharedDescriptor(try MemoryFile.make("shrinkd-read", size: length))
            if length > 0 { failure = try fill(file.number, object, at: offset, length: length, engine) }
            try MemoryFile.sealContent(file.number)
            if failure == nil { return file }
        } catch {
            throw .service(.systemFailure, "no memory file for the copy: \(error)")
        }
        throw ControlError(failure ?? EngineError(.system, "nothing was read"))
    }

    /// The mapping lives here alone: the seal refuses a file that can still be written through one.
    private static func fill(_ file: CInt, _ object: ObjectInfo, at offset: Int, length: Int, _ engine: Engine) throws(Errno)
        -> EngineError?
    {
        let memory = try MappedMemory(sharing: file, count: length)
        do throws(EngineError) {
            let n = try engine.read(object.id, at: ByteCount(offset), into: memory.bytes)
            return n == length ? nil : EngineError(.noSuchObject, "object \(object.id.rawValue) went away while it was read")
        } catch {
            return error
        }
    }

    static func reply(_ object: ObjectInfo, _ engine: Engine) throws(ControlError) -> ObjectReply {
        do throws(EngineError) {
            return ObjectReply(bufferObject: WireObject(object, poolName: try engine.pool(object.pool).name))
        } catch {
            throw ControlError(error)
        }
    }

    private static var tooManyPins: ControlError {
        .service(
            .limitReached,
            "this connection has \(Sessions.pinnedObjectsLimit) objects pinned, or \(Sessions.pinsOfObjectLimit) pins of this one, or \(noPlaceForPin)"
        )
    }
    private static let noPlaceForPin = "all connections together have as many pins as can be noted; unpin some"
}
