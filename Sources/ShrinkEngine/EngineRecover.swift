import Logging
import ShrinkLinux
import Synchronization
import SystemPackage

extension Engine {
    /// Brings the target's pages back without pinning them. A bad page does not stop the rest. It takes room only above the memory floor.
    ///
    /// `progress` is called after each run, on any of the copying threads, one at a time.
    public func recover(_ target: ReclaimTarget, progress: @escaping @Sendable (RecoverProgress) -> Continuation = { _ in .proceed })
        -> RecoverResult
    {
        let started = MonotonicTime.now()
        var result = RecoverResult()
        do throws(EngineError) {
            let (ids, goal) = try recoverable(target)
            let walk = RecoverWalk(engine: self, ids: ids, goalPages: goal, progress)
            staging.withStaging { staging in team.run(staging) { walk.work($0) } }
            result = walk.result
        } catch {
            result.failure = error
        }
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
                return (state.objectIDs(in: nil), (bytes.rawValue + basePageSize - 1) / basePageSize)
            }
        }
    }

    /// Recovers an object whose reservation is held and enters the outcome; the reservation stays.
    func recoverReserved(_ slot: UInt32, _ staging: Staging, progress: (RecoverOutcome) -> Bool) -> RecoverOutcome {
        var outcome = RecoverOutcome()
        do throws(EngineError) {
            let reserved = try reservedObject(slot)
            var room = RoomCheck(floorBytes: floorBytes)
            outcome = reserved.recover(staging, room: { (bytes) throws(EngineError) in try room.take(bytes) }, progress: progress)
        } catch {
            outcome.failure = error
        }
        state.withLock { state in
            let pool = PoolID(rawValue: state.objects[slot].pool)
            state.objects[slot].backedUpPages -= UInt32(outcome.recoveredPages)
            state.pools[pool]?.backedUpPages -= outcome.recoveredPages
            state.damagedPages += outcome.failedPages
            if state.objects[slot].pinCount == 0, outcome.recoveredPages > 0 { state.lru.touch(slot, state.objects[slot].priority) }
        }
        if outcome.failedPages > 0, let failure = outcome.failure {
            logger.error("pages could not be recovered", metadata: ["pages": "\(outcome.failedPages)", "first": "\(failure)"])
        }
        return outcome
    }
}

/// Asks for memory before pages come in, so that nothing is killed for them: MemAvailable must stay above a floor.
struct RoomCheck {
    /// One look at /proc/meminfo allows so much.
    private static let chunk = 16 << 20
    let floorBytes: UInt64
    private var credit = 0

    init(floorBytes: UInt64) { self.floorBytes = floorBytes }

    mutating func take(_ bytes: Int) throws(EngineError) {
        if credit < bytes {
            let available: UInt64
            do throws(Errno) { available = try MemoryInfo().available } catch {
                throw EngineError(.system, "/proc/meminfo can't be read", errno: error)
            }
            guard available >= floorBytes + UInt64(bytes) else {
                throw EngineError(
                    .outOfMemory,
                    "bringing pages back would leave less than the floor of \(floorBytes >> 20) MiB (MemAvailable is \(available >> 20) MiB); free memory or shrink other objects",
                    errno: .noMemory)
            }
            credit = min(Self.chunk, Int(clamping: available - floorBytes))
        }
        credit -= bytes
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
    private let report: @Sendable (RecoverProgress) -> Continuation
    private let progress = Mutex(Progress())

    init(engine: Engine, ids: [ObjectID], goalPages: Int, _ report: @escaping @Sendable (RecoverProgress) -> Continuation) {
        self.engine = engine
        self.ids = ids
        self.goalPages = goalPages
        self.report = report
    }

    var result: RecoverResult { progress.withLock { $0.result } }

    func work(_ staging: Staging) {
        while let id = takeID() {
            // One that was destroyed meanwhile needs no recovering.
            guard let slot = try? engine.reserve(id) else { continue }
            defer { engine.release(slot) }
            guard engine.state.withLock({ $0.objects[slot].backedUpPages > 0 }) else { continue }
            let outcome = engine.recoverReserved(slot, staging) { outcome in
                progress.withLock { progress in
                    let total = RecoverProgress(
                        recoveredPages: progress.result.recoveredPages + outcome.recoveredPages,
                        failedPages: progress.result.failedPages + outcome.failedPages, currentObject: id)
                    if report(total) == .stop || total.recoveredPages >= goalPages { progress.isStopped = true }
                    return !progress.isStopped
                }
            }
            progress.withLock { progress in
                progress.result.recoveredPages += outcome.recoveredPages
                progress.result.failedPages += outcome.failedPages
                let reachedGoal = progress.result.recoveredPages >= goalPages
                if let failure = outcome.failure, !(reachedGoal && failure.code == .interrupted) {
                    progress.result.failure = progress.result.failure ?? failure
                    // Without room or backup the next object fares no better; a damaged page is that object's alone.
                    if failure.code == .outOfMemory { progress.isStopped = true }
                }
            }
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
