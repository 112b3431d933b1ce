import ShrinkLinux

/// Numbers that an engine counts since its start, or since that of an engine that it goes on for.
public struct EngineCounters: Sendable, Equatable {
    /// Pages that clients wrote while the backup had them; the backup won.
    public var strayPages = 0
    /// Pages found missing or unreadable in the backup.
    public var damagedPages = 0

    public init(strayPages: Int = 0, damagedPages: Int = 0) {
        self.strayPages = strayPages
        self.damagedPages = damagedPages
    }
}

extension Engine {
    public var counters: EngineCounters { state.withLock { EngineCounters(strayPages: $0.strayPages, damagedPages: $0.damagedPages) } }

    /// Goes on for an engine that is gone: counts on from its numbers and gives no pool an id that it gave. Call it before pools are made or adopted.
    public func countOn(_ counters: EngineCounters, poolsAbove: UInt32) {
        state.withLock { state in
            state.strayPages += counters.strayPages
            state.damagedPages += counters.damagedPages
            state.nextPool = max(state.nextPool, poolsAbove &+ 1)
        }
    }
}
