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
    }

    private let engine: Engine
    private let state = Monitor(State())

    init(_ engine: Engine) throws(Errno) { self.engine = engine }

    func look() -> View {
        let mine = state.withLock { state -> (wanted: Int, starts: Bool) in
            if state.begun == state.done {
                state.begun += 1
                state.askedAt = .now()
                return (state.begun, true)
            }
            // One that has begun already may have seen less than this caller did; but a server that hangs needs no second witness.
            return (state.begun, false)
        }
        if mine.starts {
            let (engine, state) = (engine, state)
            do throws(Errno) {
                // It ends when the backup answers; until then there is one such thread at most.
                try DedicatedThread("backup-watch", stackSize: 512 << 10) {
                    let found = (status: engine.backupStatus(), orphans: engine.countOrphans())
                    state.withLock { state in
                        state.last = found
                        state.done = state.begun
                    }
                    state.notifyAll()
                }.detach()
            } catch {
                state.withLock { $0.begun = $0.done }
            }
        }
        let limit = MonotonicTime.now().advanced(milliseconds: Self.patienceMilliseconds)
        let answered = state.wait(deadline: limit) { $0.done >= mine.wanted ? true : nil } ?? false
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
