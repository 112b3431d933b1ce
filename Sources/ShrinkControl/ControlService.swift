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
    let sessions: Sessions
    let survival: Survival
    /// Looked at once: what the kernel and the device allow does not change while the daemon runs.
    let touchFeatures = Engine.touchSupport()
    let mappings: MappingHolders
    let graceMilliseconds: UInt64
    let gates: GateHolders
    let workers: BlockingWorkers
    let watch: BackupWatch
    /// Nil where nobody looks for pressure.
    let pressure: PressureMonitor?
    private let grace: SessionGrace?

    /// `version` is what Status tells. `survival` has given the engine its pools already; pins that the last engine's clients had are held from now on.
    public init(
        engine: Engine, version: String, survival: Survival, pressure: PressureMonitor? = nil,
        graceMilliseconds: UInt64 = ControlService.sessionGraceMilliseconds
    ) throws(Errno) {
        self.engine = engine
        self.pressure = pressure
        self.version = version
        self.survival = survival
        sessions = Sessions(survival.state)
        let tokens = Set(sessions.waiting.map(\.token))
        gates = GateHolders(survival, engine, waiting: tokens)
        mappings = try MappingHolders(survival, engine, waiting: tokens, logger: survival.logger)
        self.graceMilliseconds = graceMilliseconds
        workers = try BlockingWorkers()
        watch = try BackupWatch(engine)
        grace = try Self.holdPins(of: sessions, gates, mappings, engine, graceMilliseconds)
    }

    /// Pools whose memory an open connection was given: their users still need what is in them.
    public var heldPools: [PoolID] { sessions.heldPools.sorted() }

    /// True if calls that wait for nothing but memory are answered: those for the backup may well wait for its server, and that is no fault of this one.
    public func isResponsive(withinMilliseconds patience: UInt64) -> Bool {
        workers.answers(.bookkeeping, withinMilliseconds: patience)
    }

    /// Ends the service's threads. Call it after the server's `run` has returned.
    public func finish() {
        grace?.finish()
        mappings.finish()
        workers.finish()
    }

    public func answer(_ call: VarlinkCall) async throws(VarlinkError) -> VarlinkReply {
        do throws(ControlError) {
            // One method alone takes descriptors.
            if call.descriptors.count > 0, call.member != Methods.registerMapping.member { throw ControlError.parameter("fileDescriptors") }
            try beginSession(call.connection)
            switch call.member {
            case Methods.status.member: return try await status(call)
            case Methods.listUsers.member: return try await listUsers(call)
            case Methods.openSession.member: return try await openSession(call)
            case Methods.resumeSession.member: return try await resumeSession(call)
            case Methods.listPins.member: return try await listPins(call)
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
            case Methods.setPurgeable.member: return try await setPurgeable(call)
            case Methods.setLease.member: return try await setLease(call)
            case Methods.mapGates.member: return try await mapGates(call)
            case Methods.attachGate.member: return try await attachGate(call)
            case Methods.detachGate.member: return try await detachGate(call)
            case Methods.pinGate.member: return try await pinGate(call)
            case Methods.listenForRevocations.member: return try await listenForRevocations(call)
            case Methods.waitForRevocation.member: return try await waitForRevocation(call)
            case Methods.getLeases.member: return try await getLeases(call)
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

    /// Decodes, runs `body` on a thread that may block, and makes errors replies.
    func perform<P: VarlinkParameters, R: Sendable>(
        _ call: VarlinkCall, _ lane: BlockingWorkers.Lane, _ type: P.Type,
        _ body: @escaping @Sendable (P, Caller) throws(ControlError) -> R
    ) async throws(ControlError) -> R {
        let parameters: P
        do throws(VarlinkError) { parameters = try call.decode(type) } catch { throw .varlink(error) }
        let caller = Caller(call.connection.peer)
        let result: Result<R, ControlError>? = await workers.run(lane, for: caller.isAdministrator ? nil : caller.userID) {
            Result { () throws(ControlError) in try body(parameters, caller) }
        }
        guard let result else { throw .service(.limitReached, "too many calls wait for the daemon; try again") }
        return try result.get()
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
extension ResumeSessionParameters: VarlinkParameters {}
extension ListPinsParameters: VarlinkParameters {}
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
extension SetPurgeableParameters: VarlinkParameters {}
extension SetLeaseParameters: VarlinkParameters {}
extension ListUsersParameters: VarlinkParameters {}
extension WaitForRevocationParameters: VarlinkParameters {}
extension GateClientAddress: VarlinkParameters {}
extension SetFaultParameters: VarlinkParameters {}
