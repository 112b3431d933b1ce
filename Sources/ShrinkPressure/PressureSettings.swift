/// How much memory is to stay free of a whole: the machine's, or a cgroup's limit.
public enum Watermark: Sendable, Equatable, CustomStringConvertible {
    case bytes(Int)
    /// Of the whole, 0 … 100.
    case percent(Double)

    /// Never more than half of the whole: a watermark meant for the machine must not make a small cgroup permanently short.
    public func bytes(of whole: Int) -> Int {
        switch self {
        case .bytes(let bytes): min(max(0, bytes), whole / 2)
        case .percent(let percent): Int(Double(whole) * min(max(0, percent), 50) / 100)
        }
    }

    public var description: String {
        switch self {
        case .bytes(let bytes): "\(bytes)"
        case .percent(let percent): "\(percent)%"
        }
    }
}

/// What the policy goes by. Everything here may change while it runs.
public struct PressureSettings: Sendable, Equatable {
    public enum Mode: String, Sendable, CaseIterable {
        /// Decide and act.
        case on
        /// Decide, tell, and do nothing.
        case dryRun = "dry-run"
        /// Neither look nor decide.
        case off
    }

    public var mode = Mode.on
    /// Below this much available memory shrinking begins …
    public var low = Watermark.percent(5)
    /// … and above this much it ends.
    public var high = Watermark.percent(8)
    /// The pools keep at least so much in memory, whatever the pressure.
    public var floorBytes = 0
    /// The largest part of the pools' memory that one step takes, in percent; where memory is nearly out it does not hold.
    public var stepPercent = 20.0
    /// Stalled time in milliseconds per second of which the kernel is asked to tell at once (a PSI trigger).
    public var stallMilliseconds = 150
    /// Stalled time (PSI "some", average of 10 s, percent) at which a step is as large as it gets. Below it is proportional.
    public var stallFullPercent = 10.0
    /// While I/O stalls more than this (PSI "some", 10 s, percent), nothing more is written to a store on a device.
    public var ioGatePercent = 40.0
    /// Bytes a second that may be written to the store on an average; nil: no limit. Where memory is nearly out it does not hold.
    public var writeBudgetPerSecond: Int?
    /// Part of the pools' memory taken every `probeSeconds` while nothing stalls, in percent: what is idle goes out before anybody is short.
    /// 0 turns it off.
    public var probePercent = 0.0
    public var probeSeconds = 6.0
    /// Stalled time (percent, 10 s) at which a probe takes nothing any more.
    public var probeStallPercent = 0.1

    public init() {}

    /// The least that one step takes: less is not worth the calls.
    static let leastStep = 1 << 20
}
