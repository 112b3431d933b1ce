import ShrinkLinux

/// How the wait for an object's reservation ends. Distinct cases, so that none is taken for a count or for success
/// (reference §4.2, trap 1b).
enum Reserving: Equatable {
    case reserved(UInt32)
    /// Somebody has it, and the caller does not wait.
    case busy
    /// An older ticket wants what this one holds: let go of everything, then start again with the same ticket.
    case deadlock
    /// This ticket has it already.
    case alreadyHeld
    /// The caller was told to stop.
    case interrupted
    /// Destroyed, perhaps while waiting.
    case gone
}

/// What a caller does when somebody else has the reservation.
enum WaitPolicy {
    case never
    case wait
    case interruptible(Cancellation)
}

/// Who holds several reservations at once takes a ticket first (the kernel's `ww_acquire_ctx`). The older of two wins: it wounds the younger, which
/// sees a deadlock at its next step and lets go; the younger waits.
struct Tickets {
    private struct Ticket {
        var stamp: UInt64 = 0
        var isWounded = false
        var held = 0
    }

    private var tickets = [Ticket](repeating: Ticket(), count: EngineLimits.tickets)
    private var nextStamp: UInt64 = 1

    /// From 1; nil if all are in use.
    mutating func make() -> UInt32? {
        guard let index = tickets.firstIndex(where: { $0.stamp == 0 }) else { return nil }
        tickets[index] = Ticket(stamp: nextStamp)
        nextStamp += 1
        return UInt32(index) + 1
    }

    mutating func end(_ ticket: UInt32) {
        precondition(self[ticket].held == 0, "a ticket ends that still holds objects")
        tickets[Int(ticket) - 1] = Ticket()
    }

    private subscript(ticket: UInt32) -> Ticket {
        get { tickets[Int(ticket) - 1] }
        set { tickets[Int(ticket) - 1] = newValue }
    }

    func isOlder(_ a: UInt32, than b: UInt32) -> Bool { self[a].stamp < self[b].stamp }

    /// Set by a wound, until the one who gave it has woken the waiters: the wounded may be one of them.
    private(set) var hasNewWound = false

    mutating func wound(_ ticket: UInt32) {
        if !self[ticket].isWounded { hasNewWound = true }
        self[ticket].isWounded = true
    }

    mutating func takeNewWound() -> Bool {
        defer { hasNewWound = false }
        return hasNewWound
    }

    /// True if the ticket has to let go. One that holds nothing stands in nobody's way.
    func mustLetGo(_ ticket: UInt32) -> Bool { self[ticket].isWounded && self[ticket].held > 0 }

    mutating func took(_ ticket: UInt32) { self[ticket].held += 1 }

    mutating func letGo(_ ticket: UInt32) {
        self[ticket].held -= 1
        if self[ticket].held == 0 { self[ticket].isWounded = false }
    }
}

extension EngineState {
    /// One attempt; `.busy` means that somebody else has it now. The counterpart of `ttm_bo_reserve`.
    ///
    /// `isEnding`: the caller is the one who destroys it; for others it is gone already.
    mutating func tryReserve(_ id: ObjectID, ticket: UInt32 = 0, isEnding: Bool = false) -> Reserving {
        guard let slot = objects.slot(of: id), objects[slot].life == .live || isEnding && objects[slot].life == .ending else {
            return .gone
        }
        if ticket != 0, objects[slot].reservation == .held, objects[slot].holder == ticket { return .alreadyHeld }
        if ticket != 0, tickets.mustLetGo(ticket) { return .deadlock }
        guard objects[slot].reservation == .free else {
            let holder = objects[slot].holder
            if ticket != 0, holder != 0, tickets.isOlder(ticket, than: holder) { tickets.wound(holder) }
            return .busy
        }
        take(slot, ticket: ticket)
        return .reserved(slot)
    }

    mutating func take(_ slot: UInt32, ticket: UInt32 = 0) {
        assert(objects[slot].reservation == .free, "a reservation is taken twice")
        objects[slot].reservation = .held
        objects[slot].holder = ticket
        if ticket != 0 { tickets.took(ticket) }
    }

    mutating func release(_ slot: UInt32) {
        assert(objects[slot].reservation == .held, "a reservation is released twice")
        objects[slot].reservation = .free
        if objects[slot].holder != 0 { tickets.letGo(objects[slot].holder) }
        objects[slot].holder = 0
        let touched = takeTouched(slot)
        if touched.isAny { countTouched(slot, touched) }
    }

    /// What faults brought back since the reservation was taken, to be counted by the caller.
    mutating func takeTouched(_ slot: UInt32) -> BufferObject.Touched {
        defer { objects[slot].touched = BufferObject.Touched() }
        return objects[slot].touched
    }

    /// Pages that a fault brought back.
    mutating func noteTouched(_ slot: UInt32, _ touched: BufferObject.Touched) {
        guard objects[slot].reservation == .held else { return countTouched(slot, touched) }
        objects[slot].touched.backedUpPages += touched.backedUpPages
        objects[slot].touched.zeroPages += touched.zeroPages
        objects[slot].touched.isAny = true
    }

    private mutating func countTouched(_ slot: UInt32, _ touched: BufferObject.Touched) {
        let (backedUp, zero) = (touched.backedUpPages, touched.zeroPages)
        let pool = pool(of: slot)
        addBackedUp(-Int(backedUp), to: pool)
        pool.zeroPages -= Int(zero)
        change(slot) { object in
            object.backedUpPages -= backedUp
            object.zeroPages -= zero
            object.isExhausted = false
        }
        bump(slot)
    }
}

extension Engine {
    /// Takes an object's reservation. Who needs a staging buffer takes that first, or two could wait for each other.
    func reserve(_ id: ObjectID, _ policy: WaitPolicy, ticket: UInt32 = 0, isEnding: Bool = false) -> Reserving {
        if let faults = configuration.faults, faults(.reserve, id, PageIndex(rawValue: 0)) != nil { return .interrupted }
        func attempt(_ state: inout EngineState) -> Reserving? {
            let result = state.tryReserve(id, ticket: ticket, isEnding: isEnding)
            if state.tickets.takeNewWound() { self.state.notifyAll() }
            return result == .busy ? nil : result
        }
        switch policy {
        case .never: return state.withLock { attempt(&$0) ?? .busy }
        case .wait: return state.wait { attempt(&$0) }
        case .interruptible(let cancellation):
            return cancellation.whileWaking(state) {
                state.wait { cancellation.isCancelled ? .interrupted : attempt(&$0) }
            }
        }
    }

    /// As above, for callers that have an object's user to answer to.
    func reserve(_ id: ObjectID, cancellation: Cancellation? = nil) throws(EngineError) -> UInt32 {
        switch reserve(id, cancellation.map { .interruptible($0) } ?? .wait) {
        case .reserved(let slot): return slot
        case .gone: throw EngineError(.noSuchObject, "there is no \(id)")
        case .interrupted: throw EngineError(.interrupted, "the wait for \(id) was stopped; nothing changed, ask again")
        case .busy, .deadlock, .alreadyHeld: throw EngineError(.busy, "\(id) is in use by another operation; try again")
        }
    }

    func release(_ slot: UInt32) {
        state.withLock { $0.release(slot) }
        state.notifyAll()
    }
}
