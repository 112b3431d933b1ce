/// One decision, its reason, and what came of it.
public struct PressureDecision: Sendable, Equatable {
    public enum Action: String, Sendable {
        /// Nothing is done.
        case hold
        case reclaim
        /// What would have been done, but for the dry run.
        case wouldReclaim = "would-reclaim"
    }

    public enum Reason: String, Sendable, CaseIterable {
        // To hold.
        case calm
        case atFloor = "at-floor"
        case nothingLeft = "nothing-left"
        case ioBusy = "io-busy"
        case overBudget = "over-budget"
        case backingOff = "backing-off"
        /// Memory stalls, but there is plenty: some other cgroup is at its own limit, which nothing here can help.
        case stallElsewhere = "stall-elsewhere"
        // To act.
        case belowLow = "below-low"
        case belowHigh = "below-high"
        case told
        case stall
        case idle
        case request
    }

    public var action: Action
    public var reason: Reason
    /// One line for people, with the figures it was made of.
    public var text: String
    public var goalBytes = 0
    /// Nearly out of memory: gates and budgets did not hold.
    public var isUrgent = false
    public var outcome: PressureOutcome?
    /// Counted from 1 since the start; 0 until it is told.
    public var number: UInt64 = 0
    /// Seconds since 1970.
    public var time: Int = 0

    public init(_ action: Action, _ reason: Reason, _ text: String, goalBytes: Int = 0, isUrgent: Bool = false) {
        self.action = action
        self.reason = reason
        self.text = text
        self.goalBytes = goalBytes
        self.isUrgent = isUrgent
    }

    /// Decisions that say the same: one of them is enough in a log.
    func says(theSameAs other: PressureDecision) -> Bool { action == .hold && other.action == .hold && reason == other.reason }
}
