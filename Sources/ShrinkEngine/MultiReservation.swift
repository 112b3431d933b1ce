import ShrinkLinux

/// How taking several reservations at once ended.
public enum MultiReservation<Result> {
    case done(Result)
    case interrupted
    /// One of them is not there (any more).
    case gone(ObjectID)
    /// All tickets are in use.
    case refused
}

extension MultiReservation: Sendable where Result: Sendable {}

extension Engine {
    /// Runs `body` while all of the objects are reserved: nobody shrinks, recovers, pins or destroys them meanwhile. Callers with overlapping sets never
    /// deadlock: the older ticket wins, the younger lets go of what it has and starts again with the contended object, keeping its age.
    ///
    /// `body` must not call what copies or waits for an object (pin, recover, shrink): those take a copy buffer first, which one who waits for these
    /// objects may have.
    ///
    /// The counterparts are `ww_acquire_init`, `ttm_eu_reserve_buffers` and `drm_exec`.
    public func withReserved<R, E: Error>(
        _ ids: [ObjectID], cancellation: Cancellation? = nil, _ body: () throws(E) -> R
    ) throws(E) -> MultiReservation<R> {
        guard let ticket = state.withLock({ $0.tickets.make() }) else { return .refused }
        defer { state.withLock { $0.tickets.end(ticket) } }
        let policy = cancellation.map { WaitPolicy.interruptible($0) } ?? .wait
        var order = ids
        while true {
            var held: [UInt32] = []
            defer { for slot in held { release(slot) } }
            var contended: Int?
            attempt: for (index, id) in order.enumerated() {
                switch reserve(id, policy, ticket: ticket) {
                case .reserved(let slot): held.append(slot)
                case .alreadyHeld: continue
                case .deadlock, .busy:
                    contended = index
                    break attempt
                case .interrupted: return .interrupted
                case .gone: return .gone(id)
                }
            }
            guard let contended else { return .done(try body()) }
            // The slow path: next time the one that was missing is waited for first, with nothing in hand.
            order.swapAt(0, contended)
        }
    }
}
