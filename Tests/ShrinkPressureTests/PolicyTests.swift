import ShrinkLinux
import ShrinkPressure
import TestSupport
import Testing

private let mebibyte = 1 << 20

private func reading(available: Int, total: Int = 1000, resident: Int = 400) -> PressureReading {
    var reading = PressureReading()
    reading.headrooms = [Headroom(totalBytes: total * mebibyte, availableBytes: available * mebibyte, scope: "machine")]
    reading.residentBytes = resident * mebibyte
    reading.reclaimableBytes = resident * mebibyte
    return reading
}

private func time(_ milliseconds: UInt64) -> MonotonicTime {
    MonotonicTime(nanoseconds: 1_000_000_000).advanced(milliseconds: milliseconds)
}

/// Low 100 MiB, high 200 MiB of 1000.
private var settings: PressureSettings {
    var settings = PressureSettings()
    settings.low = .percent(10)
    settings.high = .bytes(200 * mebibyte)
    return settings
}

private func freed(_ bytes: Int) -> PressureOutcome {
    var outcome = PressureOutcome()
    (outcome.freedBytes, outcome.netFreedBytes, outcome.storedBytes) = (bytes, bytes, bytes / 2)
    return outcome
}

@Suite struct PolicyTests {
    @Test func shrinkingBeginsBelowTheLowWatermarkAndEndsAboveTheHigh() {
        var policy = PressurePolicy(settings)
        #expect(policy.decide(reading(available: 150), time(0)).reason == .calm)
        let first = policy.decide(reading(available: 90), time(10))
        #expect(first.action == .reclaim && first.reason == .belowLow)
        policy.finished(first, freed(first.goalBytes), time(20))
        // Between the two it goes on, because it has begun; before it had not.
        let second = policy.decide(reading(available: 150), time(30))
        #expect(second.action == .reclaim && second.reason == .belowHigh)
        policy.finished(second, freed(second.goalBytes), time(40))
        #expect(policy.decide(reading(available: 200), time(50)).reason == .calm)
        #expect(policy.decide(reading(available: 150), time(60)).reason == .calm)
    }

    @Test func stepsGrowWithTheDepthAndArePartOfThePools() {
        func goal(_ available: Int, resident: Int = 4000) -> Int {
            var policy = PressurePolicy(settings)
            return policy.decide(reading(available: available, resident: resident), time(0)).goalBytes / mebibyte
        }
        // Half of the gap just below the low watermark, nearly all of it halfway down.
        #expect((50...53).contains(goal(99)))
        #expect(goal(80) > goal(99) && goal(60) > goal(80))
        #expect((140...150).contains(goal(50)))
        // 20 % of the pools at most, while memory is not nearly out …
        #expect(goal(60, resident: 100) == 20)
        // … and then as much as there is.
        #expect(goal(10, resident: 100) == 100)
    }

    @Test func theTightestScopeDecides() {
        var policy = PressurePolicy(settings)
        var both = reading(available: 500)
        both.headrooms.append(Headroom(totalBytes: 100 * mebibyte, availableBytes: 5 * mebibyte, scope: "cgroup /sys/fs/cgroup/a"))
        let decision = policy.decide(both, time(0))
        #expect(decision.reason == .belowLow && decision.text.contains("cgroup /sys/fs/cgroup/a has 5 MiB"))
        // 200 MiB were more than the group may have at all: half of it counts.
        #expect(decision.goalBytes <= 50 * mebibyte)
        both.headrooms.removeLast()
        #expect(policy.decide(both, time(10)).reason == .calm)
    }

    @Test func theFloorTheGateAndTheBudgetHold() {
        var with = settings
        with.floorBytes = 390 * mebibyte
        var policy = PressurePolicy(with)
        #expect(policy.decide(reading(available: 90), time(0)).goalBytes == 10 * mebibyte)
        #expect(policy.decide(reading(available: 1, resident: 390), time(0)).reason == .atFloor)
        #expect(policy.decide(reading(available: 1, resident: 390), time(0)).action == .hold)

        var busy = reading(available: 90)
        busy.ioStallPercent = 90
        policy = PressurePolicy(settings)
        #expect(policy.decide(busy, time(0)).reason == .ioBusy)
        // A store in memory costs no I/O, and nearly out of memory nothing else matters.
        busy.isStoreInMemory = true
        #expect(policy.decide(busy, time(0)).action == .reclaim)
        busy = reading(available: 10)
        busy.ioStallPercent = 90
        #expect(policy.decide(busy, time(0)).isUrgent)

        var budget = settings
        budget.writeBudgetPerSecond = mebibyte
        policy = PressurePolicy(budget)
        let first = policy.decide(reading(available: 90), time(0))
        #expect(first.goalBytes == mebibyte)
        policy.finished(first, PressureOutcome(freedBytes: mebibyte, stored: mebibyte), time(0))
        #expect(policy.decide(reading(available: 90), time(100)).reason == .overBudget)
        #expect(policy.decide(reading(available: 90), time(1100)).action == .reclaim)

        // No limit, as somebody may write it.
        budget.writeBudgetPerSecond = .max
        policy = PressurePolicy(budget)
        for seconds in [0, 1, 20] { #expect(policy.decide(reading(available: 90), time(UInt64(seconds * 1000))).action == .reclaim) }
    }

    @Test func stallIsAnsweredInProportionAndNotWhereItIsSomebodyElses() {
        func goal(_ stall: Double) -> Int {
            var policy = PressurePolicy(settings)
            var stalled = reading(available: 300)
            (stalled.isStalled, stalled.memoryStallPercent) = (true, stall)
            let decision = policy.decide(stalled, time(0))
            #expect(decision.reason == .stall)
            return decision.goalBytes
        }
        #expect(goal(0.5) < goal(5) && goal(5) < goal(10) && goal(10) == goal(50) && goal(10) == 80 * mebibyte)
        var policy = PressurePolicy(settings)
        var elsewhere = reading(available: 900)
        (elsewhere.isStalled, elsewhere.memoryStallPercent) = (true, 50)
        #expect(policy.decide(elsewhere, time(0)).reason == .stallElsewhere)
        // But the service manager means this service.
        elsewhere.isTold = true
        #expect(policy.decide(elsewhere, time(0)).reason == .told)
    }

    @Test func idleMemoryIsTakenSlowlyAndOnlyWhileNothingStalls() {
        var probing = settings
        probing.probePercent = 1
        var policy = PressurePolicy(probing)
        #expect(policy.decide(reading(available: 900), time(0)).reason == .calm)
        let probe = policy.decide(reading(available: 900), time(6000))
        #expect(probe.reason == .idle && probe.goalBytes == 4 * mebibyte)
        #expect(policy.decide(reading(available: 900), time(6100)).reason == .calm)
        var half = reading(available: 900)
        half.memoryStallPercent = 0.05
        #expect(policy.decide(half, time(12000)).goalBytes == 2 * mebibyte)
        half.memoryStallPercent = 0.2
        #expect(policy.decide(half, time(18000)).reason == .calm)
    }

    @Test func stepsThatBringNothingAreSpacedOut() {
        var policy = PressurePolicy(settings)
        var now: UInt64 = 0
        var waits: [UInt64] = []
        for _ in 0..<6 {
            let decision = policy.decide(reading(available: 90), time(now))
            #expect(decision.action == .reclaim)
            policy.finished(decision, PressureOutcome(), time(now))
            let began = now
            while policy.decide(reading(available: 90), time(now)).reason == .backingOff { now += 50 }
            waits.append(now - began)
        }
        #expect(waits == [100, 200, 400, 800, 1600, 3200])
    }

    @Test func aDryRunDecidesAndNeverActs() {
        var dry = settings
        dry.mode = .dryRun
        var policy = PressurePolicy(dry)
        let decision = policy.decide(reading(available: 10), time(0))
        #expect(decision.action == .wouldReclaim && decision.goalBytes > 0)
    }

    /// A machine with a hog, simulated: whatever the figures, the rules hold.
    @Test func randomHistoriesKeepTheRules() {
        let seed = testSeed("pressure policy")
        var generator = SeededGenerator(seed: seed)
        func some(_ range: ClosedRange<Int>) -> Int { Int.random(in: range, using: &generator) }
        for _ in 0..<400 {
            var chosen = PressureSettings()
            chosen.low = .percent(Double(some(1...20)))
            chosen.high = .percent(Double(some(5...40)))
            chosen.floorBytes = some(0...2) * 16 * mebibyte
            chosen.stepPercent = Double(some(1...100))
            chosen.writeBudgetPerSecond = some(0...1) == 0 ? nil : some(1...64) * mebibyte
            chosen.mode = some(0...7) == 0 ? .dryRun : .on
            chosen.probePercent = Double(some(0...2))
            var policy = PressurePolicy(chosen)
            let total = some(64...4096) * mebibyte
            var pools = some(0...total / 2)
            var hog = 0
            var now: UInt64 = 0
            var stored = 0
            var urgentStored = 0
            for _ in 0..<300 {
                hog = min(max(0, hog + some(-32...48) * mebibyte), total - pools)
                now += UInt64(some(1...500))
                var look = PressureReading()
                look.headrooms = [Headroom(totalBytes: total, availableBytes: total - pools - hog, scope: "machine")]
                (look.residentBytes, look.reclaimableBytes) = (pools, pools / 4 * some(0...4))
                look.ioStallPercent = some(0...3) == 0 ? 80 : 0
                look.memoryStallPercent = Double(some(0...20))
                look.isStalled = some(0...9) == 0
                look.isTold = some(0...29) == 0
                let decision = policy.decide(look, time(now))
                let (low, high) = (chosen.low.bytes(of: total), max(chosen.low.bytes(of: total), chosen.high.bytes(of: total)))
                let available = total - pools - hog
                #expect(decision.isUrgent == (decision.action != .hold && decision.reason == .belowLow && available < low / 2))
                #expect(!decision.text.isEmpty)
                switch decision.reason {
                case .belowLow: #expect(available < low)
                case .belowHigh: #expect(available >= low && available < high)
                default: break
                }
                guard decision.action != .hold else {
                    #expect(decision.goalBytes == 0)
                    continue
                }
                #expect((decision.action == .reclaim) == (chosen.mode == .on))
                #expect(decision.goalBytes > 0 && decision.goalBytes <= max(0, pools - chosen.floorBytes))
                if !decision.isUrgent {
                    #expect(look.ioStallPercent! <= chosen.ioGatePercent)
                    #expect(decision.goalBytes <= max(mebibyte, pools * Int(chosen.stepPercent) / 100, pools / 50 + 4096))
                }
                guard decision.action == .reclaim else {
                    policy.finished(decision, PressureOutcome(), time(now))
                    continue
                }
                let out = min(decision.goalBytes, look.reclaimableBytes) / 4096 * 4096
                pools -= out
                policy.finished(decision, PressureOutcome(freedBytes: out, stored: out), time(now))
                if decision.isUrgent { urgentStored += out } else { stored += out }
                // A second's worth is there at once; what was urgent is charged too, so it never adds.
                if let perSecond = chosen.writeBudgetPerSecond { #expect(stored <= perSecond * Int(now / 1000 + 12)) }
            }
        }
    }
}

extension PressureOutcome {
    fileprivate init(freedBytes: Int, stored: Int) {
        self.init()
        (self.freedBytes, netFreedBytes, storedBytes) = (freedBytes, freedBytes, stored)
    }
}
