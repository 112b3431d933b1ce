import ShrinkLinux
import SystemPackage

/// A pool's memory file. Calls that take the file's lock (punch, write, SEEK_DATA) go through `locked`.
///
/// A client that writes to the file from memory of its own whose fault nobody serves holds that lock for as long as it lives, and every other thread that
/// wants it sits in the kernel, where nothing reaches it. So where clients are strangers, a thread of the pool's own makes those calls; who waits for one gives up after a
/// while, and what the call may still do then is accounted for by `afterwards`. One pool stalls; its threads serve no other.
final class PoolFile: Sendable {
    private let descriptor: SharedDescriptor
    private let porter: Porter?
    /// Of a pool of huge pages.
    let huge: HugeMemory?

    /// `isGuarded`: clients of the pool are not trusted.
    init(_ descriptor: consuming OwnedDescriptor, isGuarded: Bool, huge: HugeMemory? = nil) {
        self.descriptor = SharedDescriptor(descriptor)
        self.huge = huge
        porter = isGuarded ? Porter() : nil
        // Now, while there is memory for its stack; without it the first call tries again.
        try? porter?.start()
    }

    deinit { porter?.end() }

    var number: CInt { descriptor.number }
    /// Bytes of one page of the pool: what words, claims, places and all page numbers of this module count.
    var unitBytes: Int { huge == nil ? basePageSize : HugeMemory.unitBytes }
    func duplicate() throws(Errno) -> OwnedDescriptor { try descriptor.duplicate() }

    /// How long a call has been stuck; nil if none is.
    var stalledNanoseconds: UInt64? { porter?.stalledNanoseconds }

    /// Makes a call that takes the file's lock. EBUSY: another call is stuck, this one was not made. ETIMEDOUT: it is stuck itself; when it ends after all,
    /// `afterwards` runs on the pool's thread.
    func locked<R: Sendable>(
        afterwards: (@Sendable () -> Void)? = nil, _ body: @escaping @Sendable (CInt) throws(Errno) -> R
    ) throws(Errno) -> R {
        guard let porter else { return try body(number) }
        let descriptor = descriptor
        return try porter.call(afterwards) { () throws(Errno) in try body(descriptor.number) }
    }
}

/// One thread that makes calls for others, one after the other.
private final class Porter: Sendable {
    /// A call that takes longer is stuck: all others take milliseconds.
    static let limitNanoseconds: UInt64 = 5_000_000_000

    private final class Job: @unchecked Sendable {
        // Sendable: touched under the queue's lock only, apart from `body`, which its one runner calls.
        let body: () -> Void
        var isDone = false
        var isGivenUp = false
        let afterwards: (@Sendable () -> Void)?
        init(_ afterwards: (@Sendable () -> Void)?, _ body: @escaping () -> Void) {
            self.afterwards = afterwards
            self.body = body
        }
    }

    private struct Queue {
        var jobs: [Job] = []
        var startedAt: MonotonicTime?
        var hasThread = false
        var isEnding = false
    }

    private let queue = Monitor(Queue())

    var stalledNanoseconds: UInt64? {
        queue.withLock { queue in
            guard let startedAt = queue.startedAt else { return nil }
            let time = MonotonicTime.now().nanoseconds(since: startedAt)
            return time > Self.limitNanoseconds ? time : nil
        }
    }

    /// Starts the thread if it does not run yet.
    func start() throws(Errno) {
        let isMine = queue.withLock { queue in
            defer { queue.hasThread = true }
            return !queue.hasThread
        }
        guard isMine else { return }
        do throws(Errno) { try DedicatedThread("shrink-pool", stackSize: 256 << 10) { [self] in serve() }.detach() } catch {
            queue.withLock { $0.hasThread = false }
            throw error
        }
    }

    func end() {
        queue.withLock { $0.isEnding = true }
        queue.notifyAll()
    }

    private final class Box<R>: @unchecked Sendable {
        // Sendable: written by the runner before the job is done, read by the caller after.
        var result: Result<R, Errno>?
    }

    func call<R: Sendable>(_ afterwards: (@Sendable () -> Void)?, _ body: @escaping @Sendable () throws(Errno) -> R) throws(Errno) -> R {
        if stalledNanoseconds != nil { throw .resourceBusy }
        let box = Box<R>()
        let job = Job(afterwards) { box.result = Result { () throws(Errno) in try body() } }
        try start()
        queue.withLock { $0.jobs.append(job) }
        queue.notifyAll()
        while true {
            let deadline = MonotonicTime(nanoseconds: MonotonicTime.now().nanoseconds + Self.limitNanoseconds)
            let isDone: Bool? = queue.wait(deadline: deadline) { queue in job.isDone ? true : queue.isEnding ? false : nil }
            if isDone == true, let result = box.result { return try result.get() }
            if let given = giveUp(job) { throw given }
        }
    }

    /// Nil: it is done, or nothing is stuck.
    private func giveUp(_ job: Job) -> Errno? {
        let isStalled = stalledNanoseconds != nil
        return queue.withLock { queue in
            if job.isDone || !isStalled { return nil }
            if let i = queue.jobs.firstIndex(where: { $0 === job }) {
                queue.jobs.remove(at: i)
                return .resourceBusy
            }
            job.isGivenUp = true
            return .timedOut
        }
    }

    private func serve() {
        while true {
            let job: Job? = queue.wait { queue -> Job?? in
                if !queue.jobs.isEmpty {
                    queue.startedAt = .now()
                    return .some(queue.jobs.removeFirst())
                }
                return queue.isEnding ? .some(nil) : nil
            }
            guard let job else { return }
            job.body()
            let isGivenUp = queue.withLock { queue in
                queue.startedAt = nil
                job.isDone = true
                return job.isGivenUp
            }
            queue.notifyAll()
            if isGivenUp { job.afterwards?() }
        }
    }
}
