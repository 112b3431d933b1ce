import ShrinkLinux
import SystemPackage

/// Threads that help a caller copy, each with a buffer of its own. Started once, allocated once.
final class CopyTeam: Sendable {
    private struct Work {
        var jobs: [Job] = []
        var isEnding = false
    }

    /// One piece of work that several threads do together until it is used up.
    private final class Job: Sendable {
        let body: @Sendable (Staging) -> Void
        init(_ body: @escaping @Sendable (Staging) -> Void) { self.body = body }
        let running = Monitor(0)
    }

    private let work = Monitor(Work())
    private let threads: [DedicatedThread]
    let helperCount: Int

    /// A thread for each buffer.
    init(_ buffers: [Staging]) throws(EngineError) {
        helperCount = buffers.count
        var threads: [DedicatedThread] = []
        for (i, staging) in buffers.enumerated() {
            do throws(Errno) {
                threads.append(try DedicatedThread("shrink-copy-\(i)") { [work] in Self.serve(work, staging) })
            } catch {
                throw EngineError(.system, "a copy thread can't be started", errno: error)
            }
        }
        self.threads = threads
    }

    deinit {
        work.withLock { $0.isEnding = true }
        work.notifyAll()
        // A helper may hold the job, and with it the last reference to the engine, a moment longer than its caller.
        for thread in threads { thread.joinOrLetGo() }
    }

    private static func serve(_ work: Monitor<Work>, _ staging: Staging) {
        while true {
            let job: Job? = work.wait { work -> Job?? in
                if let job = work.jobs.popLast() {
                    job.running.withLock { $0 += 1 }
                    return .some(job)
                }
                return work.isEnding ? .some(nil) : nil
            }
            guard let job else { return }
            job.body(staging)
            job.running.withLock { $0 -= 1 }
            job.running.notifyAll()
        }
    }

    /// Runs `body` on the caller's thread and on idle helpers, `threads` in all at most; returns when all are done. `body` ends when there is nothing left
    /// to do.
    func run(_ staging: Staging, threads: Int, _ body: @escaping @Sendable (Staging) -> Void) {
        let job = Job(body)
        let helpers = min(helperCount, threads - 1)
        if helpers > 0 {
            work.withLock { work in for _ in 0..<helpers { work.jobs.append(job) } }
            work.notifyAll()
        }
        body(staging)
        // Offers that nobody took are withdrawn; who took one is waited for.
        work.withLock { $0.jobs.removeAll { $0 === job } }
        job.running.wait { $0 == 0 ? () : nil }
    }
}
