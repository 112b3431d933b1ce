import ShrinkLinux
import SystemPackage

/// Threads for the engine's calls, which block, so that the cooperative pool never does.
///
/// There are four lanes, by what a call may wait for: one that waits for the slow kind must not hold up the quick kind. A shrink may last
/// minutes; Unpin and the end of a connection must get through meanwhile.
final class BlockingWorkers: Sendable {
    enum Lane: Int, CaseIterable {
        /// Memory alone.
        case bookkeeping
        /// A look at the backup that is given up after a while.
        case looking
        /// One operation of the backup, or an object that another operation has.
        case backup
        /// A whole shrink or recover.
        case reclaim

        var threads: Int {
            switch self {
            case .bookkeeping: 1
            case .looking: 2
            case .backup: 4
            // Of the engine's four concurrent copies, two are left for pins and reads.
            case .reclaim: 2
            }
        }
    }

    /// Calls that wait for a thread of one lane. A connection has one call at a time, so this is above the server's limit of connections.
    private static let queueLimit = 8192

    struct Job: Sendable {
        /// Nil: the daemon's own.
        var user: UInt32?
        var work: @Sendable () -> Void
    }

    private struct Queue {
        var jobs: [Job] = []
        var first = 0
        var isFinished = false
        /// Threads that one user may have at a time: of several, one is always left for the others.
        var threadsPerUser: Int
        var running: [UInt32: Int] = [:]

        var waiting: Int { jobs.count - first }

        /// The oldest whose user may have another thread.
        mutating func next() -> Job? {
            guard let place = jobs[first...].firstIndex(where: { $0.user.map { running[$0, default: 0] < threadsPerUser } ?? true }) else {
                return nil
            }
            let job = jobs[place]
            if let user = job.user { running[user, default: 0] += 1 }
            if place > first {
                jobs.remove(at: place)
                return job
            }
            first += 1
            // Consumed jobs go in batches, so that taking one stays cheap however long the queue is.
            if first == jobs.count || first >= 1024 {
                jobs.removeFirst(first)
                first = 0
            }
            return job
        }

        mutating func done(_ job: Job) {
            guard let user = job.user, let count = running[user] else { return }
            running[user] = count > 1 ? count - 1 : nil
        }
    }

    private let queues: [Monitor<Queue>]
    private let threads: [DedicatedThread]

    init() throws(Errno) {
        var queues: [Monitor<Queue>] = []
        var threads: [DedicatedThread] = []
        for lane in Lane.allCases {
            let queue = Monitor(Queue(threadsPerUser: max(1, lane.threads - 1)))
            queues.append(queue)
            for _ in 0..<lane.threads {
                threads.append(try DedicatedThread("control-\(lane)") { Self.work(queue) })
            }
        }
        self.queues = queues
        self.threads = threads
    }

    /// Runs `body` on a thread of the lane, in the order of coming but for users who have all threads that one may have. Nil if too many wait already.
    func run<R: Sendable>(_ lane: Lane, for user: UInt32? = nil, _ body: @escaping @Sendable () -> R) async -> R? {
        await withCheckedContinuation { (continuation: CheckedContinuation<R?, Never>) in
            let queue = queues[lane.rawValue]
            let accepted = queue.withLock {
                guard !$0.isFinished, $0.waiting < Self.queueLimit else { return false }
                $0.jobs.append(Job(user: user) { continuation.resume(returning: body()) })
                return true
            }
            if accepted { queue.notifyAll() } else { continuation.resume(returning: nil) }
        }
    }

    /// True if a thread of the lane did an empty job within the time: calls of that kind are answered.
    func answers(_ lane: Lane, withinMilliseconds patience: UInt64) -> Bool {
        let queue = queues[lane.rawValue]
        let done = Monitor(false)
        queue.withLock {
            $0.jobs.append(
                Job {
                    done.withLock { $0 = true }
                    done.notifyAll()
                })
        }
        queue.notifyAll()
        return done.wait(deadline: .now().advanced(milliseconds: patience)) { $0 ? true : nil } ?? false
    }

    /// Ends the threads after what is queued. Blocks until then.
    func finish() {
        for queue in queues {
            queue.withLock { $0.isFinished = true }
            queue.notifyAll()
        }
        for thread in threads { thread.join() }
    }

    private static func work(_ queue: Monitor<Queue>) {
        while true {
            let job: Job? = queue.wait {
                if let job = $0.next() { return .some(job) }
                return $0.isFinished && $0.waiting == 0 ? .some(nil) : nil
            }
            guard let job else { return }
            job.work()
            queue.withLock { $0.done(job) }
            // Another of this user may be next.
            queue.notifyAll()
        }
    }
}
