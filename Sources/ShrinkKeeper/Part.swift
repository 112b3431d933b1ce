import ServiceSupport
public import ShrinkLinux

/// One of the two programs that a keeper starts.
public enum Part: Int, CaseIterable, Sendable, CustomStringConvertible {
    /// The file server. The engine works on its mount, so it starts first and ends last.
    case backupfs
    case engine

    public var description: String {
        switch self {
        case .backupfs: "backupfs"
        case .engine: "engine"
        }
    }
}

/// How an attempt to run a part came to its end.
public enum PartEnding: Sendable, Equatable, CustomStringConvertible {
    case ended(ChildProcess.Ending)
    /// The program could not be started at all.
    case neverStarted(String)

    public var description: String {
        switch self {
        case .ended(let ending): ending.description
        case .neverStarted(let why): why
        }
    }

    /// It left everything to its successor.
    var isRestart: Bool { self == .ended(.exited(RestartRequest.exitStatus)) }

    /// Starting again cannot help: usage, a store that is damaged, missing or not writable, permission, configuration (sysexits.h).
    var isPermanent: Bool {
        if case .ended(.exited(let code)) = self { return [64, 65, 66, 73, 77, 78].contains(code) }
        return false
    }
}

/// Every wait of a keeper, in milliseconds, and how often it tries again.
public struct SupervisionLimits: Sendable, Equatable {
    /// From the start of a part to its READY=1.
    public var start: UInt64 = 60_000
    /// The pause before a part is started again doubles from the first to the last value.
    public var firstPause: UInt64 = 100
    public var lastPause: UInt64 = 5_000
    /// A part that was ready this long has proved itself: its failures are counted anew.
    public var steady: UInt64 = 10_000
    /// So many failures in a row, none of them after a steady time, and the keeper gives up.
    public var failures = 8
    /// While the engine ends, the longest time without a sign of progress (STATUS or EXTEND_TIMEOUT_USEC).
    public var engineSilence: UInt64 = 90_000
    /// From SIGTERM to the end of the file server.
    public var backupfsStop: UInt64 = 10_000
    /// From a last warning (the second SIGTERM, or SIGKILL) to the end of a part.
    public var lastWarning: UInt64 = 10_000
    /// The most that one EXTEND_TIMEOUT_USEC buys.
    public var mostExtension: UInt64 = 600_000

    public init() {}
}
