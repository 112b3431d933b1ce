import ShrinkLinux

/// The latest decisions, for whoever asks and whoever follows. A decision to hold is noted when its reason is new, an act always.
public final class PressureJournal: Sendable {
    public static let capacity = 64
    /// Followers at a time.
    public static let followerLimit = 256

    private struct State {
        var entries: [PressureDecision] = []
        var count: UInt64 = 0
        var followers: [Int: @Sendable (PressureDecision) -> Void] = [:]
        var nextFollower = 0
    }
    private let state = Monitor(State())

    public init() {}

    /// Oldest first.
    public var entries: [PressureDecision] { state.withLock { $0.entries } }

    /// Enters a decision unless it says the same as the one before. True if it was entered.
    @discardableResult
    func note(_ decision: PressureDecision) -> Bool {
        let entered = state.withLock { state -> (PressureDecision, [@Sendable (PressureDecision) -> Void])? in
            if let last = state.entries.last, decision.says(theSameAs: last) { return nil }
            state.count += 1
            var entry = decision
            entry.number = state.count
            entry.time = FileTime.now().seconds
            if state.entries.count == Self.capacity { state.entries.removeFirst() }
            state.entries.append(entry)
            return (entry, Array(state.followers.values))
        }
        guard let (entry, followers) = entered else { return false }
        for follower in followers { follower(entry) }
        return true
    }

    /// Calls `body` with every decision from now on, on the deciding thread: it must not block. Nil: there are too many already.
    public func follow(_ body: @escaping @Sendable (PressureDecision) -> Void) -> Int? {
        state.withLock { state in
            guard state.followers.count < Self.followerLimit else { return nil }
            defer { state.nextFollower += 1 }
            state.followers[state.nextFollower] = body
            return state.nextFollower
        }
    }

    public func unfollow(_ follower: Int) { state.withLock { $0.followers[follower] = nil } }
}
