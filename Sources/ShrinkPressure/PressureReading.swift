/// What one whole has left, in bytes.
public struct Headroom: Sendable, Equatable {
    public var totalBytes: Int
    public var availableBytes: Int
    /// `machine`, or the directory of a memory cgroup.
    public var scope: String

    public init(totalBytes: Int, availableBytes: Int, scope: String) {
        self.totalBytes = totalBytes
        self.availableBytes = availableBytes
        self.scope = scope
    }
}

/// Everything a decision is made of, at one moment.
public struct PressureReading: Sendable, Equatable {
    /// The machine first, then the tightest cgroup if there is one.
    public var headrooms: [Headroom] = []
    /// This process is in a memory cgroup, limited or not.
    public var isInGroup = false
    /// Percent of the last 10 s in which some task waited for memory; nil without PSI.
    public var memoryStallPercent: Double?
    /// The same of this process's own cgroup.
    public var groupStallPercent: Double?
    public var ioStallPercent: Double?
    /// The kernel said that memory stalls, since the last look.
    public var isStalled = false
    /// Whoever started this service said that it is to give memory back, since the last look.
    public var isTold = false
    /// What the pools have in memory.
    public var residentBytes = 0
    /// What of it could go, at most.
    public var reclaimableBytes = 0
    /// Writing to the store costs no I/O.
    public var isStoreInMemory = false

    public init() {}
}

/// What a step brought.
public struct PressureOutcome: Sendable, Equatable {
    public var freedBytes = 0
    public var storedBytes = 0
    /// Freed less the growth of a store in memory.
    public var netFreedBytes = 0
    public var durationNanoseconds: UInt64 = 0
    /// Why it ended early.
    public var failure: String?

    public init() {}
}

/// What gives memory back when it is told to. The engine, to this room.
public protocol PressureTarget: Sendable {
    var residentBytes: Int { get }
    var reclaimableBytes: Int { get }
    var isStoreInMemory: Bool { get }
    /// Frees about so many bytes, as background work; blocks. `isWanted` is asked again and again; false ends it early.
    func reclaim(_ bytes: Int, isWanted: @escaping @Sendable () -> Bool) -> PressureOutcome
}
