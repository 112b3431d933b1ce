public import ShrinkProtocol
import Varlink

/// Why a call of a client failed.
public struct ShrinkdError: Error, Sendable, CustomStringConvertible {
    public struct Code: Hashable, Sendable {
        enum Value: Hashable, Sendable {
            case notRunning, notAllowed, disconnected, timedOut, cancelled
            case noSuchPool, noSuchObject, nameTaken, invalidArgument, invalidSize, outOfSpace, outOfMemory, backupFull, backupFailed
            case busy, notPinned, damaged, interrupted, shuttingDown, limitReached, faultsNotAllowed, invalidFault, sessionLost,
                unsuitableMapping
            case protocolViolation, system
        }
        let value: Value

        /// No daemon listens at the socket.
        public static let notRunning = Code(value: .notRunning)
        public static let notAllowed = Code(value: .notAllowed)
        /// The daemon closed the connection before it answered.
        public static let disconnected = Code(value: .disconnected)
        public static let timedOut = Code(value: .timedOut)
        public static let cancelled = Code(value: .cancelled)
        public static let noSuchPool = Code(value: .noSuchPool)
        public static let noSuchObject = Code(value: .noSuchObject)
        public static let nameTaken = Code(value: .nameTaken)
        /// A name or number that the daemon does not take.
        public static let invalidArgument = Code(value: .invalidArgument)
        public static let invalidSize = Code(value: .invalidSize)
        public static let outOfSpace = Code(value: .outOfSpace)
        public static let outOfMemory = Code(value: .outOfMemory)
        public static let backupFull = Code(value: .backupFull)
        public static let backupFailed = Code(value: .backupFailed)
        public static let busy = Code(value: .busy)
        public static let notPinned = Code(value: .notPinned)
        public static let damaged = Code(value: .damaged)
        public static let interrupted = Code(value: .interrupted)
        public static let shuttingDown = Code(value: .shuttingDown)
        public static let limitReached = Code(value: .limitReached)
        /// The daemon was not started for faults on its store.
        public static let faultsNotAllowed = Code(value: .faultsNotAllowed)
        public static let invalidFault = Code(value: .invalidFault)
        /// The memory or the userfaultfd of a mapping can't be registered for touch.
        public static let unsuitableMapping = Code(value: .unsuitableMapping)
        /// The daemon came back without what this client held: pools have to be made, and objects pinned, anew.
        public static let sessionLost = Code(value: .sessionLost)
        /// The other side does not speak this protocol.
        public static let protocolViolation = Code(value: .protocolViolation)
        public static let system = Code(value: .system)
    }

    public var code: Code
    /// Cause and way out, one line.
    public var message: String
    public var description: String { message }

    public init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }

    /// What a Varlink call failed with.
    init(_ failure: VarlinkFailure) {
        switch failure {
        case .transport(let error): self.init(error)
        case .answered(let error): self.init(error)
        }
    }

    init(_ error: TransportError) {
        switch error.code {
        case .notRunning: self.init(.notRunning, "shrinkd is not running (\(error.message)); start it with `shrinkd`, or name its socket")
        case .notAllowed: self.init(.notAllowed, "\(error.message); ask who runs shrinkd, or name another socket")
        case .disconnected: self.init(.disconnected, "\(error.message); see shrinkd's log, and try again")
        case .timedOut: self.init(.timedOut, error.message)
        case .cancelled: self.init(.cancelled, error.message)
        case .protocolViolation, .encoding: self.init(.protocolViolation, error.message)
        case .busy: self.init(.busy, error.message)
        case .system: self.init(.system, error.message)
        }
    }

    init(_ error: VarlinkError) {
        guard let name = WireErrorName(fullName: error.name) else {
            let parameter = error.decode([String: String].self) ?? [:]
            switch error.name {
            case "org.varlink.service.InvalidParameter":
                self.init(
                    .invalidArgument,
                    "shrinkd does not take this value of \(parameter["parameter"] ?? "a parameter"); see docs/control-protocol.md")
            case "org.varlink.service.PermissionDenied": self.init(.notAllowed, "only root, or the user who runs shrinkd, may do this")
            default:
                self.init(
                    .protocolViolation,
                    "what listens at the socket is no shrinkd of this version: \(error.name) \(parameter.values.joined(separator: " "))")
            }
            return
        }
        let message = error.decode(WireErrorParameters.self)?.message ?? name.rawValue
        self.init(Self.code(name), message)
    }

    /// What an operation that did part of its work met with.
    public init(_ failure: WireFailure) {
        self.init(WireErrorName(fullName: failure.errorName).map(Self.code) ?? .system, failure.message)
    }

    private static func code(_ name: WireErrorName) -> Code {
        switch name {
        case .noSuchPool: .noSuchPool
        case .noSuchObject: .noSuchObject
        case .nameTaken: .nameTaken
        case .invalidName: .invalidArgument
        case .invalidSize: .invalidSize
        case .outOfSpace: .outOfSpace
        case .outOfMemory: .outOfMemory
        case .backupFull: .backupFull
        case .backupFailed: .backupFailed
        case .busy: .busy
        case .notPinned: .notPinned
        case .damaged: .damaged
        case .interrupted: .interrupted
        case .shuttingDown: .shuttingDown
        case .limitReached: .limitReached
        case .faultsNotAllowed: .faultsNotAllowed
        case .invalidFault: .invalidFault
        case .unsuitableMapping: .unsuitableMapping
        case .noSuchSession: .sessionLost
        case .systemFailure: .system
        }
    }
}
