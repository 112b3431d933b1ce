import ShrinkEngine
import ShrinkProtocol
import Varlink

/// Why a call is answered with an error.
enum ControlError: Error {
    case service(WireErrorName, String)
    case parameter(String)
    case permissionDenied
    /// An error of Varlink itself.
    case varlink(VarlinkError)

    init(_ error: EngineError) { self = .service(WireErrorName(error.code), error.description) }

    var reply: VarlinkError {
        switch self {
        case .service(let name, let message): VarlinkError(name.fullName, WireErrorParameters(message: message))
        case .parameter(let name): .invalidParameter(name)
        case .permissionDenied: .permissionDenied
        case .varlink(let error): error
        }
    }
}

extension WireErrorName {
    init(_ code: EngineError.Code) {
        switch code {
        case .noSuchPool: self = .noSuchPool
        case .noSuchObject: self = .noSuchObject
        case .nameTaken: self = .nameTaken
        case .invalidName: self = .invalidName
        case .invalidSize: self = .invalidSize
        case .poolFull: self = .outOfSpace
        case .limitReached: self = .limitReached
        case .busy: self = .busy
        case .notPinned: self = .notPinned
        case .backupFull: self = .backupFull
        case .backupFailed: self = .backupFailed
        case .outOfMemory: self = .outOfMemory
        case .damaged: self = .damaged
        case .interrupted: self = .interrupted
        case .shuttingDown: self = .shuttingDown
        case .faultsNotAllowed: self = .faultsNotAllowed
        case .invalidFault: self = .invalidFault
        case .unsuitableMapping: self = .unsuitableMapping
        default: self = .systemFailure
        }
    }
}

extension WireFailure {
    init(_ error: EngineError) { self.init(errorName: WireErrorName(error.code).fullName, message: error.description) }
}
