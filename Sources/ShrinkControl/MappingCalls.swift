import ShrinkEngine
import ShrinkLinux
public import ShrinkProtocol
import Synchronization
import SystemPackage
public import Varlink

extension ControlService {
    func registerMapping(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        let (engine, sessions, mappings) = (engine, sessions, mappings)
        let (connection, descriptors) = (call.connection.id, call.descriptors)
        return VarlinkReply(
            try await perform(call, .bookkeeping, RegisterMappingParameters.self) { (parameters, caller) throws(ControlError) in
                let pool = try engine.pool(parameters.pool, for: caller)
                guard let address = UInt(exactly: parameters.address) else { throw .parameter("address") }
                guard let token = sessions.token(connection) else { throw .service(.systemFailure, "the connection has ended") }
                guard let userfaults = descriptors.take(parameters.userfaultFileDescriptor) else {
                    throw .parameter("userfaultFileDescriptor")
                }
                let id = try mappings.register(
                    pool.id, userfaults,
                    at: MappingPlace(
                        address: address, offset: ByteCount(parameters.offsetBytes), length: ByteCount(parameters.lengthBytes)),
                    connection, token)
                // A connection that ended meanwhile has nobody left who would end it.
                if sessions.token(connection) == nil { _ = mappings.unregister(id, connection) }
                return RegisterMappingReply(mappingId: Int(id.rawValue))
            })
    }

    func unregisterMapping(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        let (mappings, connection) = (mappings, call.connection.id)
        try await perform(call, .bookkeeping, UnregisterMappingParameters.self) { (parameters, _) throws(ControlError) in
            guard let number = UInt32(exactly: parameters.mappingId), mappings.unregister(MappingID(rawValue: number), connection) else {
                throw .parameter("mappingId")
            }
        }
        return VarlinkReply()
    }

    /// Whether every pool's memory can be moved.
    static func poolMemory(_ stalled: [(pool: PoolID, name: String, nanoseconds: UInt64)]) -> WireFeature {
        if stalled.isEmpty { return WireFeature(available: true, reason: nil) }
        let names = stalled.map { "pool \($0.pool.rawValue) (\($0.name)) for \($0.nanoseconds / 1_000_000_000) s" }.joined(separator: ", ")
        return WireFeature(
            available: false,
            reason: "a process holds the memory file in the middle of a write to it: \(names); nothing of it moves until that process ends")
    }

    /// Who holds this device open makes userfaultfds that also tell the faults of system calls, a right that the machine's owner gave to few: it is passed on to root
    /// and to the daemon's own user only. Others open it themselves, if they may.
    func openUserfaultDevice(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        try await perform(call, .bookkeeping, NoParameters.self) { (_, caller) throws(ControlError) in
            guard caller.isAdministrator else { throw .permissionDenied }
            do throws(Errno) {
                let device = SharedDescriptor(try Files.open(Userfaults.device, .readWrite))
                return VarlinkReply(UserfaultDeviceReply(deviceFileDescriptor: 0), descriptors: [device])
            } catch {
                throw .service(
                    .systemFailure,
                    "\(Userfaults.device) can't be opened (\(error)); let the daemon's group open it, or do with the faults of the program alone"
                )
            }
        }
    }
}

extension RegisterMappingParameters: VarlinkParameters {}
extension UnregisterMappingParameters: VarlinkParameters {}
