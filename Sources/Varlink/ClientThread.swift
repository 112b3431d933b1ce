import ShrinkLinux
import SystemPackage

/// The thread on which a client's async calls wait for the socket. It starts with the first of them and ends with the client, who calls `finish`.
public final class ClientThread: Sendable {
    private struct State {
        var jobs: [@Sendable () -> Void] = []
        var started = false
        var finished = false
    }
    private let state = Monitor(State())

    public init() {}

    /// Runs `job` there, after those before it.
    public func run(_ job: @escaping @Sendable () -> Void) {
        let start = state.withLock {
            $0.jobs.append(job)
            let first = !$0.started
            $0.started = true
            return first
        }
        if start {
            let state = state
            do throws(Errno) { try DedicatedThread("varlink-client") { Self.work(state) }.detach() } catch {
                // No thread to be had: the job still has to answer its waiter. It blocks its caller once; the next one tries again.
                state.withLock { $0.started = false }
                Self.drain(state)
            }
        } else {
            state.notifyAll()
        }
    }

    public func finish() {
        state.withLock { $0.finished = true }
        state.notifyAll()
    }

    private static func work(_ state: Monitor<State>) {
        while true {
            let job: (@Sendable () -> Void)? = state.wait {
                if !$0.jobs.isEmpty { return .some($0.jobs.removeFirst()) }
                return $0.finished ? .some(nil) : nil
            }
            guard let job else { return }
            job()
        }
    }

    private static func drain(_ state: Monitor<State>) {
        for job in state.withLock({ takeAll(&$0.jobs) }) { job() }
    }
}
