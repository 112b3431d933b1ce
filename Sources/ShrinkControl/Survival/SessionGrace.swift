import ShrinkLinux
import Synchronization
import SystemPackage

/// Ends sessions whose client does not come back after the engine's death: at once when its process has ended, and all that are left when the
/// grace is over. A process that is stopped for longer than that loses its pins.
final class SessionGrace: Sendable {
    /// From the new engine's start.
    static let milliseconds: UInt64 = 60_000

    private enum Token {
        static let stop: UInt64 = 0
        static let firstSession: UInt64 = 1
    }

    private let stop: Wakeup
    private let thread: DedicatedThread

    /// `end` is called on the grace's own thread for each session that ends.
    init(
        _ sessions: [Sessions.Waiting], milliseconds: UInt64 = SessionGrace.milliseconds,
        end: @escaping @Sendable (SessionToken, _ processHasEnded: Bool) -> Void
    ) throws(Errno) {
        let stop = try Wakeup()
        self.stop = stop
        let epoll = try Epoll()
        try epoll.add(stop.number, .input, token: Token.stop)
        let deadline = MonotonicTime.now().advanced(milliseconds: milliseconds)
        thread = try DedicatedThread("session-grace", stackSize: 256 << 10) {
            // Held here so that they stay open; a descriptor leaves the epoll set when it is closed.
            var watched: [UInt64: SharedDescriptor] = [:]
            for (index, session) in sessions.enumerated() {
                switch Result(catching: { () throws(Errno) in try session.process.watch() }) {
                case .success(.ended): end(session.token, true)
                case .success(.alive(let process)):
                    watched[Token.firstSession + UInt64(index)] = process
                    try? epoll.add(process.number, .input, token: Token.firstSession + UInt64(index))
                // Not to be watched: the grace alone counts.
                case .success(.unknown), .failure: break
                }
            }
            while true {
                let now = MonotonicTime.now()
                if now >= deadline { break }
                let left = CInt(clamping: (deadline.nanoseconds(since: now) + 999_999) / 1_000_000)
                guard let events = try? epoll.wait(timeoutMilliseconds: left) else { return }
                for event in events {
                    if event.token == Token.stop { return }
                    watched[event.token] = nil
                    end(sessions[Int(event.token - Token.firstSession)].token, true)
                }
            }
            for session in sessions { end(session.token, false) }
        }
    }

    /// Ends the watch; sessions that wait go on waiting.
    func finish() {
        stop.signal()
        thread.join()
    }
}
