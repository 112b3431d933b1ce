import Logging
import ShrinkEngine
import ShrinkLinux
import ShrinkPressure

/// The engine as a source of pressure sees it.
///
/// Steps are background work: they take what was used longest ago first, wait for busy objects last, and write on to the next tier where
/// the first one is full.
struct EnginePressureTarget: PressureTarget {
    let engine: Engine

    var residentBytes: Int { engine.memoryInUse.rawValue }

    var reclaimableBytes: Int {
        switch engine.shrinker.count(.background) {
        case .empty: 0
        case .pages(let pages): pages * basePageSize
        }
    }

    var isStoreInMemory: Bool { engine.isBackupInMemory }

    func reclaim(_ bytes: Int, isWanted: @escaping @Sendable () -> Bool) -> PressureOutcome {
        let started = MonotonicTime.now()
        var outcome = PressureOutcome()
        let goal = (bytes + basePageSize - 1) / basePageSize
        switch engine.shrinker.scan(goalPages: goal, .background, progress: { _ in isWanted() ? .proceed : .stop }) {
        case .stop: break
        case .scanned(let result):
            outcome.freedBytes = result.freedBytes.rawValue
            outcome.storedBytes = result.storedBytes.rawValue
            outcome.netFreedBytes = result.netFreedBytes.rawValue
            outcome.failure = result.failure.map { "\($0)" }
        }
        outcome.durationNanoseconds = MonotonicTime.now().nanoseconds(since: started)
        return outcome
    }
}

/// Decisions in the log: what is done as a notice, what is held back as information.
struct PressureLog: Sendable {
    let log: Logger

    func note(_ decision: PressureDecision) {
        var metadata: Logger.Metadata = ["action": "\(decision.action.rawValue)", "reason": "\(decision.reason.rawValue)"]
        if decision.goalBytes > 0 { metadata["goal_bytes"] = "\(decision.goalBytes)" }
        if decision.isUrgent { metadata["urgent"] = "yes" }
        if let outcome = decision.outcome {
            metadata["freed_bytes"] = "\(outcome.freedBytes)"
            metadata["stored_bytes"] = "\(outcome.storedBytes)"
            metadata["duration_ms"] = "\(outcome.durationNanoseconds / 1_000_000)"
            if let failure = outcome.failure { metadata["failure"] = "\(failure)" }
        }
        let level: Logger.Level = decision.action == .hold ? .info : .notice
        log.log(level: level, "Memory pressure: \(decision.text).", metadata: metadata)
    }

    func note(_ features: [PressureFeature]) {
        for feature in features {
            guard let lack = feature.lack else { continue }
            log.notice("Not available: \(feature.name).", metadata: ["reason": "\(lack)"])
        }
    }
}
