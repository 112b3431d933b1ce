import ShrinkLinux
import SystemPackage

/// One reclaim over many objects, shared by the threads that copy: a cursor over the lists, pass by pass, until the goal is reached.
///
/// The counterparts are `xe_shrinker_walk` and the driver's loop over `ttm_bo_lru_for_each_reserved_guarded`.
final class ReclaimWalk: Sendable {
    private struct Progress {
        var result = ShrinkResult()
        var freedPages = 0
        /// Pages that running workers may still free.
        var claimedPages = 0
        var cursor: LRU.Cursor?
        var pass = ReclaimPass.purge
        /// Objects that others had, in this pass.
        var busyObjects = 0
        /// Objects that this pass may yet pass over because they were used through a gate since the last look: each gets a second chance at the end of
        /// its list. A limit, or a client that never rests would keep the walk from its end.
        var secondChances = 0
        /// Objects that were found pinned through a gate, in this pass.
        var gatePinnedObjects = 0
        /// Objects of which this pass took less than they may have, because others had claimed the rest of the goal.
        var objectsCutShort = 0
        /// What was freed when the pass began.
        var freedBefore = 0
        /// The failure told is of an object of which part went out.
        var failureCutShort = false
        /// Nothing more in this pass: too much failed.
        var isPassOver = false
        /// Pools whose backup was full in this pass; others may have room.
        var full: Set<UInt32> = []
        /// Nothing more at all: the caller said so.
        var isStopped = false
        /// Devices that are held awake, and pools whose device sleeps. Asked for when the first pass that copies begins.
        var power: PowerHolds?
        /// Objects in a row that failed.
        var failuresInARow = 0
    }

    private let engine: Engine
    private let pool: PoolID?
    private let kind: PageKind
    private let goalPages: Int
    private let context: ReclaimContext
    private let cancellation: Cancellation?
    private let report: @Sendable (ShrinkProgress) -> Continuation
    private let progress = Monitor(Progress())
    /// Held while the caller is told how far it is: one report at a time. Never taken inside another lock, since a report may ask the engine.
    private let reporting = Monitor<UInt8>(0)

    /// Steps of the cursor in one hold of the engine's lock.
    private static let stepsPerLock = 1024
    /// A backup that fails so many objects in a row fails the next one too.
    private static let failuresThatEnd = 8

    init(
        engine: Engine, pool: PoolID?, of kind: PageKind, goalPages: Int, _ context: ReclaimContext, _ cancellation: Cancellation?,
        _ report: @escaping @Sendable (ShrinkProgress) -> Continuation
    ) {
        self.engine = engine
        self.pool = pool
        self.kind = kind
        self.goalPages = goalPages
        self.context = context
        self.cancellation = cancellation
        self.report = report
    }

    var result: ShrinkResult { progress.withLock { $0.result } }

    /// The goal is not reached, and nobody said stop.
    var isOpen: Bool { progress.withLock { !$0.isStopped && $0.freedPages < goalPages } }

    /// False if no cursor is left.
    func begin() -> Bool {
        let (cursor, pinned) = engine.state.withLock { state in
            (state.lru.makeCursor(), state.pools.values.reduce(0) { $0 + (isOfTarget($1) ? $1.pinnedObjects : 0) })
        }
        progress.withLock { progress in
            progress.cursor = cursor
            progress.result.skippedObjects = pinned
            if cursor == nil {
                progress.result.failure = EngineError(.limitReached, "\(LRU.maxCursors) shrinks run already; wait for one to end")
            }
        }
        return cursor != nil
    }

    /// A pass that the counters know to be empty is not walked.
    func isWorthwhile(_ pass: ReclaimPass) -> Bool {
        switch pass {
        case .purge: engine.state.withLock { $0.tally.expendablePages > 0 || $0.hugeTally.expendablePages > 0 }
        case .idle: true
        case .busy: progress.withLock { $0.busyObjects > 0 }
        case .writeback: progress.withLock { $0.busyObjects > 0 || !$0.full.isEmpty }
        }
    }

    /// The pass came to its end short of the goal, freed something, and passed objects that may have more: what one thread claimed for an object
    /// that then had little was kept from the others.
    var isWorthRepeating: Bool {
        progress.withLock {
            !$0.isStopped && !$0.isPassOver && $0.freedPages < goalPages && $0.objectsCutShort > 0 && $0.freedPages > $0.freedBefore
        }
    }

    func begin(_ pass: ReclaimPass) {
        if pass != .purge, progress.withLock({ $0.power == nil }) {
            let pools = engine.state.withLock { state in state.pools.values.filter { isOfTarget($0) } }
            let power = PowerHolds(pools: pools, caller: context.caller)
            progress.withLock { $0.power = power }
        }
        engine.state.withLock { state in
            progress.withLock { progress in
                progress.pass = pass
                progress.isPassOver = false
                progress.objectsCutShort = 0
                progress.freedBefore = progress.freedPages
                progress.full = []
                progress.busyObjects = 0
                progress.gatePinnedObjects = 0
                // Who takes everything has no choice to make.
                progress.secondChances = goalPages == .max ? 0 : state.lru.count
                progress.result.deferredObjects = 0
                progress.failuresInARow = 0
                if var cursor = progress.cursor {
                    state.lru.rewind(&cursor)
                    progress.cursor = cursor
                }
            }
        }
    }

    func end() {
        let cursor = progress.withLock { progress in
            progress.result.skippedObjects += progress.busyObjects + progress.gatePinnedObjects
            return progress.cursor
        }
        progress.withLock { $0.power }?.release()
        if let cursor { engine.state.withLock { $0.lru.end(cursor) } }
    }

    /// Takes objects and shrinks them until the goal is reached or none is left.
    func work(_ staging: Staging) {
        while let taken = takeObject() { shrinkReserved(taken.slot, goalPages: taken.goalPages, staging, claimed: taken.goalPages) }
    }

    private enum Step {
        case taken(slot: UInt32, goalPages: Int)
        /// Somebody has it; this pass waits.
        case wait(ObjectID)
        /// No step was made, or many without a find: look at the goal again.
        case again
        case finished
    }

    /// The next object, reserved, and how many of its pages may go.
    private func takeObject() -> (slot: UInt32, goalPages: Int)? {
        while true {
            // Wait while others may still reach the goal with what they have.
            let isOpen = progress.wait { progress -> Bool? in
                if progress.isStopped || progress.isPassOver || progress.freedPages >= self.goalPages { return false }
                return self.goalPages - progress.freedPages - progress.claimedPages > 0 ? true : nil
            }
            guard isOpen else { return nil }
            if cancellation?.isCancelled == true {
                stop(EngineError(.interrupted, "shrinking was stopped; it goes on when asked again"))
                return nil
            }
            switch engine.state.withLock({ step(&$0) }) {
            case .taken(let slot, let goal): return (slot, goal)
            case .wait(let id):
                guard case .reserved(let slot) = engine.reserve(id, cancellation.map { .interruptible($0) } ?? .wait) else { continue }
                let goal = engine.state.withLock { state in isWanted(state.objects[slot]) ? claim(state.objects[slot]) : 0 }
                if goal > 0 { return (slot, goal) }
                engine.release(slot)
            case .again: continue
            case .finished: return nil
            }
        }
    }

    /// Only one thread steps at a time: the engine's lock is held, and the cursor is stored back before it is let go.
    private func step(_ state: inout EngineState) -> Step {
        let (stored, pass, asleep, full) = progress.withLock { ($0.cursor, $0.pass, $0.power?.asleep ?? [], $0.full) }
        guard var cursor = stored else { return .finished }
        var chances = progress.withLock { $0.secondChances }
        defer {
            progress.withLock { progress in
                progress.cursor = cursor
                progress.secondChances = chances
            }
        }
        // Claims are made under the engine's lock only, so this room does not shrink until it is claimed.
        guard progress.withLock({ goalPages - $0.freedPages - $0.claimedPages }) > 0 else { return .again }
        for _ in 0..<Self.stepsPerLock {
            guard let slot = state.lru.next(&cursor) else { return .finished }
            let object = state.objects[slot]
            guard isWanted(object), pass != .purge || object.isExpendable else { continue }
            if !asleep.isEmpty, asleep.contains(object.pool), !object.isExpendable || object.backedUpPages > 0 {
                progress.withLock { $0.result.deferredObjects += 1 }
                continue
            }
            if !full.isEmpty, full.contains(object.pool), !object.isExpendable { continue }
            guard object.reservation == .free else {
                progress.withLock { $0.busyObjects += 1 }
                if pass == .busy { return .wait(ObjectID(rawValue: object.id)) }
                continue
            }
            if chances > 0, object.areGatesOpen, state.takeUsed(slot) {
                chances -= 1
                state.bump(slot)
                continue
            }
            let goal = claim(object)
            guard goal > 0 else { continue }
            state.take(slot)
            return .taken(slot: slot, goalPages: goal)
        }
        return .again
    }

    @inline(__always)
    private func isWanted(_ object: BufferObject) -> Bool {
        object.isShrinkable && (pool == nil || object.pool == pool?.rawValue) && kind.covers(isHuge: object.isHuge)
    }

    private func isOfTarget(_ other: Pool) -> Bool { (pool == nil || other.id == pool) && kind.covers(isHuge: other.isHuge) }

    private func claim(_ object: BufferObject) -> Int {
        progress.withLock { progress in
            // Whatever its words say, any page may be in the pool; the goal is the limit.
            let claim = min(object.basePages, goalPages - progress.freedPages - progress.claimedPages)
            guard claim > 0 else { return 0 }
            if claim < object.basePages { progress.objectsCutShort += 1 }
            progress.claimedPages += claim
            return claim
        }
    }

    func stop(_ error: EngineError) {
        progress.withLock { progress in
            progress.isStopped = true
            progress.result.failure = progress.result.failure ?? error
        }
        progress.notifyAll()
    }

    /// Shrinks one object by name, whose reservation is held, with its device awake; releases it.
    func shrinkAlone(_ slot: UInt32, _ staging: Staging) {
        let pool = engine.state.withLock { $0.pool(of: slot) }
        let power = PowerHolds(pools: [pool], caller: context.caller)
        defer { power.release() }
        guard power.asleep.isEmpty else {
            engine.release(slot)
            progress.withLock { progress in
                progress.result.deferredObjects = 1
                progress.result.failure = EngineError(.busy, "the device under the backup of \(pool.id) does not wake; look at its power/")
            }
            return
        }
        progress.withLock { $0.pass = .idle }
        shrinkReserved(slot, goalPages: .max, staging)
    }

    /// Shrinks an object whose reservation is held, enters the outcome, and releases it.
    private func shrinkReserved(_ slot: UInt32, goalPages: Int, _ staging: Staging, claimed: Int = 0) {
        let pass = progress.withLock { $0.pass }
        // The first pass has asked no device to wake, and not every caller may use the file system; later passes come after both questions.
        let mayUseBackup = pass != .purge || context.mayUseFileSystem && engine.state.withLock { $0.pool(of: slot).backup.power == nil }
        let outcome = engine.shrinkReserved(
            slot, goalPages: goalPages, writeback: pass == .writeback, mayUseBackup: mayUseBackup, staging
        ) { id, outcome in
            reporting.withLock { _ in
                let total = progress.withLock { progress -> ShrinkProgress? in
                    if progress.isStopped { return nil }
                    return ShrinkProgress(
                        scannedPages: progress.result.scannedPages + outcome.scannedBasePages,
                        freedBytes: ByteCount((progress.freedPages + outcome.freedBasePages) * basePageSize), currentObject: id)
                }
                guard let total else { return false }
                guard report(total) == .proceed, cancellation?.isCancelled != true else {
                    progress.withLock { $0.isStopped = true }
                    return false
                }
                return true
            }
        }
        let samePools = poolsThatFare(alike: outcome.failure?.code, slot)
        engine.release(slot)
        progress.withLock { progress in
            progress.claimedPages -= claimed
            progress.freedPages += outcome.freedBasePages
            progress.result.add(outcome)
            progress.result.freedBytes = ByteCount(progress.freedPages * basePageSize)
            guard let failure = outcome.failure else {
                progress.failuresInARow = 0
                return
            }
            // One bad object is that object's affair, and what it freed counts; a full backup is full for the next one too.
            switch failure.code {
            case .busy where claimed > 0:
                progress.gatePinnedObjects += 1
                return
            case .noSuchObject: return
            case .interrupted: progress.isStopped = true
            case .backupFull: progress.full.formUnion(samePools)
            case .limitReached:
                // One owner's limit is nobody else's failure.
                progress.full.formUnion(samePools)
                progress.result.failure = progress.result.failure ?? failure
                return
            default: break
            }
            // The object that went out in part is the one to tell of; the next ones only met the same wall.
            if progress.result.failure == nil || (outcome.freedPages > 0 && !progress.failureCutShort) {
                progress.result.failure = failure
                progress.failureCutShort = outcome.freedPages > 0
            }
            progress.failuresInARow += 1
            if progress.failuresInARow >= Self.failuresThatEnd { progress.isPassOver = true }
        }
        progress.notifyAll()
    }

    /// Pools of which the next object would fail for the same reason: those that share a full backup, or whose owner's limit is reached.
    private func poolsThatFare(alike code: EngineError.Code?, _ slot: UInt32) -> [UInt32] {
        engine.state.withLock { state in
            let pool = state.pool(of: slot)
            switch code {
            case .backupFull: return state.pools.values.filter { $0.backup === pool.backup }.map(\.id.rawValue)
            case .limitReached:
                return state.pools.values.filter { $0.owner == pool.owner && engine.backupRoomPages(of: $0, state) == 0 }.map(\.id.rawValue)
            default: return []
            }
        }
    }

    // MARK: Ready blocks

    /// Freed ranges of pools that still take memory go first: nothing has to be kept of them. Stops at the goal.
    func dropReadyBlocks() {
        let pools = engine.state.withLock { state in state.pools.values.filter { isOfTarget($0) && $0.readyPages > 0 } }
        for pool in pools {
            var passed = 0
            while case let open = progress.withLock({ goalPages - $0.freedPages }), open > 0 {
                let unit = pool.unitPages
                let limit = open / unit + (open % unit == 0 ? 0 : 1)
                let (units, looked, failure) = engine.dropReadyBlocks(of: pool, limit: limit, skipping: passed)
                passed += looked
                let freed = units * unit
                progress.withLock { progress in
                    progress.freedPages += freed
                    progress.result.freedBytes = ByteCount(progress.freedPages * basePageSize)
                    progress.result.scannedPages += freed
                    if unit > 1 { progress.result.hugePageBytes = progress.result.hugePageBytes + ByteCount(freed * basePageSize) }
                    if let failure { progress.result.failure = progress.result.failure ?? failure }
                }
                if looked == 0 || failure != nil { break }
            }
        }
    }
}

extension ShrinkResult {
    mutating func add(_ outcome: ShrinkOutcome) {
        scannedPages += outcome.scannedBasePages
        backedUpPages += outcome.backedUpPages * outcome.unitPages
        zeroPages += outcome.zeroPages * outcome.unitPages
        purgedPages += outcome.purgedPages * outcome.unitPages
        storedBytes = storedBytes + ByteCount(outcome.storedBytes)
        if outcome.isStoredInMemory { netFreedBytes = netFreedBytes - ByteCount(outcome.storedBytes) }
        let freed = ByteCount(outcome.freedBasePages * basePageSize)
        // A huge page goes back to the others of its kind; the machine has no more memory than before.
        if outcome.unitPages > 1 { hugePageBytes = hugePageBytes + freed } else { netFreedBytes = netFreedBytes + freed }
    }
}
