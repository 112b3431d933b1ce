import ShrinkEngine
import ShrinkLinux
import SystemPackage

/// Looks at the backup on a thread of its own, so that who wants to know how it stands waits a bounded time when its server hangs.
final class BackupWatch: Sendable {
    /// How the backup stands, or stood when it last answered.
    struct View: Sendable {
        var status: BackupStatus
        var orphans: Int
        /// Nil: this is of now. Otherwise how long the question has been waiting for an answer.
        var silentMilliseconds: Int?
    }

    /// What a look may take before the answer is that there is none.
    private static let patienceMilliseconds: UInt64 = 2_000

    private struct State {
        var last: (status: BackupStatus, orphans: Int)?
        /// Looks begun and looks done; equal while nobody looks.
        var begun = 0
        var done = 0
        var askedAt = MonotonicTime.now()
        var isEnding = false
    }

    private let engine: Engine
    private let state = Monitor(State())

    /// The thread is there from the start: when memory is short there is none to make one.
    init(_ engine: Engine) throws(Errno) {
        self.engine = engine
        let state = state
        try DedicatedThread("backup-watch", stackSize: 512 << 10) { [weak engine] in
            while state.wait(until: { $0.isEnding ? false : $0.begun > $0.done ? true : nil }) {
                guard let engine else { return }
                let found = (status: engine.backupStatus(), orphans: engine.countOrphans())
                state.withLock { state in
                    state.last = found
                    state.done = state.begun
                }
                state.notifyAll()
            }
        }.detach()
    }

    deinit {
        state.withLock { $0.isEnding = true }
        state.notifyAll()
    }

    func look() -> View {
        let wanted = state.withLock { state in
            // One that has begun already may have seen less than this caller did; but a server that hangs needs no second witness.
            if state.begun == state.done {
                state.begun += 1
                state.askedAt = .now()
            }
            return state.begun
        }
        state.notifyAll()
        let limit = MonotonicTime.now().advanced(milliseconds: Self.patienceMilliseconds)
        let answered = state.wait(deadline: limit) { $0.done >= wanted ? true : nil } ?? false
        return state.withLock { state in
            let silent = answered ? nil : Int(clamping: MonotonicTime.now().nanoseconds(since: state.askedAt) / 1_000_000)
            guard let last = state.last else {
                return View(
                    status: BackupStatus(path: engine.backupPath, storedBytes: nil, availableBytes: 0), orphans: 0,
                    silentMilliseconds: silent)
            }
            return View(status: last.status, orphans: last.orphans, silentMilliseconds: silent)
        }
    }
}
