public import SystemPackage

/// What went wrong, in one sentence that names the cause and the way out.
public struct EngineError: Error, Sendable, CustomStringConvertible {
    public struct Code: Hashable, Sendable {
        enum Value: Hashable, Sendable {
            case noSuchPool, noSuchObject, nameTaken, invalidName, invalidSize, poolFull, limitReached, busy, notPinned
            case backupFull, backupFailed, outOfMemory, damaged, interrupted, shuttingDown, unsuitableDirectory, foreignLedger, purged,
                faultsNotAllowed, invalidFault, unsuitableMapping, system
        }
        let value: Value

        public static let noSuchPool = Code(value: .noSuchPool)
        public static let noSuchObject = Code(value: .noSuchObject)
        public static let nameTaken = Code(value: .nameTaken)
        public static let invalidName = Code(value: .invalidName)
        public static let invalidSize = Code(value: .invalidSize)
        /// No free range of that length in the pool.
        public static let poolFull = Code(value: .poolFull)
        public static let limitReached = Code(value: .limitReached)
        /// Pinned, or held by another operation that does not wait.
        public static let busy = Code(value: .busy)
        public static let notPinned = Code(value: .notPinned)
        /// ENOSPC from the backup: what went out stays out, the rest stays resident.
        public static let backupFull = Code(value: .backupFull)
        /// Any other error of the backup.
        public static let backupFailed = Code(value: .backupFailed)
        /// No room to bring pages back; nothing changed.
        public static let outOfMemory = Code(value: .outOfMemory)
        /// The backup no longer has a page, or has it wrong. It is reported, never replaced by zeros.
        public static let damaged = Code(value: .damaged)
        /// The caller stopped the operation; it goes on where it stopped when called again.
        public static let interrupted = Code(value: .interrupted)
        public static let shuttingDown = Code(value: .shuttingDown)
        /// The directory can't serve as a backup.
        public static let unsuitableDirectory = Code(value: .unsuitableDirectory)
        /// The memory file is not a ledger of this version.
        public static let foreignLedger = Code(value: .foreignLedger)
        /// The content was given up for want of memory; the next pin says so and makes it zeros.
        public static let purged = Code(value: .purged)
        /// Faults are set on a backup whose server was not started for that.
        public static let faultsNotAllowed = Code(value: .faultsNotAllowed)
        public static let invalidFault = Code(value: .invalidFault)
        /// The memory or the userfaultfd of a mapping can't be registered for touch.
        public static let unsuitableMapping = Code(value: .unsuitableMapping)
        public static let system = Code(value: .system)
    }

    public var code: Code
    public var message: String
    public var errno: Errno?

    public init(_ code: Code, _ message: String, errno: Errno? = nil) {
        self.code = code
        self.message = message
        self.errno = errno
    }

    public var description: String { errno.map { "\(message) (\($0))" } ?? message }
}

extension EngineError {
    /// An errno from a call on a pool's memory file.
    static func poolFile(_ action: String, _ error: Errno) -> EngineError {
        switch error {
        case .resourceBusy, .timedOut:
            EngineError(
                .busy,
                "\(action): the pool is stalled, for a process holds its memory file in the middle of a write to it from memory that is missing; end that process",
                errno: error)
        default: EngineError(.system, action, errno: error)
        }
    }

    /// An errno from the backup directory.
    static func backup(_ action: String, _ error: Errno) -> EngineError {
        switch error {
        case .noSpace, .diskQuotaExceeded:
            EngineError(.backupFull, "\(action): the backup is full; free space in the store or add a store", errno: error)
        case .readOnlyFileSystem:
            EngineError(.backupFailed, "\(action): the backup is read-only; remount it writable", errno: error)
        case .socketNotConnected:
            EngineError(.backupFailed, "\(action): the backup file system has no server; see the log of backupfs", errno: error)
        default:
            EngineError(.backupFailed, "\(action) failed", errno: error)
        }
    }
}
