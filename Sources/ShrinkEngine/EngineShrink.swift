import Logging
import ShrinkLinux
import SystemPackage

extension Engine {
    /// Moves pages of the target out until its goal is reached or nothing is left: first ready blocks of pools, then objects, the longest unused of
    /// the lowest priority first. Pinned and busy objects are left alone. What is done stays done, whatever ends it.
    ///
    /// `progress` is called after each run, on any of the copying threads, one at a time.
    public func shrink(_ target: ReclaimTarget, progress: @escaping @Sendable (ShrinkProgress) -> Continuation = { _ in .proceed })
        -> ShrinkResult
    {
        let started = MonotonicTime.now()
        var result: ShrinkResult
        do throws(EngineError) {
            switch target {
            case .object(let id): result = try shrinkOne(id, progress)
            case .pool(let id):
                _ = try state.withLock { state throws(EngineError) in try state.pool(id) }
                result = shrinkMany(pool: id, goalPages: .max, progress)
            case .all: result = shrinkMany(pool: nil, goalPages: .max, progress)
            case .bytes(let goal):
                guard goal.rawValue > 0 else { throw EngineError(.invalidSize, "nothing to shrink: give a positive number of bytes") }
                result = shrinkMany(pool: nil, goalPages: (goal.rawValue + basePageSize - 1) / basePageSize, progress)
                result.goalBytes = goal
            }
        } catch {
            result = ShrinkResult()
            result.failure = error
        }
        result.netFreedBytes = backup.isMemory ? result.freedBytes - result.storedBytes : result.freedBytes
        result.durationNanoseconds = MonotonicTime.now().nanoseconds(since: started)
        return result
    }

    private func shrinkOne(_ id: ObjectID, _ progress: @escaping @Sendable (ShrinkProgress) -> Continuation) throws(EngineError)
        -> ShrinkResult
    {
        let walk = ShrinkWalk(engine: self, pool: nil, goalPages: .max, progress)
        try staging.withStaging { (staging) throws(EngineError) in
            let slot = try reserve(id)
            guard state.withLock({ $0.objects[slot].pinCount == 0 }) else {
                release(slot)
                throw EngineError(.busy, "\(id) is pinned; unpin it first")
            }
            walk.shrinkReserved(slot, goalPages: .max, staging)
        }
        return walk.result
    }

    private func shrinkMany(pool: PoolID?, goalPages: Int, _ progress: @escaping @Sendable (ShrinkProgress) -> Continuation) -> ShrinkResult
    {
        let walk = ShrinkWalk(engine: self, pool: pool, goalPages: goalPages, progress)
        do throws(EngineError) {
            try walk.dropReadyBlocks()
            try walk.begin()
        } catch {
            return walk.result(failing: error)
        }
        staging.withStaging { staging in
            team.run(staging) { walk.work($0) }
        }
        walk.end()
        return walk.result
    }
}

/// One shrink over many objects, shared by the threads that copy.
final class ShrinkWalk: Sendable {
    private struct Progress {
        var result = ShrinkResult()
        var freedPages = 0
        /// Pages that running workers may still free.
        var claimedPages = 0
        var cursor: LRU.Cursor?
        var isStopped = false
    }

    private let engine: Engine
    private let pool: PoolID?
    private let goalPages: Int
    private let report: @Sendable (ShrinkProgress) -> Continuation
    private let progress = Monitor(Progress())

    /// Steps of the cursor in one hold of the engine's lock.
    private static let stepsPerLock = 1024

    init(engine: Engine, pool: PoolID?, goalPages: Int, _ report: @escaping @Sendable (ShrinkProgress) -> Continuation) {
        self.engine = engine
        self.pool = pool
        self.goalPages = goalPages
        self.report = report
    }

    var result: ShrinkResult { progress.withLock { $0.result } }

    func result(failing error: EngineError) -> ShrinkResult {
        var result = self.result
        result.failure = error
        return result
    }

    func begin() throws(EngineError) {
        guard let cursor = engine.state.withLock({ $0.lru.makeCursor() }) else {
            throw EngineError(.limitReached, "\(LRU.maxCursors) shrinks run already; wait for one to end")
        }
        let skipped = engine.state.withLock { state in
            state.objects.slots.count { $0.id != 0 && $0.pinCount > 0 && (pool == nil || $0.pool == pool?.rawValue) }
        }
        progress.withLock { progress in
            progress.cursor = cursor
            progress.result.skippedObjects = skipped
        }
    }

    func end() {
        if let cursor = progress.withLock({ $0.cursor }) { engine.state.withLock { $0.lru.end(cursor) } }
    }

    /// Freed ranges of pools that still take memory go first: nothing has to be kept of them.
    func dropReadyBlocks() throws(EngineError) {
        let pools = engine.state.withLock { state in state.pools.values.filter { (pool == nil || $0.id == pool) && $0.readyPages > 0 } }
        for pool in pools {
            while progress.withLock({ $0.freedPages }) < goalPages {
                // A batch of free blocks is taken out of the allocator, so that nobody gets one in the middle of the punch.
                let batch = engine.state.withLock { state -> [(first: Int, count: Int)] in
                    var batch: [(first: Int, count: Int)] = []
                    state.pools[pool.id]?.allocator.forEachFreeBlock { first, count in
                        if let resident = try? pool.file.residentPages(first: first, count: count), resident > 0 {
                            batch.append((first, count))
                        }
                        return batch.count < 16
                    }
                    for block in batch { _ = state.pools[pool.id]?.allocator.reserve(first: block.first, count: block.count) }
                    return batch
                }
                if batch.isEmpty { break }
                var freed = 0
                var failure: Errno?
                for block in batch {
                    do throws(Errno) { freed += try pool.file.freePages(first: block.first, count: block.count) } catch { failure = error }
                }
                engine.state.withLock { state in
                    for block in batch { state.pools[pool.id]?.allocator.release(first: block.first, count: block.count) }
                    let ready = state.pools[pool.id]?.readyPages ?? 0
                    state.pools[pool.id]?.readyPages = max(0, ready - freed)
                }
                progress.withLock { progress in
                    progress.freedPages += freed
                    progress.result.freedBytes = ByteCount(progress.freedPages * basePageSize)
                }
                if let failure { throw EngineError(.system, "freeing ready blocks of \(pool.id) failed", errno: failure) }
            }
        }
    }

    /// Takes objects and shrinks them until the goal is reached or none is left.
    func work(_ staging: Staging) {
        while let (slot, goal) = takeObject() { shrinkReserved(slot, goalPages: goal, staging, claimed: true) }
    }

    /// The next object, reserved, and how many of its pages may go.
    private func takeObject() -> (slot: UInt32, goalPages: Int)? {
        while true {
            // Wait while others may still reach the goal with what they have.
            let open = progress.wait { progress -> Int? in
                if progress.isStopped || progress.freedPages >= self.goalPages { return 0 }
                let open = self.goalPages - progress.freedPages - progress.claimedPages
                return open > 0 ? open : nil
            }
            guard open > 0, var cursor = progress.withLock({ $0.cursor }) else { return nil }
            // Only one thread steps at a time: the engine's lock is held, and the cursor is stored back before it is let go.
            let step = engine.state.withLock { state -> (slot: UInt32, goalPages: Int)?? in
                cursor = progress.withLock { $0.cursor } ?? cursor
                defer { progress.withLock { $0.cursor = cursor } }
                // Claims are made under the engine's lock only, so this room does not shrink until it is claimed below.
                guard progress.withLock({ goalPages - $0.freedPages - $0.claimedPages }) > 0 else { return nil }
                for _ in 0..<Self.stepsPerLock {
                    guard let slot = state.lru.next(&cursor) else { return .some(nil) }
                    let object = state.objects[slot]
                    guard pool == nil || object.pool == pool?.rawValue, object.pinCount == 0, object.reservation == .free else { continue }
                    let claim = progress.withLock { progress -> Int in
                        let claim = min(
                            Int(object.pageCount) - Int(object.backedUpPages), goalPages - progress.freedPages - progress.claimedPages)
                        progress.claimedPages += max(0, claim)
                        return claim
                    }
                    guard claim > 0 else { continue }
                    state.objects[slot].reservation = .held
                    return .some((slot, claim))
                }
                return nil
            }
            guard let step else { continue }
            return step
        }
    }

    /// Shrinks an object whose reservation is held, enters the outcome, and releases it.
    func shrinkReserved(_ slot: UInt32, goalPages: Int, _ staging: Staging, claimed: Bool = false) {
        var outcome = ShrinkOutcome()
        do throws(EngineError) {
            let reserved = try engine.reservedObject(slot)
            outcome = reserved.shrink(goalPages: goalPages, staging) { [progress, report] outcome in
                progress.withLock { progress in
                    if progress.isStopped { return false }
                    let total = ShrinkProgress(
                        scannedPages: progress.result.scannedPages + outcome.scannedPages,
                        freedBytes: ByteCount((progress.freedPages + outcome.freedPages) * basePageSize), currentObject: reserved.id)
                    if report(total) == .stop { progress.isStopped = true }
                    return !progress.isStopped
                }
            }
        } catch {
            outcome.failure = error
        }
        engine.finishShrink(slot, outcome)
        progress.withLock { progress in
            if claimed { progress.claimedPages -= goalPages }
            progress.freedPages += outcome.freedPages
            progress.result.scannedPages += outcome.scannedPages
            progress.result.backedUpPages += outcome.backedUpPages
            progress.result.zeroPages += outcome.zeroPages
            progress.result.storedBytes = progress.result.storedBytes + ByteCount(outcome.storedBytes)
            progress.result.freedBytes = ByteCount(progress.freedPages * basePageSize)
            if let failure = outcome.failure {
                progress.result.failure = progress.result.failure ?? failure
                // A full or failing backup would fail for the next object too; one that is merely busy would not.
                if failure.code != .busy { progress.isStopped = true }
            }
        }
        progress.notifyAll()
    }
}

extension Engine {
    /// Enters what a shrink did to an object, and lets it go.
    func finishShrink(_ slot: UInt32, _ outcome: ShrinkOutcome) {
        state.withLock { state in
            let pool = PoolID(rawValue: state.objects[slot].pool)
            state.objects[slot].backedUpPages += UInt32(outcome.backedUpPages)
            state.objects[slot].zeroPages = UInt32(Int(state.objects[slot].zeroPages) + outcome.zeroWordsDelta)
            state.pools[pool]?.backedUpPages += outcome.backedUpPages
            state.pools[pool]?.zeroPages += outcome.zeroWordsDelta
            state.strayPages += outcome.strayPages
            // Nothing resident is left: off the list until somebody uses it again.
            if outcome.isExhausted { state.lru.remove(slot) }
            state.objects[slot].reservation = .free
        }
        state.notifyAll()
        if outcome.strayPages > 0 {
            logger.warning(
                "a client wrote to pages that were backed up; the backup's content is kept", metadata: ["pages": "\(outcome.strayPages)"])
        }
    }
}
