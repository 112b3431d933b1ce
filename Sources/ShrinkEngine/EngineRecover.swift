import Logging
import ShrinkLinux
import SystemPackage

extension Engine {
    /// Brings the target's pages back without pinning them. A bad page does not stop the rest. It takes room only above the memory floor and below
    /// the limit, shrinking others for it if need be.
    ///
    /// `progress` is called after each run, on any of the copying threads, one at a time.
    public func recover(
        _ target: ReclaimTarget, cancellation: Cancellation? = nil,
        progress: @escaping @Sendable (RecoverProgress) -> Continuation = { _ in .proceed }
    ) -> RecoverResult {
        let started = MonotonicTime.now()
        var result = RecoverResult()
        do throws(EngineError) {
            let (ids, goal) = try recoverable(target)
            let walk = RecoverWalk(engine: self, ids: ids, goalPages: goal, cancellation, progress)
            try staging.withStaging(cancellation) { (staging) throws(EngineError) in
                team.run(staging, threads: recoverWorkers) { walk.work($0) }
            }
            result = walk.result
        } catch {
            result.failure = error
        }
        result.durationNanoseconds = MonotonicTime.now().nanoseconds(since: started)
        return result
    }

    /// Brings back those of an object's pages that lie in a range. With `ahead`, the rest follows in the background as far as there is room without
    /// shrinking others.
    public func recover(_ id: ObjectID, pages: Range<PageIndex>, ahead: Bool = false, cancellation: Cancellation? = nil) -> RecoverResult {
        let started = MonotonicTime.now()
        var result = RecoverResult()
        do throws(EngineError) {
            try staging.withStaging(cancellation) { (staging) throws(EngineError) in
                let slot = try reserve(id, cancellation: cancellation)
                defer { release(slot) }
                let (count, content) = state.withLock { (Int($0.objects[slot].pageCount), $0.objects[slot].content) }
                guard pages.lowerBound.rawValue >= 0, pages.upperBound.rawValue <= count else {
                    throw EngineError(.invalidSize, "\(id) has \(count) pages; the range ends beyond them")
                }
                // What was given up never comes back.
                guard content == .kept || content == .purgeable else { return }
                let outcome = recoverReserved(slot, pages: pages.lowerBound.rawValue..<pages.upperBound.rawValue, staging) { _ in
                    cancellation?.isCancelled != true
                }
                result.recoveredPages = outcome.recoveredPages * outcome.unitPages
                result.failedPages = outcome.failedPages * outcome.unitPages
                result.failure = outcome.failure
            }
        } catch {
            result.failure = error
        }
        if ahead, result.failure == nil { self.ahead.add(id, of: self) }
        result.durationNanoseconds = MonotonicTime.now().nanoseconds(since: started)
        return result
    }

    private func recoverable(_ target: ReclaimTarget) throws(EngineError) -> (ids: [ObjectID], goalPages: Int) {
        try state.withLock { state throws(EngineError) in
            switch target {
            case .object(let id):
                _ = try state.slot(id)
                return ([id], .max)
            case .pool(let id):
                _ = try state.pool(id)
                return (state.objectIDs(in: id), .max)
            case .all: return (state.objectIDs(in: nil), .max)
            case .bytes(let bytes):
                guard bytes.rawValue > 0 else { throw EngineError(.invalidSize, "nothing to recover: give a positive number of bytes") }
                return (state.objectIDs(in: nil), (bytes.rawValue - 1) / basePageSize + 1)
            }
        }
    }

    /// Recovers an object whose reservation is held and enters the outcome; the reservation stays.
    func recoverReserved(
        _ slot: UInt32, pages: Range<Int>? = nil, _ staging: Staging, mayShrinkOthers: Bool = true, progress: (RecoverOutcome) -> Bool
    ) -> RecoverOutcome {
        let reserved = reservedObject(slot)
        var granted = RunRoom(engine: self, staging: mayShrinkOthers ? staging : nil, isHuge: reserved.poolFile.huge != nil)
        var outcome = reserved.recover(
            pages ?? 0..<reserved.pageCount, staging, room: &granted,
            progress: { outcome in
                // Its owner destroys it meanwhile: what is back so far goes with it.
                if self.state.withLock({ $0.objects[slot].life != .live }) { return false }
                var outcome = outcome
                outcome.unitPages = reserved.unitPages
                return progress(outcome)
            })
        outcome.unitPages = reserved.unitPages
        granted.giveBack()
        state.withLock { state in
            if outcome.failure?.code == .interrupted, state.objects[slot].life != .live {
                outcome.failure = EngineError(.noSuchObject, "\(reserved.id) was destroyed meanwhile")
            }
            let touched = state.takeTouched(slot)
            let (backedUp, zero) = (outcome.recoveredPages + Int(touched.backedUpPages), Int(touched.zeroPages))
            state.addBackedUp(-backedUp, to: state.pool(of: slot))
            state.pool(of: slot).zeroPages -= zero
            var newlyDamaged = 0
            state.change(slot) { object in
                object.backedUpPages -= UInt32(backedUp)
                object.zeroPages -= UInt32(zero)
                // Also after a failure: a run may have come in whose words still say backed up, and the next shrink frees it.
                if outcome.recoveredPages > 0 || outcome.failure != nil || touched.isAny { object.isExhausted = false }
                // A page that stays bad is met again with every try, and counts once.
                newlyDamaged = outcome.failedPages - Int(object.damagedPages)
                if newlyDamaged > 0 { object.damagedPages = UInt32(outcome.failedPages) }
            }
            state.damagedPages += max(0, newlyDamaged)
            if outcome.recoveredPages > 0 { state.bump(slot) }
        }
        // All back: its users need not ask.
        if outcome.failure == nil { openGatesIfWhole(slot) }
        if outcome.failedPages > 0, let failure = outcome.failure {
            logger.error("pages could not be recovered", metadata: ["pages": "\(outcome.failedPages)", "first": "\(failure)"])
        }
        if outcome.undroppedPages > 0 {
            logger.warning(
                "recovered pages could not be dropped from the backup",
                metadata: ["object": "\(reserved.id.rawValue)", "pages": "\(outcome.undroppedPages)"])
        }
        return outcome
    }
}

/// One recover over many objects, shared by the threads that copy.
private final class RecoverWalk: Sendable {
    private struct Progress {
        var next = 0
        var result = RecoverResult()
        var isStopped = false
    }

    private let engine: Engine
    private let ids: [ObjectID]
    private let goalPages: Int
    private let cancellation: Cancellation?
    /// The engine is ending: what is brought back stays.
    private let isLast: Bool
    private let report: @Sendable (RecoverProgress) -> Continuation
    private let progress = Monitor(Progress())

    init(
        engine: Engine, ids: [ObjectID], goalPages: Int, _ cancellation: Cancellation?,
        _ report: @escaping @Sendable (RecoverProgress) -> Continuation
    ) {
        self.engine = engine
        self.ids = ids
        isLast = engine.state.withLock { $0.isShuttingDown }
        self.goalPages = goalPages
        self.cancellation = cancellation
        self.report = report
    }

    var result: RecoverResult { progress.withLock { $0.result } }

    func work(_ staging: Staging) {
        while let id = takeID() {
            // Asked for room, its users let some go: once more.
            if recover(id, staging, mayAsk: !isLast) { _ = recover(id, staging, mayAsk: false) }
        }
    }

    /// True if there was no room, and asking for it made some.
    private func recover(_ id: ObjectID, _ staging: Staging, mayAsk: Bool) -> Bool {
        let slot: UInt32
        switch engine.reserve(id, cancellation.map { .interruptible($0) } ?? .wait) {
        case .reserved(let taken): slot = taken
        case .interrupted:
            stop(EngineError(.interrupted, "recovering was stopped; it goes on when asked again"))
            return false
        // One that was destroyed meanwhile needs no recovering.
        case .gone, .busy, .deadlock, .alreadyHeld: return false
        }
        guard engine.state.withLock({ $0.objects[slot].backedUpPages > 0 && !$0.objects[slot].isExpendable }) else {
            engine.release(slot)
            return false
        }
        let outcome = engine.recoverReserved(slot, staging, mayShrinkOthers: !isLast) { outcome in
            progress.withLock { progress in
                let total = RecoverProgress(
                    recoveredPages: progress.result.recoveredPages + outcome.recoveredPages * outcome.unitPages,
                    failedPages: progress.result.failedPages + outcome.failedPages * outcome.unitPages, currentObject: id)
                if report(total) == .stop || total.recoveredPages >= goalPages || cancellation?.isCancelled == true {
                    progress.isStopped = true
                }
                return !progress.isStopped
            }
        }
        engine.release(slot)
        let code = outcome.failure?.code
        if mayAsk, code == .outOfMemory, engine.askLeasesForRoom(id, cancellation, staging) {
            enter(outcome, nil)
            return true
        }
        enter(outcome, outcome.failure)
        return false
    }

    /// Counts what was done, and what is told of why it was not more. (On its own: in one function with the above, Swift 6.3's optimiser ends.)
    private func enter(_ outcome: RecoverOutcome, _ failure: EngineError?) {
        progress.withLock { progress in
            progress.result.recoveredPages += outcome.recoveredPages * outcome.unitPages
            progress.result.failedPages += outcome.failedPages * outcome.unitPages
            let reachedGoal = progress.result.recoveredPages >= goalPages
            guard let failure, !(reachedGoal && failure.code == .interrupted), failure.code != .noSuchObject else { return }
            progress.result.failure = progress.result.failure ?? failure
            // Without room the next object fares no better, unless it was huge pages that were wanting; a damaged page is that object's alone.
            if failure.code == .outOfMemory, outcome.unitPages == 1 { progress.isStopped = true }
        }
    }

    private func stop(_ error: EngineError) {
        progress.withLock { progress in
            progress.isStopped = true
            progress.result.failure = progress.result.failure ?? error
        }
    }

    private func takeID() -> ObjectID? {
        progress.withLock { progress in
            guard !progress.isStopped, progress.next < ids.count else { return nil }
            defer { progress.next += 1 }
            return ids[progress.next]
        }
    }
}
