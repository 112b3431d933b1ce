public import ShrinkLinux

/// Decides, from one reading after the other, when to give memory back and how much. Pure: no clock, no kernel.
///
/// What it takes from others: two watermarks and steps that are a part of the gap and of the whole (CacheLib's memory monitor), steps
/// in proportion to stall, the gate on I/O, the write budget and the probing of idle memory (Senpai).
public struct PressurePolicy: Sendable {
    public private(set) var settings: PressureSettings
    /// Below the low watermark, and not yet above the high one; the scope that is short.
    public private(set) var shortScope: String?
    private var budgetBytes: Double = 0
    private var budgetTime: MonotonicTime?
    private var nextProbe: MonotonicTime?
    private var nextStallStep: MonotonicTime?
    private var failures = 0
    private var retryTime: MonotonicTime?

    public init(_ settings: PressureSettings) { self.settings = settings }

    /// New settings count from the next decision on. The budget begins anew.
    public mutating func change(to settings: PressureSettings) {
        if settings.writeBudgetPerSecond != self.settings.writeBudgetPerSecond { budgetTime = nil }
        self.settings = settings
    }

    private struct Wish {
        var reason: PressureDecision.Reason
        var bytes: Int
        var isUrgent = false
        var text: String
    }

    // MARK: Deciding

    public mutating func decide(_ reading: PressureReading, _ now: MonotonicTime) -> PressureDecision {
        refill(now)
        let shortage = watermarks(reading)
        guard let wish = shortage ?? told(reading) ?? stall(reading, now) ?? probe(reading, now) else {
            if isStallElsewhere(reading) {
                return PressureDecision(
                    .hold, .stallElsewhere,
                    "memory stalls (\(percent(reading.memoryStallPercent))), but \(summary(reading)): what is short is not here")
            }
            return PressureDecision(.hold, .calm, "nothing is short: \(summary(reading))")
        }
        return gated(wish, reading, now)
    }

    /// What came of the decision. A step that brought next to nothing is not repeated at once.
    public mutating func finished(_ decision: PressureDecision, _ outcome: PressureOutcome, _ now: MonotonicTime) {
        if settings.writeBudgetPerSecond != nil { budgetBytes -= Double(outcome.storedBytes) }
        if outcome.netFreedBytes < min(decision.goalBytes, PressureSettings.leastStep) / 8 {
            failures = min(failures + 1, 8)
            // 100 ms, 200 ms, … 12.8 s; when memory is nearly out, at most 400 ms.
            let doublings = decision.isUrgent ? min(failures - 1, 2) : failures - 1
            retryTime = now.advanced(milliseconds: 100 << UInt64(doublings))
        } else {
            failures = 0
            retryTime = nil
        }
    }

    /// The longest time until the next look: memory can be filled at about 4 GiB a second, and the low watermark is to be noticed in time.
    public func nextLook(_ reading: PressureReading, after decision: PressureDecision) -> UInt64 {
        if decision.action == .reclaim, decision.outcome?.failure == nil, retryTime == nil { return 0 }
        if shortScope != nil { return 50 }
        let room = reading.headrooms.map { $0.availableBytes - settings.low.bytes(of: $0.totalBytes) }.min() ?? .max
        // The limits of a cgroup may be lowered at any moment.
        return UInt64(min(max(10, room / (4 << 20)), reading.isInGroup ? 200 : 1000))
    }

    // MARK: Wishes

    /// The scope with least above its low watermark decides.
    private mutating func watermarks(_ reading: PressureReading) -> Wish? {
        func low(_ room: Headroom) -> Int { settings.low.bytes(of: room.totalBytes) }
        func high(_ room: Headroom) -> Int { max(low(room), settings.high.bytes(of: room.totalBytes)) }
        if let scope = shortScope {
            // One that is gone (a limit was lifted) is not short any more.
            let room = reading.headrooms.first { $0.scope == scope }
            if room.map({ $0.availableBytes >= high($0) }) ?? true { shortScope = nil }
        }
        let tightest = reading.headrooms.filter { $0.availableBytes < low($0) }
            .min { $0.availableBytes - low($0) < $1.availableBytes - low($1) }
        if let tightest { shortScope = tightest.scope }
        guard let scope = shortScope, let room = reading.headrooms.first(where: { $0.scope == scope }) else { return nil }
        let (low, high) = (low(room), high(room))
        let gap = high - room.availableBytes
        let isUrgent = room.availableBytes < low / 2
        // From half of the gap at the low watermark to all of it halfway to nothing; near the high one in quarters of the way between them.
        let depth = low == 0 ? 1 : min(1, max(0, Double(low - room.availableBytes) / (Double(low) / 2)))
        var bytes = max(PressureSettings.leastStep, (high - low) / 4, Int(Double(gap) * (0.5 + 0.5 * depth)))
        if !isUrgent { bytes = min(bytes, largestStep(reading)) }
        let isBelowLow = room.availableBytes < low
        return Wish(
            reason: isBelowLow ? .belowLow : .belowHigh, bytes: bytes, isUrgent: isUrgent,
            text:
                "\(room.scope) has \(mebibytes(room.availableBytes)) available, below the \(isBelowLow ? "low" : "high") watermark of \(mebibytes(isBelowLow ? low : high))"
        )
    }

    /// The service manager said so: it knows why.
    private func told(_ reading: PressureReading) -> Wish? {
        guard reading.isTold else { return nil }
        return Wish(reason: .told, bytes: stallStep(reading), text: "whoever started shrinkd says that its memory is under pressure")
    }

    private mutating func stall(_ reading: PressureReading, _ now: MonotonicTime) -> Wish? {
        let group = reading.groupStallPercent ?? 0
        let isSteady = max(group, reading.memoryStallPercent ?? 0) >= settings.stallFullPercent
        guard reading.isStalled || isSteady, !isStallElsewhere(reading) else { return nil }
        // The averages lag by seconds: a step is given time to show before the next.
        if !reading.isStalled, let nextStallStep, now < nextStallStep { return nil }
        nextStallStep = now.advanced(milliseconds: 1000)
        return Wish(
            reason: .stall, bytes: stallStep(reading),
            text: "tasks wait for memory (\(percent(max(group, reading.memoryStallPercent ?? 0))) of the last 10 s)")
    }

    /// Stall without shortage: four times the high watermark is left, so somebody else's limit is what hurts.
    private func isStallElsewhere(_ reading: PressureReading) -> Bool {
        let isStalling = reading.isStalled || (reading.memoryStallPercent ?? 0) >= settings.stallFullPercent
        guard isStalling, (reading.groupStallPercent ?? 0) < settings.stallFullPercent else { return false }
        return reading.headrooms.allSatisfy { $0.availableBytes > min(4 * settings.high.bytes(of: $0.totalBytes), $0.totalBytes / 2) }
    }

    private mutating func probe(_ reading: PressureReading, _ now: MonotonicTime) -> Wish? {
        guard settings.probePercent > 0 else { return nil }
        guard let due = nextProbe, now >= due else {
            if nextProbe == nil { nextProbe = now.advanced(milliseconds: UInt64(settings.probeSeconds * 1000)) }
            return nil
        }
        nextProbe = now.advanced(milliseconds: UInt64(settings.probeSeconds * 1000))
        // Senpai's law: the nearer stall comes to what is tolerated, the less is taken.
        let stall = max(reading.groupStallPercent ?? 0, reading.memoryStallPercent ?? 0)
        let part = max(0, 1 - stall / max(settings.probeStallPercent, 0.001))
        let bytes = Int(Double(reading.residentBytes) * settings.probePercent / 100 * part)
        guard bytes >= 4096 else { return nil }
        return Wish(reason: .idle, bytes: bytes, text: "nothing stalls (\(percent(stall))): what is idle goes out ahead of need")
    }

    // MARK: Gates

    private func gated(_ wish: Wish, _ reading: PressureReading, _ now: MonotonicTime) -> PressureDecision {
        var bytes = wish.bytes
        let aboveFloor = reading.residentBytes - settings.floorBytes
        if aboveFloor <= 0 {
            return PressureDecision(
                .hold, .atFloor, "\(wish.text); but the pools are down to \(mebibytes(reading.residentBytes)), at the floor")
        }
        bytes = min(bytes, aboveFloor)
        if reading.reclaimableBytes <= 0 {
            return PressureDecision(.hold, .nothingLeft, "\(wish.text); but nothing in the pools can go")
        }
        if let retryTime, now < retryTime {
            return PressureDecision(.hold, .backingOff, "\(wish.text); but the last \(failures) steps brought next to nothing")
        }
        if !wish.isUrgent, !reading.isStoreInMemory {
            if let io = reading.ioStallPercent, io > settings.ioGatePercent {
                return PressureDecision(.hold, .ioBusy, "\(wish.text); but tasks wait for I/O (\(percent(io)) of the last 10 s)")
            }
        }
        if !wish.isUrgent, let perSecond = settings.writeBudgetPerSecond {
            guard budgetBytes >= Double(min(bytes, PressureSettings.leastStep)) else {
                return PressureDecision(.hold, .overBudget, "\(wish.text); but the write budget of \(perSecond) bytes a second is used up")
            }
            bytes = Int(min(Double(bytes), budgetBytes))
        }
        let action: PressureDecision.Action = settings.mode == .on ? .reclaim : .wouldReclaim
        return PressureDecision(action, wish.reason, wish.text, goalBytes: bytes, isUrgent: wish.isUrgent)
    }

    private func largestStep(_ reading: PressureReading) -> Int {
        max(PressureSettings.leastStep, Int(Double(reading.residentBytes) * settings.stepPercent / 100))
    }

    /// A twentieth of the largest step at least, the whole of it at `stallFullPercent`.
    private func stallStep(_ reading: PressureReading) -> Int {
        let stall = max(reading.groupStallPercent ?? 0, reading.memoryStallPercent ?? 0)
        let part = min(1, max(0.05, stall / max(settings.stallFullPercent, 0.001)))
        return max(PressureSettings.leastStep, Int(Double(largestStep(reading)) * part))
    }

    /// At most ten seconds' worth is saved up.
    private mutating func refill(_ now: MonotonicTime) {
        guard let perSecond = settings.writeBudgetPerSecond else { return }
        defer { budgetTime = now }
        guard let last = budgetTime else {
            budgetBytes = Double(perSecond)
            return
        }
        let seconds = Double(now.nanoseconds(since: last)) / 1e9
        budgetBytes = min(budgetBytes + seconds * Double(perSecond), 10 * Double(perSecond))
    }

    // MARK: Words

    private func summary(_ reading: PressureReading) -> String {
        reading.headrooms.map { "\($0.scope) has \(mebibytes($0.availableBytes)) available" }.joined(separator: ", ")
    }

    private func mebibytes(_ bytes: Int) -> String { "\(bytes / (1 << 20)) MiB" }

    private func percent(_ value: Double?) -> String {
        guard let value else { return "not told" }
        let tenths = Int((value * 10).rounded())
        return "\(tenths / 10).\(tenths % 10) %"
    }
}
