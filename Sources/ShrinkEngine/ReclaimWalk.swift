import ShrinkLinux
import SystemPackage

/// One reclaim over many objects, shared by the threads that copy: a cursor over the lists, pass by pass, until the goal is reached.
///
/// The counterparts are `xe_shrinker_walk` and the driver's loop over `ttm_bo_lru_for_each_reserved_guarded`.
final class ReclaimWalk: Sendable {
    struct Progress {
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
        /// Pools whose backup was full in this pass; others may have room.
        var full: Set<UInt32> = []
        /// Those, and pools whose backup failed one object after the other: nothing more of them in this pass.
        var leftAlone: Set<UInt32> = []
        /// Nothing more at all: the caller said so.
        var isStopped = false
        /// Devices that are held awake, and pools whose device sleeps. Asked for when the first pass that copies begins.
        var power: PowerHolds?
        /// Objects in a row that failed, by backend.
        var failuresInARow: [Int: Int] = [:]
    }

    let engine: Engine
    let pool: PoolID?
    let kind: PageKind
    let goalPages: Int
    let context: ReclaimContext
    let cancellation: Cancellation?
    let report: @Sendable (ShrinkProgress) -> Continuation
    let progress = Monitor(Progress())
    /// Held while the caller is told how far it is: one report at a time. Never taken inside another lock, since a report may ask the engine.
    let reporting = Monitor<UInt8>(0)

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
            !$0.isStopped && $0.freedPages < goalPages && $0.objectsCutShort > 0 && $0.freedPages > $0.freedBefore
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
                progress.objectsCutShort = 0
                progress.freedBefore = progress.freedPages
                progress.full = []
                progress.leftAlone = []
                progress.busyObjects = 0
                progress.gatePinnedObjects = 0
                // Who takes everything has no choice to make.
                progress.secondChances = goalPages == .max ? 0 : state.lru.count
                progress.result.deferredObjects = 0
                progress.failuresInARow = [:]
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

    func isOfTarget(_ other: Pool) -> Bool { (pool == nil || other.id == pool) && kind.covers(isHuge: other.isHuge) }

    func stop(_ error: EngineError) {
        progress.withLock { progress in
            progress.isStopped = true
            progress.result.failure = progress.result.failure ?? error
        }
        progress.notifyAll()
    }
}
