import ShrinkLinux
import Synchronization
import SystemPackage

/// The store's own thread: compacts and ages, once a second, and stops when told.
final class BackgroundWork: Sendable {
    private struct State {
        var isStopping = false
        var thread: DedicatedThread?
    }

    private let core: StoreCore
    private let cleaner: SegmentCleaner
    private let mover: TierMover
    private let state = Monitor<State>(State())

    init(_ core: StoreCore, _ cleaner: SegmentCleaner, _ mover: TierMover) {
        self.core = core
        self.cleaner = cleaner
        self.mover = mover
    }

    func start() throws(Errno) {
        let thread = try DedicatedThread("pack-cleaner") { [self] in run() }
        state.withLock { $0.thread = thread }
    }

    /// Waits for the thread's end. Nothing if it doesn't run.
    func stop() {
        let thread = state.withLock { state -> DedicatedThread? in
            state.isStopping = true
            defer { state.thread = nil }
            return state.thread
        }
        state.notifyAll()
        thread?.join()
    }

    private func run() {
        while true {
            let stopped = state.wait(deadline: MonotonicTime.now().advanced(milliseconds: 1000)) { $0.isStopping ? true : nil }
            if stopped != nil { return }
            sealIdle()
            // As long as something comes of it and nobody writes.
            while core.pool.writers.load(ordering: .relaxed) == 0, !state.withLock({ $0.isStopping }), cleaner.cleanOne(urgent: false) {}
            _ = mover.moveAged(now: UInt32(truncatingIfNeeded: FileTime.now().seconds))
            core.table.grace.collect()
        }
    }

    /// Ends appending to segments of which most is dead already, or that would never age for want of writes.
    private func sealIdle() {
        let now = UInt32(truncatingIfNeeded: FileTime.now().seconds)
        for slot in 0..<WorkerPool.size {
            core.pool.withContext(of: slot) { context in
                for tier in core.tiers.indices {
                    let open = context.open[tier]
                    guard open.number >= 0 else { continue }
                    let segment = core.table.slot(open.number)
                    let used = segment.usedBytes - SegmentTable.headerBytes
                    let isDead =
                        used > core.geometry.segmentBytes / 4 && segment.liveBytes * 100 < used * (100 - core.options.deadSharePercent)
                    let isOld =
                        core.options.ageSeconds.map { tier < core.tiers.count - 1 && used > 0 && Int(now) - Int(segment.openedAt) >= $0 }
                        ?? false
                    if isDead || isOld { core.sealOpen(context, tier) }
                }
            }
        }
    }
}
