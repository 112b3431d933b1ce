import ShrinkLinux
import SystemPackage

/// One turn after the other: look, decide, act, tell.
struct PressureLoop {
    let sensors: PressureSensors
    let relay: PressureRelay?
    private let target: any PressureTarget
    private let journal: PressureJournal
    private let told: @Sendable (PressureDecision) -> Void
    private var policy: PressurePolicy
    private let ballast = Ballast()

    private(set) var reading: PressureReading?
    private(set) var steps = 0
    private(set) var freedBytes = 0
    private(set) var storedBytes = 0

    init(
        settings: PressureSettings, sensors: PressureSensors, target: any PressureTarget, relay: PressureRelay?, journal: PressureJournal,
        told: @escaping @Sendable (PressureDecision) -> Void
    ) {
        self.sensors = sensors
        self.relay = relay
        self.target = target
        self.journal = journal
        self.told = told
        policy = PressurePolicy(settings)
    }

    mutating func change(to settings: PressureSettings) {
        policy.change(to: settings)
        sensors.change(stallMilliseconds: settings.stallMilliseconds)
    }

    func take(_ event: Epoll.Event) {
        if relay?.take(event) == true { return }
        _ = sensors.take(event, .now())
    }

    /// Returns how long to wait for events, in milliseconds; -1 for ever.
    mutating func turn(asked: Bool, isWanted: @escaping @Sendable () -> Bool) -> CInt {
        if asked { relay?.tell(.now(), isAsked: true) }
        guard policy.settings.mode != .off else {
            reading = nil
            return -1
        }
        do throws(Errno) {
            let reading = try sensors.read(target, .now())
            self.reading = reading
            var decision = policy.decide(reading, .now())
            ballast.follow(reading, isShort: policy.shortScope != nil)
            if decision.action == .reclaim {
                // Others first: what they give back need not be taken from the pools.
                relay?.tell(.now())
                let outcome = target.reclaim(decision.goalBytes, isWanted: isWanted)
                decision.outcome = outcome
                steps += 1
                freedBytes += outcome.freedBytes
                storedBytes += outcome.storedBytes
                policy.finished(decision, outcome, .now())
            } else if decision.action == .wouldReclaim {
                policy.finished(decision, PressureOutcome(), .now())
            } else if [.belowLow, .belowHigh].contains(decision.reason) || policy.shortScope != nil {
                // Short, and nothing to give: others may have something.
                relay?.tell(.now())
            }
            if journal.note(decision) { told(decision) }
            var wait = policy.nextLook(reading, after: decision)
            if let retry = sensors.nextRetry {
                let now = MonotonicTime.now()
                wait = min(wait, retry > now ? retry.nanoseconds(since: now) / 1_000_000 + 1 : 0)
            }
            return CInt(clamping: wait)
        } catch {
            // /proc is not there, or the cgroup went away under us: look again, and less often.
            return 1000
        }
    }
}
