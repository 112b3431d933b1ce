import ShrinkLinux
import SystemPackage

/// An object of a guarded loop: reserved for the time of one call and no longer. It can't be copied or kept, so the reservation can't leak.
public struct ReservedView: ~Copyable {
    public let id: ObjectID
    private let engine: Engine
    private let slot: UInt32
    private let staging: Staging
    private let cancellation: Cancellation?

    // Not inlined: specialising a generic walk around it ends Swift 6.3's optimiser.
    @inline(never)
    fileprivate init(_ id: ObjectID, _ slot: UInt32, _ staging: Staging, _ engine: Engine, _ cancellation: Cancellation?) {
        (self.id, self.slot, self.staging, self.engine, self.cancellation) = (id, slot, staging, engine, cancellation)
    }

    public var priority: Priority { engine.state.withLock { $0.objects[slot].priority } }
    /// An upper bound of what it has in the pool, in pages.
    public var reclaimablePages: Int { engine.state.withLock { $0.objects[slot].reclaimablePages } }
    /// False once somebody pinned it, or nothing of it is left in the pool (`ttm_bo_shrink_suitable`).
    public var isShrinkable: Bool { engine.state.withLock { $0.objects[slot].isShrinkable } }

    /// Moves up to `pages` out, or purges them if the content is expendable (`ttm_bo_shrink`). Wakes the backup's device if need be, as a
    /// background caller may. The loop's cancellation stops it between two runs.
    public borrowing func shrink(pages: Int = .max) -> ShrinkResult {
        var result = ShrinkResult()
        guard pages > 0, isShrinkable else { return result }
        let power = PowerHolds(pools: [engine.state.withLock { $0.pool(of: slot) }], caller: .background)
        defer { power.release() }
        guard power.asleep.isEmpty else {
            result.deferredObjects = 1
            return result
        }
        let outcome = engine.shrinkReserved(slot, goalPages: pages, staging) { _, _ in cancellation?.isCancelled != true }
        result.add(outcome)
        result.freedBytes = ByteCount(outcome.freedBasePages * basePageSize)
        result.failure = outcome.failure
        return result
    }
}

public enum WalkStep: Sendable {
    case next
    case stop
}

/// How a guarded loop ended; never a count.
public enum WalkEnd: Sendable, Equatable {
    /// Every object was visited, but those that others had.
    case finished(busy: Int)
    /// The body said so.
    case stopped
    case interrupted
    /// All cursors or tickets are in use.
    case refused
}

extension Engine {
    /// Visits shrinkable objects in the order of reclaim, each reserved while `body` runs. Whatever ends the loop, `stop`, a throw, a cancellation, lets
    /// go of the object and of the cursor.
    ///
    /// The loop has one of `Configuration.concurrentOperations` copy buffers; a body that calls pin, recover or shrink itself waits for another one, and for ever
    /// for the object that it visits.
    ///
    /// `waitingOnce`: the first object that somebody else has is waited for under a ticket; from then on busy ones are passed over, as in
    /// the kernel's `ttm_bo_lru_for_each_reserved_guarded`.
    public func forEachReserved<E: Error>(
        in pool: PoolID? = nil, waitingOnce: Bool = false, cancellation: Cancellation? = nil,
        _ body: (borrowing ReservedView) throws(E) -> WalkStep
    ) throws(E) -> WalkEnd {
        guard waitingOnce else { return try walk(pool, ticket: 0, cancellation, body) }
        guard let ticket = state.withLock({ $0.tickets.make() }) else { return .refused }
        defer { state.withLock { $0.tickets.end(ticket) } }
        return try walk(pool, ticket: ticket, cancellation, body)
    }

    private func walk<E: Error>(
        _ pool: PoolID?, ticket: UInt32, _ cancellation: Cancellation?, _ body: (borrowing ReservedView) throws(E) -> WalkStep
    ) throws(E) -> WalkEnd {
        guard let staging = self.staging.take(cancellation) else { return .interrupted }
        defer { self.staging.giveBack(staging) }
        guard var cursor = state.withLock({ $0.lru.makeCursor() }) else { return .refused }
        defer { state.withLock { $0.lru.end(cursor) } }
        var waits = ticket
        var busy = 0
        while true {
            if cancellation?.isCancelled == true { return .interrupted }
            switch state.withLock({ $0.nextReserved(&cursor, pool, ticket: ticket) }) {
            case .finished: return .finished(busy: busy)
            case .busy(let id):
                guard waits != 0 else {
                    busy += 1
                    continue
                }
                waits = 0
                switch reserve(id, cancellation.map { .interruptible($0) } ?? .wait, ticket: ticket) {
                case .reserved(let slot):
                    // Looked at again: while we waited it may have been pinned or moved out.
                    guard state.withLock({ $0.objects[slot].isShrinkable }) else {
                        release(slot)
                        continue
                    }
                    if try visit(id, slot, staging, cancellation, body) == .stop { return .stopped }
                case .interrupted: return .interrupted
                case .gone, .alreadyHeld: continue
                case .busy, .deadlock: busy += 1
                }
            case .reserved(let id, let slot): if try visit(id, slot, staging, cancellation, body) == .stop { return .stopped }
            }
        }
    }

    private func visit<E: Error>(
        _ id: ObjectID, _ slot: UInt32, _ staging: Staging, _ cancellation: Cancellation?,
        _ body: (borrowing ReservedView) throws(E) -> WalkStep
    ) throws(E) -> WalkStep {
        defer { release(slot) }
        return try body(ReservedView(id, slot, staging, self, cancellation))
    }

    /// Exhaustive eviction: trylock walks first, then walks under one ticket that wait for busy objects, until `goalPages` are freed or nothing is left.
    public func evict(goalPages: Int = .max, in pool: PoolID? = nil, cancellation: Cancellation? = nil) -> ShrinkResult {
        let started = MonotonicTime.now()
        var result = ShrinkResult()
        var freed = 0
        func pass(_ ticket: UInt32) -> (end: WalkEnd, freed: Int) {
            let before = freed
            let end = walk(pool, ticket: ticket, cancellation) { object in
                var one = object.shrink(pages: goalPages - freed)
                freed += one.freedBytes.rawValue / basePageSize
                (one.failure, result.failure) = (nil, result.failure ?? one.failure)
                result.add(one)
                return freed >= goalPages ? .stop : .next
            }
            return (end, freed - before)
        }
        var last = pass(0)
        if case .finished(let busy) = last.end, busy > 0 || last.freed > 0, let ticket = state.withLock({ $0.tickets.make() }) {
            // One walk waits for one object; while that brings something or somebody was in the way, there may be more.
            repeat {
                last = pass(ticket)
            } while last.end != .stopped && last.end != .interrupted && last.end != .refused
                && (last.freed > 0 || last.end != .finished(busy: 0))
            state.withLock { $0.tickets.end(ticket) }
        }
        if last.end == .interrupted {
            result.failure = result.failure ?? EngineError(.interrupted, "eviction was stopped; it goes on when asked again")
        }
        result.durationNanoseconds = MonotonicTime.now().nanoseconds(since: started)
        return result
    }
}

extension ShrinkResult {
    mutating func add(_ other: ShrinkResult) {
        scannedPages += other.scannedPages
        backedUpPages += other.backedUpPages
        zeroPages += other.zeroPages
        purgedPages += other.purgedPages
        freedBytes = freedBytes + other.freedBytes
        storedBytes = storedBytes + other.storedBytes
        netFreedBytes = netFreedBytes + other.netFreedBytes
        hugePageBytes = hugePageBytes + other.hugePageBytes
        deferredObjects += other.deferredObjects
    }
}

extension EngineState {
    enum CursorStep {
        case reserved(ObjectID, UInt32)
        case busy(ObjectID)
        case finished
    }

    /// The next object of a walk, tried: trylock and look in one hold of the lock.
    mutating func nextReserved(_ cursor: inout LRU.Cursor, _ pool: PoolID?, ticket: UInt32) -> CursorStep {
        while let slot = lru.next(&cursor) {
            let object = objects[slot]
            guard object.life == .live, pool == nil || object.pool == pool?.rawValue else { continue }
            guard object.reservation == .free else { return .busy(ObjectID(rawValue: object.id)) }
            take(slot, ticket: ticket)
            return .reserved(ObjectID(rawValue: object.id), slot)
        }
        return .finished
    }
}
