import ShrinkLinux

/// Stops operations that were given it: a client that is gone, a signal, a shutdown. What they did stays done, and they go on when asked again.
///
/// The kernel's counterpart is a pending signal in an interruptible wait. It is set once and stays set.
public final class Cancellation: Sendable {
    private struct State {
        var isCancelled = false
        var wakers: [Int: @Sendable () -> Void] = [:]
        var next = 0
    }

    private let state = Monitor(State())

    public init() {}

    public var isCancelled: Bool { state.withLock { $0.isCancelled } }

    /// From any thread, more than once if need be.
    public func cancel() {
        let wakers = state.withLock { state in
            state.isCancelled = true
            return Array(state.wakers.values)
        }
        for wake in wakers { wake() }
    }

    /// Wakes the monitor's waiters when cancelled while `body` runs. The lock is taken first, so that nobody misses it between test and wait.
    func whileWaking<S: ~Copyable, R>(_ monitor: Monitor<S>, _ body: () -> R) -> R {
        let key = state.withLock { state in
            defer { state.next += 1 }
            state.wakers[state.next] = {
                monitor.withLock { _ in }
                monitor.notifyAll()
            }
            return state.next
        }
        defer { state.withLock { $0.wakers[key] = nil } }
        return body()
    }
}
