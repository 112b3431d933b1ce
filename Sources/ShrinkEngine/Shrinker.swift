import ShrinkLinux
import SystemPackage

/// What could be reclaimed, and reclaiming it: the two calls a source of pressure makes.
///
/// Pools of huge pages are no business of these two: what they free is no memory of the machine's.
///
/// The kernel's counterpart is a registered `struct shrinker`: `count_objects` and `scan_objects`, with the passes of `xe_shrinker.c`.
public struct Shrinker: Sendable {
    private let engine: Engine

    init(engine: Engine) { self.engine = engine }

    /// How much there is; `empty` is not the same as zero after a scan that was not allowed to do anything.
    public enum Count: Sendable, Equatable {
        /// SHRINK_EMPTY: nothing, also with more permissions, until objects are used again.
        case empty
        /// An upper bound, in pages: what words say is a hint.
        case pages(Int)
    }

    /// What a scan did.
    public enum Scan: Sendable, Equatable {
        /// SHRINK_STOP: there was nothing that may be looked at. Do not ask again for now.
        case stop
        /// Looked at and freed are told apart: a page may be looked at and stay.
        case scanned(ShrinkResult)
    }

    /// What a caller with these permissions may hope for; what can't go to its own pool's backend does not count. Reads counters only: the same time
    /// for one object and for a million.
    public func count(_ context: ReclaimContext) -> Count {
        let (tally, storable) = engine.state.withLock { ($0.tally, context.mayUseFileSystem ? $0.storablePages : 0) }
        let pages = tally.readyPages + tally.expendablePages + storable
        return pages == 0 && tally.shrinkablePages == 0 ? .empty : .pages(pages)
    }

    /// Frees up to `goalPages`: ready blocks, then pass by pass what the context allows.
    ///
    /// Frees at most the goal and one object's run more. A busy object never ends it, and what was freed is always told. For what is short of the goal then,
    /// users of leased memory are asked, if the caller may wait: for as long as `Configuration.revocationMilliseconds` says, with nothing held.
    public func scan(
        goalPages: Int, _ context: ReclaimContext, cancellation: Cancellation? = nil,
        progress: @escaping @Sendable (ShrinkProgress) -> Continuation = { _ in .proceed }
    ) -> Scan {
        var result = engine.reclaim(pool: nil, of: .base, goalPages: goalPages, context, cancellation, progress)
        // Who had enough has no need of more.
        if context.mayWait, context.mayUseFileSystem, result.failure?.code != .interrupted {
            let short = goalPages - result.freedBytes.rawValue / basePageSize
            engine.shrinkLeased(
                .bytes(ByteCount(max(0, short) * basePageSize)), of: .base, goalPages: short, into: &result, cancellation, progress)
        }
        return result.scannedPages == 0 && result.freedBytes == .zero && result.failure == nil && result.deferredObjects == 0
            && result.unansweredLeases == 0 ? .stop : .scanned(result)
    }

    /// A good goal for one scan: about two average objects, so that little is reclaimed in excess and little time goes into asking.
    public var batchPages: Int {
        let tally = engine.state.withLock { $0.tally }
        guard tally.shrinkableObjects > 0 else { return EngineLimits.runPages }
        return min(max(EngineLimits.runPages / 8, 2 * tally.shrinkablePages / tally.shrinkableObjects), 1 << 16)
    }
}

extension Engine {
    public var shrinker: Shrinker { Shrinker(engine: self) }

    func reclaim(
        pool: PoolID?, of kind: PageKind = .any, goalPages: Int, _ context: ReclaimContext, _ cancellation: Cancellation?,
        _ progress: @escaping @Sendable (ShrinkProgress) -> Continuation
    ) -> ShrinkResult {
        let started = MonotonicTime.now()
        let walk = ReclaimWalk(engine: self, pool: pool, of: kind, goalPages: goalPages, context, cancellation, progress)
        walk.dropReadyBlocks()
        if walk.isOpen, let staging = staging.take(cancellation) {
            defer { self.staging.giveBack(staging) }
            if walk.begin() {
                for pass in ReclaimPass.allCases where pass.isAllowed(in: context) && walk.isOpen && walk.isWorthwhile(pass) {
                    repeat {
                        walk.begin(pass)
                        // Waiting is for one thread: the others would stand behind it.
                        if pass == .busy {
                            walk.work(staging)
                        } else {
                            team.run(staging, threads: configuration.copyWorkers) { walk.work($0) }
                        }
                    } while walk.isWorthRepeating
                }
                walk.end()
            }
        } else if walk.isOpen {
            walk.stop(EngineError(.interrupted, "stopped while waiting for other operations; ask again"))
        }
        refreshAvailableBackupBytes()
        var result = walk.result
        result.durationNanoseconds = MonotonicTime.now().nanoseconds(since: started)
        return result
    }

    /// The same on the caller's thread with the caller's buffer, for one that holds an object's reservation: it never waits for another.
    func reclaimDirect(of kind: PageKind = .base, goalPages: Int, _ staging: Staging) -> ShrinkResult {
        let walk = ReclaimWalk(engine: self, pool: nil, of: kind, goalPages: goalPages, .direct, nil) { _ in .proceed }
        walk.dropReadyBlocks()
        if walk.isOpen, walk.begin() {
            for pass in ReclaimPass.allCases where pass.isAllowed(in: .direct) && walk.isOpen && walk.isWorthwhile(pass) {
                repeat {
                    walk.begin(pass)
                    walk.work(staging)
                } while walk.isWorthRepeating
            }
            walk.end()
        }
        return walk.result
    }
}
