import ShrinkLinux
import ShrinkProtocol
import Synchronization

/// What a client tells each engine of a mapping, and what the engine said last.
final class TouchRegistration: Sendable {
    private struct State {
        var id: Int?
        var failure: ShrinkdError?
        var isAbandoned = false
    }

    let parameters: RegisterMappingParameters
    /// Kept: as long as somebody has it, a missing page is waited for and never read as zeros.
    let userfaults: SharedDescriptor
    private let state = Mutex(State())

    init(_ parameters: RegisterMappingParameters, _ userfaults: SharedDescriptor) {
        self.parameters = parameters
        self.userfaults = userfaults
    }

    /// Nil while it is registered nowhere.
    var id: Int? { state.withLock { $0.id } }
    /// Why the engine that came last does not serve it.
    var failure: ShrinkdError? { state.withLock { $0.failure } }
    /// Its mapping is gone.
    var isAbandoned: Bool { state.withLock { $0.isAbandoned } }

    func note(_ id: Int?) { state.withLock { ($0.id, $0.failure) = (id, nil) } }
    func note(failure: ShrinkdError) { state.withLock { ($0.id, $0.failure) = (nil, failure) } }
    func abandon() { state.withLock { $0.isAbandoned = true } }
}
