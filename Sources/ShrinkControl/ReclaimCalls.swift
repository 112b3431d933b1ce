import ShrinkEngine
import ShrinkLinux
import ShrinkPressure
import ShrinkProtocol
import Synchronization
import Varlink

extension ControlService {
    func shrink(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        let engine = engine
        let (reporter, pressure) = (Reporter(call), pressure)
        let reply = try await perform(call, .reclaim, ShrinkParameters.self) { (parameters, caller) throws(ControlError) in
            guard let target = parameters.target else { throw .parameter("") }
            if let goal = parameters.goalBytes, goal <= 0 {
                throw .service(.invalidSize, "a goal of \(goal) bytes is not possible; give a positive number")
            }
            let started = MonotonicTime.now()
            var sum = ShrinkReply()
            sum.goalBytes = parameters.goalBytes
            var hardFailure: EngineError?
            for part in try Self.targets(target, caller, engine) {
                let before = sum
                let result = engine.shrink(part) { progress in
                    var reply = ShrinkReply(progress)
                    reply.scannedPages += before.scannedPages
                    reply.freedBytes += before.freedBytes
                    reply.durationNanoseconds = Int(clamping: MonotonicTime.now().nanoseconds(since: started))
                    reporter.report(VarlinkReply(reply))
                    // The goal of one who sees only some of the pools is kept here; the engine knows goals over all pools.
                    if let goal = parameters.goalBytes, reply.freedBytes >= goal { return .stop }
                    return reporter.isWanted ? .proceed : .stop
                }
                sum.add(result)
                hardFailure = hardFailure ?? result.failure
                if let goal = parameters.goalBytes, sum.freedBytes >= goal {
                    // Stopped because enough is enough.
                    if result.failure?.code == .interrupted { (sum.failure, hardFailure) = (before.failure, nil) }
                    break
                }
                if !reporter.isWanted { break }
            }
            sum.durationNanoseconds = Int(clamping: MonotonicTime.now().nanoseconds(since: started))
            if let hardFailure, sum.scannedPages == 0, sum.freedBytes == 0 { throw ControlError(hardFailure) }
            pressure?.noteRequest(
                "uid \(caller.userID) asked for it", goalBytes: parameters.goalBytes ?? sum.freedBytes, outcome: PressureOutcome(sum))
            return sum
        }
        return VarlinkReply(reply)
    }

    func recover(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        let engine = engine
        let reporter = Reporter(call)
        let reply = try await perform(call, .reclaim, RecoverParameters.self) { (parameters, caller) throws(ControlError) in
            guard let target = parameters.target else { throw .parameter("") }
            let started = MonotonicTime.now()
            var sum = RecoverReply()
            var hardFailure: EngineError?
            for part in try Self.targets(target, caller, engine) {
                let before = sum
                let result = engine.recover(part) { progress in
                    var reply = RecoverReply(progress)
                    reply.recoveredPages += before.recoveredPages
                    reply.failedPages += before.failedPages
                    reply.durationNanoseconds = Int(clamping: MonotonicTime.now().nanoseconds(since: started))
                    reporter.report(VarlinkReply(reply))
                    return reporter.isWanted ? .proceed : .stop
                }
                sum.add(result)
                hardFailure = hardFailure ?? result.failure
                if result.failure?.code == .outOfMemory || !reporter.isWanted { break }
            }
            sum.durationNanoseconds = Int(clamping: MonotonicTime.now().nanoseconds(since: started))
            if let hardFailure, sum.recoveredPages == 0, sum.failedPages == 0 { throw ControlError(hardFailure) }
            return sum
        }
        return VarlinkReply(reply)
    }

    /// What the engine is to work on. For one who does not see all pools, "everything" is each of the pools that it sees.
    private static func targets(_ target: WireTarget, _ caller: Caller, _ engine: Engine) throws(ControlError) -> [ReclaimTarget] {
        switch target {
        case .object(let id): return [.object(try engine.object(id, for: caller).id)]
        case .pool(let address): return [.pool(try engine.pool(address, for: caller).id)]
        case .goalBytes(let bytes) where caller.isAdministrator: return [.bytes(ByteCount(bytes))]
        case .everything where caller.isAdministrator: return [.all]
        case .everything: return engine.pools().filter { caller.sees($0) }.map { .pool($0.id) }
        // Memory for the machine is wanted, and huge pages stay huge pages.
        case .goalBytes: return engine.pools().filter { caller.sees($0) && !$0.isHuge }.map { .pool($0.id) }
        }
    }
}

/// Tells a caller how far its operation is, and whether it still wants to know.
private final class Reporter: Sendable {
    /// Between two reports.
    private static let intervalMilliseconds: UInt64 = 100

    private let call: VarlinkCall
    private let next = Mutex(MonotonicTime.now())

    init(_ call: VarlinkCall) { self.call = call }

    /// Progress is worth nothing later: what a slow reader has no room for is left out, and so is what comes too soon.
    func report(_ reply: @autoclosure () -> VarlinkReply) {
        guard call.wantsMore, !call.connection.isClosed else { return }
        let now = MonotonicTime.now()
        let due = next.withLock {
            guard now >= $0 else { return false }
            $0 = now.advanced(milliseconds: Self.intervalMilliseconds)
            return true
        }
        if due { _ = call.offer(reply()) }
    }

    /// A client that vanished takes its call back; one that asked for no reply has not.
    var isWanted: Bool { call.isOneway || !call.connection.isClosed }
}
