import ShrinkEngine
import ShrinkLinux
import ShrinkPressure
import ShrinkProtocol
import Varlink

extension ControlService {
    /// Nil if the member is none of these.
    func answerAboutPressure(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply? {
        switch call.member {
        case Methods.getPressure.member: VarlinkReply(PressureReply(try monitor(call).status, try monitor(call).journal.entries))
        case Methods.watchPressure.member: try await watchPressure(call)
        case Methods.tellPressure.member: try tellPressure(call)
        default: nil
        }
    }

    private func monitor(_ call: VarlinkCall) throws(ControlError) -> PressureMonitor {
        guard let pressure else { throw .varlink(.methodNotImplemented(call.method)) }
        do throws(VarlinkError) { _ = try call.decode(NoParameters.self) } catch { throw .varlink(error) }
        return pressure
    }

    private func tellPressure(_ call: VarlinkCall) throws(ControlError) -> VarlinkReply {
        let monitor = try monitor(call)
        guard Caller(call.connection.peer).isAdministrator else { throw .permissionDenied }
        return VarlinkReply(TellPressureReply(listeners: monitor.tellListeners()))
    }

    /// Goes on until the client leaves. One that reads slowly misses decisions, and sees it by their numbers.
    private func watchPressure(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        let journal = try monitor(call).journal
        guard call.wantsMore else { throw .varlink(.expectedMore) }
        let (stream, continuation) = AsyncStream.makeStream(of: PressureDecision.self, bufferingPolicy: .bufferingNewest(64))
        guard let follower = journal.follow({ continuation.yield($0) }) else {
            throw .service(.limitReached, "\(PressureJournal.followerLimit) clients watch already; try again when one has left")
        }
        defer { journal.unfollow(follower) }
        var last: UInt64 = 0
        // The last one first: whoever looks wants to know how things stand.
        if let latest = journal.entries.last {
            last = latest.number
            do { try await call.send(VarlinkReply(WatchPressureReply(decision: WirePressureDecision(latest)))) } catch {
                return VarlinkReply()
            }
        }
        for await decision in stream where decision.number > last {
            do { try await call.send(VarlinkReply(WatchPressureReply(decision: WirePressureDecision(decision)))) } catch { break }
        }
        throw .service(.shuttingDown, "the daemon is stopping")
    }
}

extension WirePressureDecision {
    init(_ decision: PressureDecision) {
        self.init(
            number: Int(clamping: decision.number), time: decision.time, action: decision.action.rawValue, reason: decision.reason.rawValue,
            text: decision.text, goalBytes: decision.goalBytes, urgent: decision.isUrgent)
        if let outcome = decision.outcome {
            freedBytes = outcome.freedBytes
            storedBytes = outcome.storedBytes
            netFreedBytes = outcome.netFreedBytes
            durationNanoseconds = Int(clamping: outcome.durationNanoseconds)
            failure = outcome.failure
        }
    }
}

extension PressureReply {
    /// The last 32 decisions fit a message with room to spare.
    init(_ status: PressureStatus, _ decisions: [PressureDecision]) {
        let settings = status.settings
        self.init(
            mode: settings.mode.rawValue,
            headrooms: (status.reading?.headrooms ?? []).map {
                let low = settings.low.bytes(of: $0.totalBytes)
                return WireHeadroom(
                    scope: $0.scope, totalBytes: $0.totalBytes, availableBytes: $0.availableBytes, lowBytes: low,
                    highBytes: max(low, settings.high.bytes(of: $0.totalBytes)))
            },
            memoryStallPercent: status.reading?.memoryStallPercent, ioStallPercent: status.reading?.ioStallPercent, steps: status.steps,
            freedBytes: status.freedBytes, storedBytes: status.storedBytes, listeners: status.listeners,
            decisions: decisions.suffix(32).map { WirePressureDecision($0) })
    }
}

extension PressureOutcome {
    init(_ reply: ShrinkReply) {
        self.init()
        freedBytes = reply.freedBytes
        storedBytes = reply.storedBytes
        netFreedBytes = reply.netFreedBytes
        durationNanoseconds = UInt64(reply.durationNanoseconds)
        failure = reply.failure?.message
    }
}
