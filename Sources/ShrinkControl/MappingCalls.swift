import ShrinkEngine
import ShrinkLinux
public import ShrinkProtocol
import Synchronization
import SystemPackage
public import Varlink

extension ControlService {
    func registerMapping(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        let (engine, mappings, connection, descriptors) = (engine, mappings, call.connection.id, call.descriptors)
        return VarlinkReply(
            try await perform(call, .bookkeeping, RegisterMappingParameters.self) { (parameters, caller) throws(ControlError) in
                let pool = try engine.pool(parameters.pool, for: caller)
                guard let address = UInt(exactly: parameters.address) else { throw .parameter("address") }
                guard mappings.hasRoom(connection) else {
                    throw .service(
                        .limitReached,
                        "this connection has \(Methods.mappingsPerConnection) mappings registered; end some, or use a second one")
                }
                guard let userfaults = descriptors.take(parameters.userfaultFileDescriptor) else {
                    throw .parameter("userfaultFileDescriptor")
                }
                do throws(EngineError) {
                    let id = try engine.registerMapping(
                        pool.id, userfaults: userfaults,
                        at: MappingPlace(
                            address: address, offset: ByteCount(parameters.offsetBytes), length: ByteCount(parameters.lengthBytes)))
                    mappings.add(id, connection)
                    return RegisterMappingReply(mappingId: Int(id.rawValue))
                } catch {
                    throw ControlError(error)
                }
            })
    }

    func unregisterMapping(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        let (engine, mappings, connection) = (engine, mappings, call.connection.id)
        try await perform(call, .bookkeeping, UnregisterMappingParameters.self) { (parameters, _) throws(ControlError) in
            guard let number = UInt32(exactly: parameters.mappingId), mappings.remove(MappingID(rawValue: number), connection) else {
                throw .parameter("mappingId")
            }
            engine.unregisterMapping(MappingID(rawValue: number))
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

/// Mappings that the open connections registered. They end with the connection: a client that comes back registers anew.
final class ConnectionMappings: Sendable {
    private let mappings = Mutex<[UInt64: Set<MappingID>]>([:])

    func hasRoom(_ connection: UInt64) -> Bool { mappings.withLock { ($0[connection]?.count ?? 0) < Methods.mappingsPerConnection } }

    func add(_ mapping: MappingID, _ connection: UInt64) { mappings.withLock { _ = $0[connection, default: []].insert(mapping) } }

    /// False if it is none of the connection's.
    func remove(_ mapping: MappingID, _ connection: UInt64) -> Bool { mappings.withLock { $0[connection]?.remove(mapping) != nil } }

    func end(_ connection: UInt64) -> Set<MappingID> { mappings.withLock { $0.removeValue(forKey: connection) ?? [] } }
}
