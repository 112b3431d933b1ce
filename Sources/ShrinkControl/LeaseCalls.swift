import ShrinkEngine
import ShrinkProtocol
import Synchronization
import Varlink

extension ControlService {
    /// Takes no thread while it waits: many programs listen, and few are ever asked.
    func waitForRevocation(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        let parameters: WaitForRevocationParameters
        do throws(VarlinkError) { parameters = try call.decode(WaitForRevocationParameters.self) } catch { throw .varlink(error) }
        let acknowledged = parameters.acknowledgedRevocationId.map { UInt64(clamping: $0) }
        let client = try Self.client(parameters.gateClientId, Caller(call.connection.peer), engine)
        let engine = engine
        let revocation = await Self.next(engine, client, acknowledged)
        guard let revocation else { throw Self.noSuchClient(client.rawValue) }
        return VarlinkReply(
            RevocationReply(
                objectId: Int(revocation.object.rawValue), revocationId: Int(clamping: revocation.id),
                deadlineMilliseconds: Int(clamping: revocation.deadlineMilliseconds)))
    }

    private static func next(_ engine: Engine, _ client: GateClientID, _ acknowledged: UInt64?) async -> Revocation? {
        let slot = WaitSlot()
        return await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let wait = RevocationWait { continuation.resume(returning: $0) }
                engine.awaitRevocation(client, acknowledging: acknowledged, wait)
                // The one who asked may have vanished before there was something to call off.
                if !slot.fill(wait) { engine.callOff(wait, of: client) }
            }
        } onCancel: {
            if let wait = slot.cancel() { engine.callOff(wait, of: client) }
        }
    }

    func listenForRevocations(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        let engine = engine
        try await perform(call, .bookkeeping, GateClientAddress.self) { (address, caller) throws(ControlError) in
            engine.listenForRevocations(try Self.client(address.gateClientId, caller, engine))
        }
        return VarlinkReply()
    }

    /// A client with gates, if the caller acts for the same uid.
    private static func client(_ id: Int, _ caller: Caller, _ engine: Engine) throws(ControlError) -> GateClientID {
        guard let number = UInt32(exactly: id), number > 0 else { throw .parameter("gateClientId") }
        let client = GateClientID(rawValue: number)
        guard let owner = engine.owner(of: client), caller.isAdministrator || owner == caller.userID else { throw noSuchClient(number) }
        return client
    }

    private static func noSuchClient(_ number: UInt32) -> ControlError {
        .service(
            .noSuchObject, "there is no client \(number) with gates, or another call of its waits by now; its connection may have ended")
    }

    func getLeases(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        let engine = engine
        return VarlinkReply(
            try await perform(call, .bookkeeping, NoParameters.self) { (_, _) throws(ControlError) in
                let counters = engine.leaseCounters()
                return LeasesReply(
                    leasedObjects: counters.leasedObjects, revocations: counters.revocations, answered: counters.answered,
                    unanswered: counters.unanswered)
            })
    }
}

/// Brings a wait and the cancellation of its task together, whichever comes first.
private final class WaitSlot: Sendable {
    private enum State { case empty, filled(RevocationWait), cancelled }
    private let state = Mutex(State.empty)

    /// False if the task was cancelled already.
    func fill(_ wait: RevocationWait) -> Bool {
        state.withLock { state in
            if case .cancelled = state { return false }
            state = .filled(wait)
            return true
        }
    }

    func cancel() -> RevocationWait? {
        state.withLock { state in
            defer { state = .cancelled }
            if case .filled(let wait) = state { return wait }
            return nil
        }
    }
}
