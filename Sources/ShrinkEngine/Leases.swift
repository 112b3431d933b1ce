import Logging
import ShrinkLinux
import SystemPackage

// Memory that a device uses. A page that is pinned by a device and punched out of its file is not freed: the device keeps the frame, and the next
// touch gets another one, full of zeros. So a leased object's pages go only after its users let go of them: asked (revoke) → they quiesce the
// device and unpin → acknowledged → the gates close → pages go. Who does not answer in time keeps what it has, and is told of.

/// What a user of a leased object is asked to do: quiesce the device, unpin the object, acknowledge.
public struct Revocation: Sendable, Equatable {
    public var id: UInt64
    public var object: ObjectID
    /// How long the answer is waited for, from when it was asked.
    public var deadlineMilliseconds: UInt64
}

/// One wait for a revocation, so that it can be called off without touching another.
public final class RevocationWait: Sendable {
    let deliver: @Sendable (Revocation?) -> Void

    /// `deliver` is called once: with what the client is asked, or with nil when it ends, when another wait takes the place of this one, or when this one
    /// is called off.
    public init(_ deliver: @escaping @Sendable (Revocation?) -> Void) { self.deliver = deliver }
}

/// What became of leases; sums since the start.
public struct LeaseCounters: Sendable, Equatable {
    public var leasedObjects = 0
    /// Users asked.
    public var revocations = 0
    /// Users that let go in time.
    public var answered = 0
    /// Users that did not answer in time, or nobody listened.
    public var unanswered = 0
}

/// Who was asked to let go of what, and who answered.
final class LeaseBroker: Sendable {
    private struct Pending {
        var revocation: Revocation
        var client: UInt32
        var isDelivered = false
        var isAnswered = false
        /// Its deadline has passed: it is not waited for again.
        var isLate = false
    }

    private struct State {
        var pending: [UInt64: Pending] = [:]
        /// Clients that listen: with the wait that gets the next revocation, or busy with the last one (nil).
        var listeners: [UInt32: RevocationWait?] = [:]
        /// Never an id that an engine before this one gave: an answer to that one is none to this.
        var nextID = MonotonicTime.now().nanoseconds
        var counters = LeaseCounters()
    }

    private let state = Monitor(State())

    func isListening(_ client: GateClientID) -> Bool { state.withLock { $0.listeners[client.rawValue] != nil } }

    var counters: LeaseCounters { state.withLock { $0.counters } }

    /// The client wants to hear of the next revocation. What it was told before and names in `acknowledging` counts as answered.
    func listen(_ client: GateClientID, acknowledging: UInt64?, _ wait: RevocationWait) {
        let (replaced, next) = state.withLock { state -> (RevocationWait?, Revocation?) in
            if let acknowledging, state.pending[acknowledging]?.client == client.rawValue {
                state.pending[acknowledging]?.isAnswered = true
            }
            let replaced = state.listeners[client.rawValue] ?? nil
            let open = state.pending.values.filter { $0.client == client.rawValue && !$0.isDelivered && !$0.isLate }
            let next = open.map(\.revocation).min { $0.id < $1.id }
            state.listeners[client.rawValue] = next == nil ? .some(wait) : .some(nil)
            if let next { state.pending[next.id]?.isDelivered = true }
            // Who listens again after a late answer gets another chance.
            state.pending = state.pending.filter { !($0.value.client == client.rawValue && $0.value.isLate) }
            return (replaced, next)
        }
        state.notifyAll()
        replaced?.deliver(nil)
        if let next { wait.deliver(next) }
    }

    /// From now on the client can be asked: it will fetch what it is asked with its next wait.
    func beginListening(_ client: GateClientID) {
        state.withLock { state in
            if state.listeners[client.rawValue] == nil { state.listeners[client.rawValue] = .some(nil) }
        }
    }

    /// Whoever waited has gone; nobody listens for the client until it waits again.
    func callOff(_ client: GateClientID, _ wait: RevocationWait) {
        let isWaiting = state.withLock { state in
            guard case .some(.some(let current)) = state.listeners[client.rawValue], current === wait else { return false }
            state.listeners[client.rawValue] = nil
            return true
        }
        if isWaiting { wait.deliver(nil) }
    }

    /// The client is gone, and with it what it was asked for.
    func end(_ client: GateClientID) {
        let waiting = state.withLock { state -> RevocationWait? in
            for (id, pending) in state.pending where pending.client == client.rawValue { state.pending[id] = nil }
            return state.listeners.removeValue(forKey: client.rawValue) ?? nil
        }
        state.notifyAll()
        waiting?.deliver(nil)
    }

    /// Asks the users of objects to let go, and waits until all have answered or the deadline has passed. Returns the objects of which every user
    /// answered.
    func revoke(_ wanted: [(object: ObjectID, users: [GateClientID])], within milliseconds: UInt64) -> [ObjectID] {
        let deadline = MonotonicTime.now().advanced(milliseconds: milliseconds)
        var asked: [(object: ObjectID, ids: [UInt64])] = []
        var deliveries: [(RevocationWait, Revocation)] = []
        state.withLock { state in
            for (object, users) in wanted {
                guard let ids = Self.ask(object, users, milliseconds, &state, &deliveries) else { continue }
                asked.append((object, ids))
            }
        }
        for (wait, revocation) in deliveries { wait.deliver(revocation) }
        let all = asked.flatMap(\.ids)
        if !all.isEmpty {
            _ = state.wait(deadline: deadline) { state in
                all.allSatisfy { state.pending[$0]?.isAnswered ?? true } ? true : nil
            }
        }
        return state.withLock { state in
            var free: [ObjectID] = []
            for (object, ids) in asked {
                var isFree = true
                for id in ids {
                    if state.pending[id]?.isAnswered ?? true {
                        state.pending[id] = nil
                        state.counters.answered += 1
                    } else {
                        state.pending[id]?.isLate = true
                        // Not waited for again until it listens again.
                        if let client = state.pending[id]?.client, case .some(nil) = state.listeners[client] {
                            state.listeners[client] = nil
                        }
                        state.counters.unanswered += 1
                        isFree = false
                    }
                }
                if isFree { free.append(object) }
            }
            return free
        }
    }

    /// Nil if one of the users does not listen, or has not answered an earlier question.
    private static func ask(
        _ object: ObjectID, _ users: [GateClientID], _ milliseconds: UInt64, _ state: inout State,
        _ deliveries: inout [(RevocationWait, Revocation)]
    ) -> [UInt64]? {
        let isHopeless = users.contains { user in
            state.listeners[user.rawValue] == nil
                || state.pending.values.contains { $0.client == user.rawValue && $0.revocation.object == object && $0.isLate }
        }
        if isHopeless {
            state.counters.unanswered += 1
            return nil
        }
        var ids: [UInt64] = []
        for user in users {
            // Somebody else asks the same just now.
            if let same = state.pending.values.first(where: { $0.client == user.rawValue && $0.revocation.object == object }) {
                ids.append(same.revocation.id)
                continue
            }
            let revocation = Revocation(id: state.nextID, object: object, deadlineMilliseconds: milliseconds)
            state.nextID += 1
            state.counters.revocations += 1
            var pending = Pending(revocation: revocation, client: user.rawValue)
            if case .some(.some(let wait)) = state.listeners[user.rawValue] {
                deliveries.append((wait, revocation))
                state.listeners[user.rawValue] = .some(nil)
                pending.isDelivered = true
            }
            state.pending[revocation.id] = pending
            ids.append(revocation.id)
        }
        return ids
    }
}

extension Engine {
    /// Says whether a device uses the object's memory while it is pinned: then its users are asked before its pages go.
    public func setLease(_ id: ObjectID, _ isLeased: Bool) throws(EngineError) {
        try state.withLock { state throws(EngineError) in
            let slot = try state.slot(id)
            state.pool(of: slot).ledger.record(Int(state.objects[slot].record)).lease = isLeased ? 1 : 0
            state.objects[slot].isLeased = isLeased
            if isLeased { state.leased.insert(slot) } else { state.leased.remove(slot) }
        }
    }

    /// The client is about to wait for revocations: what it is asked from now on waits for it.
    public func listenForRevocations(_ client: GateClientID) {
        leases.beginListening(client)
        if state.withLock({ $0.gates.clients[client.rawValue] }) == nil { leases.end(client) }
    }

    /// Hears of the next revocation for a client. `acknowledging`: what it was told last, and has done by now.
    public func awaitRevocation(_ client: GateClientID, acknowledging: UInt64? = nil, _ wait: RevocationWait) {
        guard state.withLock({ $0.gates.clients[client.rawValue] }) != nil else { return wait.deliver(nil) }
        leases.listen(client, acknowledging: acknowledging, wait)
        // It may have ended between the two.
        if state.withLock({ $0.gates.clients[client.rawValue] }) == nil { leases.end(client) }
    }

    /// Nobody waits any more.
    public func callOff(_ wait: RevocationWait, of client: GateClientID) { leases.callOff(client, wait) }

    public func leaseCounters() -> LeaseCounters {
        var counters = leases.counters
        counters.leasedObjects = state.withLock { $0.leased.count }
        return counters
    }

    /// Whether a client can be asked now.
    public func listensForRevocations(_ client: GateClientID) -> Bool { leases.isListening(client) }

    /// Clients that have gates.
    public var gateClients: [GateClientID] { state.withLock { $0.gates.clients.keys.sorted().map { GateClientID(rawValue: $0) } } }

    /// The uid that a client with gates acts for.
    public func owner(of client: GateClientID) -> UInt32? { state.withLock { $0.gates.clients[client.rawValue]?.owner } }

    /// Leased objects of a target whose pages are held by pins of gates alone, lowest priority first, as many as the goal needs; those that a
    /// connection pinned can't be asked for.
    private func leasedCandidates(_ target: ReclaimTarget, of kind: PageKind, goalPages: Int) -> [(object: ObjectID, users: [GateClientID])]
    {
        state.withLock { state in
            var slots = state.leased.filter { slot in
                let object = state.objects[slot]
                guard object.isShrinkable, object.life == .live, object.areGatesOpen, kind.covers(isHuge: object.isHuge) else {
                    return false
                }
                switch target {
                case .object(let id): return object.id == id.rawValue
                case .pool(let pool): return object.pool == pool.rawValue
                case .all, .bytes: return true
                }
            }.sorted { (state.objects[$0].priority, state.objects[$0].id) < (state.objects[$1].priority, state.objects[$1].id) }[...]
            var wanted: [(object: ObjectID, users: [GateClientID])] = []
            var pages = 0
            while pages < goalPages, wanted.count < EngineLimits.revocationsAtOnce, let slot = slots.popFirst() {
                let users = state.gateHolders(slot)
                if users.isEmpty { continue }
                wanted.append((ObjectID(rawValue: state.objects[slot].id), users))
                pages += state.objects[slot].reclaimablePages
            }
            return wanted
        }
    }

    /// There was no room to bring an object back: asks for leased memory of the same kind, as much as the object has out. False if none came. For
    /// callers who may wait, and hold no reservation: who is asked may need any of them to answer.
    func askLeasesForRoom(_ id: ObjectID, _ cancellation: Cancellation?, _ staging: Staging? = nil) -> Bool {
        let wanted = state.withLock { state -> (pages: Int, kind: PageKind)? in
            guard !state.isShuttingDown, let slot = state.objects.slot(of: id) else { return nil }
            let object = state.objects[slot]
            // One of huge pages is also short of those it never had.
            return object.isHuge ? (object.basePages, .huge) : (max(Int(object.backedUpPages), EngineLimits.runPages), .base)
        }
        guard let wanted else { return false }
        var result = ShrinkResult()
        shrinkLeased(
            .bytes(ByteCount(wanted.pages * basePageSize)), of: wanted.kind, goalPages: wanted.pages, into: &result, cancellation,
            with: staging
        ) { _ in .proceed }
        return result.revokedLeases > 0
    }

    /// Asks for leased memory, and shrinks what its users let go of. Waits, without a reservation, for as long as the configuration says. `staging`: the
    /// caller's buffer; nil takes one.
    func shrinkLeased(
        _ target: ReclaimTarget, of kind: PageKind = .any, goalPages: Int, into result: inout ShrinkResult, _ cancellation: Cancellation?,
        with staging: Staging? = nil, _ progress: @escaping @Sendable (ShrinkProgress) -> Continuation
    ) {
        guard goalPages > 0, state.withLock({ !$0.leased.isEmpty }), cancellation?.isCancelled != true else { return }
        let wanted = leasedCandidates(target, of: kind, goalPages: goalPages)
        if wanted.isEmpty { return }
        let free = leases.revoke(wanted, within: configuration.revocationMilliseconds)
        result.unansweredLeases += wanted.count - free.count
        for (object, users) in wanted where !free.contains(object) {
            logger.warning(
                "A leased object stays: its users did not let go of it in time.",
                metadata: [
                    "object": "\(object.rawValue)", "users": "\(users.count)", "waited_ms": "\(configuration.revocationMilliseconds)",
                ])
        }
        let before = (try? MemoryInfo().free).map { Int(clamping: $0) }
        var freedPages = 0
        var hugeBytes = 0
        for id in free where freedPages < goalPages {
            do throws(EngineError) {
                let one = try shrinkOne(id, cancellation, with: staging, progress)
                result.revokedLeases += 1
                result.skippedObjects = max(0, result.skippedObjects - 1)
                freedPages += one.freedBytes.rawValue / basePageSize
                hugeBytes += one.hugePageBytes.rawValue
                result.add(one)
                result.failure = result.failure ?? one.failure
            } catch {
                // Pinned again since it was acknowledged, or gone.
                if error.code == .busy { result.unansweredLeases += 1 }
            }
        }
        // Huge pages are looked for among the free ones of their kind (`ShrinkResult.returnedHugePageBytes`).
        let freedBytes = freedPages * basePageSize - hugeBytes
        guard freedBytes > 0, let before, let gained = Self.gain(over: before, wanted: freedBytes) else { return }
        result.kernelFreedBytes = ByteCount((result.kernelFreedBytes?.rawValue ?? 0) + gained)
        logger.info(
            "Leased memory went.", metadata: ["freed_bytes": "\(freedBytes)", "kernel_freed_bytes": "\(gained)"])
        if gained < freedBytes / 2, freedBytes >= Self.measurableBytes {
            logger.warning(
                "The kernel got back less than was freed: something still holds the pages (a device, another mapping), or others took memory.",
                metadata: ["freed_bytes": "\(freedBytes)", "kernel_freed_bytes": "\(gained)"])
        }
    }

    /// What free memory grew by: what a device let go of is freed a little later, so the most that is seen in a short while.
    private static func gain(over before: Int, wanted: Int) -> Int? {
        let deadline = MonotonicTime.now().advanced(milliseconds: 500)
        let never = Monitor<UInt8>(0)
        var most: Int?
        while true {
            if let free = try? MemoryInfo().free { most = max(most ?? .min, Int(clamping: free) - before) }
            guard let gained = most else { return nil }
            if gained >= wanted / 10 * 9 || MonotonicTime.now() >= deadline { return gained }
            _ = never.wait(deadline: MonotonicTime.now().advanced(milliseconds: 10)) { _ in Void?.none }
        }
    }

    /// Below it MemFree tells nothing: pages wait in lists of each processor before they count.
    private static let measurableBytes = 16 << 20
}
