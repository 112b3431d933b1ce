public import ShrinkEngine
import ShrinkLinux
public import ShrinkPressure
import ShrinkProtocol
public import SystemPackage
public import Varlink

/// The interface `io.shrinkd` over an engine.
///
/// Rules kept here: pins belong to connections, a client sees its own uid's pools only, no engine call runs on the cooperative pool, and
/// what a vanished client asked for is stopped.
public final class ControlService: VarlinkInterface {
    public let name = ShrinkInterface.name
    public let text = ShrinkInterface.text
    public let acceptsDescriptors = true

    let engine: Engine
    let version: String
    let sessions = Sessions()
    /// Looked at once: what the kernel and the device allow does not change while the daemon runs.
    let touchFeatures = Engine.touchSupport()
    let workers: BlockingWorkers
    /// Nil where nobody looks for pressure.
    let pressure: PressureMonitor?

    /// `version` is what Status tells.
    public init(engine: Engine, version: String, pressure: PressureMonitor? = nil) throws(Errno) {
        self.engine = engine
        self.pressure = pressure
        self.version = version
        workers = try BlockingWorkers()
    }

    /// Pools whose memory an open connection was given: their users still need what is in them.
    public var heldPools: [PoolID] { sessions.heldPools.sorted() }

    /// Ends the service's threads. Call it after the server's `run` has returned.
    public func finish() { workers.finish() }

    public func answer(_ call: VarlinkCall) async throws(VarlinkError) -> VarlinkReply {
        beginSession(call.connection)
        do throws(ControlError) {
            // One method alone takes descriptors.
            if call.descriptors.count > 0, call.member != Methods.registerMapping.member { throw ControlError.parameter("fileDescriptors") }
            switch call.member {
            case Methods.status.member: return try await status(call)
            case Methods.createPool.member: return try await createPool(call)
            case Methods.openPool.member: return try await openPool(call)
            case Methods.destroyPool.member: return try await destroyPool(call)
            case Methods.listPools.member: return try await listPools(call)
            case Methods.createObject.member: return try await createObject(call)
            case Methods.destroyObject.member: return try await destroyObject(call)
            case Methods.listObjects.member: return try await listObjects(call)
            case Methods.getObject.member: return try await getObject(call)
            case Methods.pin.member: return try await pin(call)
            case Methods.unpin.member: return try await unpin(call)
            case Methods.shrink.member: return try await shrink(call)
            case Methods.recover.member: return try await recover(call)
            case Methods.readObject.member: return try await readObject(call)
            case Methods.listPages.member: return try await listPages(call)
            case Methods.registerMapping.member: return try await registerMapping(call)
            case Methods.unregisterMapping.member: return try await unregisterMapping(call)
            case Methods.openUserfaultDevice.member: return try await openUserfaultDevice(call)
            case Methods.setFault.member: return try await setFault(call)
            case Methods.listFaults.member: return try await listFaults(call)
            case Methods.clearFaults.member: return try await clearFaults(call)
            default:
                if let reply = try await answerAboutPressure(call) { return reply }
                throw ControlError.varlink(.methodNotFound(call.method))
            }
        } catch {
            throw error.reply
        }
    }

    private func beginSession(_ connection: VarlinkConnection) {
        let id = connection.id
        guard sessions.begin(id) else { return }
        connection.onEnd { [self] in
            for mapping in sessions.mappings(id) { engine.unregisterMapping(mapping) }
            let pins = sessions.end(id)
            if pins.isEmpty { return }
            _ = await workers.run(.bookkeeping) { [engine] in
                for (object, count) in pins {
                    // One that was destroyed meanwhile has no pins left.
                    for _ in 0..<count { try? engine.unpin(object) }
                }
            }
        }
    }

    /// Decodes, runs `body` on a thread that may block, and makes errors replies.
    func perform<P: VarlinkParameters, R: Sendable>(
        _ call: VarlinkCall, _ lane: BlockingWorkers.Lane, _ type: P.Type,
        _ body: @escaping @Sendable (P, Caller) throws(ControlError) -> R
    ) async throws(ControlError) -> R {
        let parameters: P
        do throws(VarlinkError) { parameters = try call.decode(type) } catch { throw .varlink(error) }
        let caller = Caller(call.connection.peer)
        let result: Result<R, ControlError>? = await workers.run(lane) {
            Result { () throws(ControlError) in try body(parameters, caller) }
        }
        guard let result else { throw .service(.limitReached, "too many calls wait for the daemon; try again") }
        return try result.get()
    }

    private func status(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        let (engine, version, touchFeatures) = (engine, version, touchFeatures)
        let features = pressure?.status.features ?? []
        return VarlinkReply(
            try await perform(call, .backup, NoParameters.self) { (_, caller) throws(ControlError) in
                var reply = StatusReply(engine.status(), version: version)
                for feature in features { reply.features[feature.name] = WireFeature(available: feature.lack == nil, reason: feature.lack) }
                for feature in touchFeatures {
                    reply.features[feature.name] = WireFeature(available: feature.isAvailable, reason: feature.reason)
                }
                reply.features["pool_memory"] = Self.poolMemory(engine.stalledPools())
                if !caller.isAdministrator {
                    // The sums of what the caller sees; how the backup stands is everybody's business.
                    let pools = engine.pools().filter { caller.sees($0) }
                    reply.pools = pools.count
                    reply.objects = pools.reduce(0) { $0 + $1.objectCount }
                    reply.pages = WirePageCounts(resident: 0, zero: 0, backedUp: 0, empty: 0)
                    for pool in pools { reply.pages.add(pool.pages) }
                }
                return reply
            })
    }
}

extension WirePageCounts {
    mutating func add(_ counts: PageCounts) {
        resident += counts.resident
        zero += counts.zero
        backedUp += counts.backedUp
        empty += counts.empty
    }
}

extension NoParameters: VarlinkParameters {}
extension PoolAddress: VarlinkParameters {}
extension CreatePoolParameters: VarlinkParameters {}
extension ListPoolsParameters: VarlinkParameters {}
extension CreateObjectParameters: VarlinkParameters {}
extension ObjectAddress: VarlinkParameters {}
extension ListObjectsParameters: VarlinkParameters {}
extension ShrinkParameters: VarlinkParameters {}
extension RecoverParameters: VarlinkParameters {}
extension ReadObjectParameters: VarlinkParameters {}
extension ListPagesParameters: VarlinkParameters {}
extension SetFaultParameters: VarlinkParameters {}
