import Logging
import ShrinkLinux
import SystemPackage

extension Engine {
    /// Moves pages of the target out until its goal is reached or nothing is left: first ready blocks of pools, then expendable content, then objects, the
    /// longest unused of the lowest priority first. Pinned objects are left alone. What is done stays done, whatever ends it.
    ///
    /// A number of bytes is a direct caller's wish for memory of the machine: busy objects are passed over, and so are pools of huge pages, which have
    /// none to give. Named objects and pools are waited for. `progress` is called after
    /// each run, on any of the copying threads, one at a time.
    public func shrink(
        _ target: ReclaimTarget, cancellation: Cancellation? = nil,
        progress: @escaping @Sendable (ShrinkProgress) -> Continuation = { _ in .proceed }
    ) -> ShrinkResult {
        let started = MonotonicTime.now()
        let hugePagesBefore = state.withLock { $0.pools.values.contains { $0.isHuge } } ? try? HugePages().free : nil
        var result: ShrinkResult
        do throws(EngineError) {
            switch target {
            case .object(let id): result = try shrinkOneOrAskForIt(id, cancellation, progress)
            case .pool(let id):
                _ = try state.withLock { state throws(EngineError) in try state.pool(id) }
                result = reclaim(pool: id, goalPages: .max, .requested, cancellation, progress)
                // Who had enough has no need of more.
                if result.failure?.code != .interrupted {
                    shrinkLeased(target, goalPages: .max, into: &result, cancellation, progress)
                }
            case .all:
                result = reclaim(pool: nil, goalPages: .max, .requested, cancellation, progress)
                // Who had enough has no need of more.
                if result.failure?.code != .interrupted {
                    shrinkLeased(target, goalPages: .max, into: &result, cancellation, progress)
                }
            case .bytes(let goal):
                guard goal.rawValue > 0 else { throw EngineError(.invalidSize, "nothing to shrink: give a positive number of bytes") }
                let pages = (goal.rawValue - 1) / basePageSize + 1
                result = reclaim(pool: nil, of: .base, goalPages: pages, .direct, cancellation, progress)
                shrinkLeased(
                    target, of: .base, goalPages: pages - result.freedBytes.rawValue / basePageSize, into: &result, cancellation, progress)
                result.goalBytes = goal
            }
        } catch {
            result = ShrinkResult()
            result.failure = error
        }
        noteReturnedHugePages(since: hugePagesBefore, &result)
        result.durationNanoseconds = MonotonicTime.now().nanoseconds(since: started)
        return result
    }

    private func shrinkOneOrAskForIt(
        _ id: ObjectID, _ cancellation: Cancellation?, _ progress: @escaping @Sendable (ShrinkProgress) -> Continuation
    ) throws(EngineError) -> ShrinkResult {
        var result = ShrinkResult()
        shrinkLeased(.object(id), goalPages: .max, into: &result, cancellation, progress)
        if result.revokedLeases > 0 { return result }
        let unanswered = result.unansweredLeases
        do throws(EngineError) {
            result = try shrinkOne(id, cancellation, progress)
        } catch {
            guard unanswered > 0, error.code == .busy else { throw error }
            throw EngineError(
                .busy,
                "\(id) is leased, and its users did not let go of it: nobody listened, or not within \(configuration.revocationMilliseconds) ms; it stays"
            )
        }
        result.unansweredLeases = unanswered
        return result
    }

    /// `own`: the caller's buffer; nil takes one.
    func shrinkOne(
        _ id: ObjectID, _ cancellation: Cancellation?, with own: Staging? = nil,
        _ progress: @escaping @Sendable (ShrinkProgress) -> Continuation
    ) throws(EngineError) -> ShrinkResult {
        let walk = ReclaimWalk(engine: self, pool: nil, of: .any, goalPages: .max, .requested, cancellation, progress)
        func shrink(_ staging: Staging) throws(EngineError) {
            let slot = try reserve(id, cancellation: cancellation)
            guard state.withLock({ $0.objects[slot].pinCount == 0 }) else {
                release(slot)
                throw EngineError(.busy, "\(id) is pinned; unpin it first")
            }
            walk.shrinkAlone(slot, staging)
        }
        if let own { try shrink(own) } else { try staging.withStaging(cancellation, shrink) }
        let result = walk.result
        // One whose device sleeps is told in the result: it is being woken.
        if let failure = result.failure, failure.code == .busy, result.deferredObjects == 0 { throw failure }
        return result
    }

    /// Shrinks an object whose reservation is held and enters the outcome; the reservation stays. Busy, and nothing changed, if a client has
    /// it pinned through its gate. Expendable content is purged, the rest is
    /// backed up. The counterpart of `ttm_bo_shrink`.
    ///
    /// `mayUseBackup`: false is for expendable content only, of which then what is in the pool goes.
    func shrinkReserved(
        _ slot: UInt32, goalPages: Int, writeback: Bool = false, mayUseBackup: Bool = true, _ staging: Staging,
        progress: (ObjectID, ShrinkOutcome) -> Bool
    ) -> ShrinkOutcome {
        let reserved = reservedObject(slot)
        guard state.withLock({ $0.closeGates(slot) }) else {
            var outcome = ShrinkOutcome()
            outcome.failure = EngineError(.busy, "\(reserved.id) is pinned through a gate; its user has to unpin it first")
            return outcome
        }
        defer { reopenGatesIfUntouched(slot) }
        let isExpendable = state.withLock { state -> Bool in
            // Said in the ledger before the first page goes.
            if state.objects[slot].content == .purgeable { setContent(slot, .purged, &state) }
            return state.objects[slot].isExpendable
        }
        // A function: a closure with a name of its own asks for memory where it is not optimised away.
        func proceed(_ outcome: ShrinkOutcome) -> Bool {
            // Its owner destroys it meanwhile: no copy is wanted any more.
            if !isExpendable, state.withLock({ $0.objects[slot].life != .live }) { return false }
            var outcome = outcome
            outcome.unitPages = reserved.unitPages
            return progress(reserved.id, outcome)
        }
        var outcome: ShrinkOutcome
        let goalUnits = goalPages / reserved.unitPages + (goalPages % reserved.unitPages == 0 ? 0 : 1)
        if isExpendable {
            outcome = reserved.purge(goalPages: goalUnits, mayUseBackup: mayUseBackup, progress: proceed)
        } else if let swap = reserved.backup as? KernelSwap {
            outcome = reserved.pageOut(swap, goalPages: goalPages, progress: proceed)
        } else {
            let allowed = takeBackupRoom(slot, goalUnits)
            defer { state.withLock { $0.pool(of: slot).pagesOnTheirWayOut -= allowed.pages * reserved.unitPages } }
            outcome =
                allowed.pages > 0
                ? reserved.shrink(goalPages: allowed.pages, writeback: writeback, staging, progress: proceed) : ShrinkOutcome()
            if !outcome.isExhausted { outcome.failure = outcome.failure ?? allowed.failure }
        }
        outcome.unitPages = reserved.unitPages
        outcome.isStoredInMemory = reserved.backup.isMemory
        state.withLock { state in
            if outcome.failure?.code == .interrupted, state.objects[slot].life != .live {
                outcome.failure = EngineError(.noSuchObject, "\(reserved.id) was destroyed meanwhile")
            }
            let pool = state.pool(of: slot)
            // What faults brought back meanwhile may be pages that this operation moved out.
            let touched = state.takeTouched(slot)
            let backedUpDelta = outcome.backedUpPages - outcome.droppedPages - Int(touched.backedUpPages)
            let zeroDelta = outcome.zeroWordsDelta - Int(touched.zeroPages)
            state.addBackedUp(backedUpDelta, to: pool)
            pool.zeroPages += zeroDelta
            state.change(slot) { object in
                object.backedUpPages = UInt32(Int(object.backedUpPages) + backedUpDelta)
                object.zeroPages = UInt32(Int(object.zeroPages) + zeroDelta)
                object.purgedPages = UInt32(Int(object.purgedPages) + outcome.purgedWordsDelta)
                // Nothing resident is left: off the list until somebody uses it again. Otherwise its place stays what it was (reference §4.2, trap 1).
                object.isExhausted = outcome.isExhausted && !touched.isAny
            }
            state.strayPages += outcome.strayPages
        }
        if outcome.strayPages > 0 {
            logger.warning(
                "a client wrote to pages that were backed up; the backup's content is kept", metadata: ["pages": "\(outcome.strayPages)"])
        }
        return outcome
    }

    /// How many of an object's pages may go to the backup within its owner's and its pool's limits; given back by who asked. `failure`: what is to be told
    /// if they were not enough.
    private func takeBackupRoom(_ slot: UInt32, _ goalPages: Int) -> (pages: Int, failure: EngineError?) {
        state.withLock { state in
            let pool = state.pool(of: slot)
            let wanted = min(goalPages, Int(state.objects[slot].pageCount))
            let room = backupRoomPages(of: pool, state) / pool.unitPages
            let pages = min(wanted, room)
            pool.pagesOnTheirWayOut += pages * pool.unitPages
            if pages == wanted { return (pages, nil) }
            return (
                pages,
                EngineError(
                    .limitReached,
                    "\(pool.id) of uid \(pool.owner) has all the backup it may have; destroy objects, or have the limit raised")
            )
        }
    }
}
