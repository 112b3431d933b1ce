import ShrinkClient
import SystemPackage

/// Why a command ends with another exit status than 0.
struct CommandFailure: Error {
    /// One line: cause and way out.
    var message: String
    var exitCode: Int32
    /// For programs: what kind of failure.
    var name: String
    /// The command has printed its JSON document already.
    var isReported = false

    init(_ message: String, exitCode: Int32 = 1, name: String) {
        self.message = message
        self.exitCode = exitCode
        self.name = name
    }

    init(_ error: ShrinkdError) {
        let (code, name) = Self.status(error.code)
        self.init(error.message, exitCode: code, name: name)
    }

    static func input(_ path: String, _ error: Errno) -> CommandFailure {
        CommandFailure("cannot read \(path): \(error)", exitCode: 66, name: "input_file")
    }

    static func output(_ path: String, _ error: Errno) -> CommandFailure {
        CommandFailure("cannot make \(path): \(error)", exitCode: 73, name: "output_file")
    }

    static func transfer(_ what: String, _ error: Errno) -> CommandFailure {
        CommandFailure("\(what) failed: \(error)", exitCode: 74, name: "io")
    }

    private static func status(_ code: ShrinkdError.Code) -> (Int32, String) {
        switch code {
        case .notRunning: (69, "not_running")
        case .notAllowed: (77, "not_permitted")
        case .protocolViolation: (76, "protocol")
        case .noSuchPool: (1, "no_such_pool")
        case .noSuchObject: (1, "no_such_object")
        case .nameTaken: (1, "name_taken")
        case .invalidArgument: (1, "invalid_argument")
        case .invalidSize: (1, "invalid_size")
        case .outOfSpace: (1, "out_of_space")
        case .outOfMemory: (1, "out_of_memory")
        case .backupFull: (1, "backup_full")
        case .backupFailed: (1, "backup_failed")
        case .busy: (1, "busy")
        case .notPinned: (1, "not_pinned")
        case .damaged: (1, "damaged")
        case .interrupted: (1, "interrupted")
        case .shuttingDown: (1, "shutting_down")
        case .limitReached: (1, "limit_reached")
        case .faultsNotAllowed: (1, "faults_not_allowed")
        case .invalidFault: (1, "invalid_fault")
        case .sessionLost: (1, "session_lost")
        case .disconnected: (1, "disconnected")
        case .timedOut: (1, "timed_out")
        default: (1, "failed")
        }
    }
}

/// Runs calls of the client library as part of a command.
func perform<R: ~Copyable>(_ body: () throws(ShrinkdError) -> R) throws(CommandFailure) -> R {
    do throws(ShrinkdError) { return try body() } catch { throw CommandFailure(error) }
}
