import CShrinkLinux
import Glibc
public import SystemPackage

/// A thread of our own, for work that blocks. Never the cooperative pool.
///
/// All signals are blocked in it, so that only the program's signal handling sees them; all but SIGBUS, which is the thread's own (`GuardedMapping`).
public final class DedicatedThread: Sendable {
    private let thread: pthread_t
    // pthread_t is an integer on Linux.

    private final class Start {
        let name: String
        let body: @Sendable () -> Void
        init(_ name: String, _ body: @escaping @Sendable () -> Void) {
            self.name = name
            self.body = body
        }
    }

    /// Stops the calling thread for a while, as between two looks at what tells nobody when it changes. The corresponding C function is `usleep`.
    public static func pause(milliseconds: UInt32) { usleep(milliseconds * 1000) }

    /// Starts at once. `name` is cut to 15 bytes by the kernel (prctl(2) PR_SET_NAME). The corresponding C function is `pthread_create`.
    public init(_ name: String, stackSize: Int = 1 << 20, _ body: @escaping @Sendable () -> Void) throws(Errno) {
        var attributes = pthread_attr_t()
        pthread_attr_init(&attributes)
        defer { pthread_attr_destroy(&attributes) }
        pthread_attr_setstacksize(&attributes, stackSize)
        var thread = pthread_t()
        let start = Unmanaged.passRetained(Start(name, body))
        let code = pthread_create(
            &thread, &attributes,
            { argument in
                let start = Unmanaged<Start>.fromOpaque(argument!).takeRetainedValue()
                _ = shl_block_signals_but_faults()
                _ = shl_name_this_thread(start.name)
                start.body()
                return nil
            }, start.toOpaque())
        if code != 0 {
            start.release()
            throw Errno(rawValue: code)
        }
        self.thread = thread
    }

    /// Waits for the end of the thread; call it once. The corresponding C function is `pthread_join`.
    public func join() { pthread_join(thread, nil) }

    /// As `join`, for an owner whose last reference the thread itself may have held: a thread can't wait for itself, so it is let go instead.
    /// Call it once. The corresponding C functions are `pthread_join` and `pthread_detach`.
    public func joinOrLetGo() {
        if pthread_equal(pthread_self(), thread) != 0 { pthread_detach(thread) } else { pthread_join(thread, nil) }
    }
}

/// The kernel's id of the calling thread. The corresponding C function is `gettid`.
public func currentThreadID() -> Int32 { shl_thread_id() }

/// A mutex with a condition, for dedicated threads that wait on shared state.
///
/// `Synchronization.Mutex` has no condition variable; this is its pthread counterpart and nothing more.
public final class Monitor<State: ~Copyable>: @unchecked Sendable {
    // Sendable: `state` is touched only between lock and unlock.
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    private let condition = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
    private var state: State

    public init(_ state: consuming sending State) {
        self.state = state
        pthread_mutex_init(mutex, nil)
        var attributes = pthread_condattr_t()
        pthread_condattr_init(&attributes)
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
        pthread_cond_init(condition, &attributes)
        pthread_condattr_destroy(&attributes)
    }

    deinit {
        pthread_cond_destroy(condition)
        pthread_mutex_destroy(mutex)
        condition.deallocate()
        mutex.deallocate()
    }

    /// Runs `body` with the lock held.
    public func withLock<R, E: Error>(_ body: (inout State) throws(E) -> R) throws(E) -> R {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        return try body(&state)
    }

    /// Waits, with the lock held on every test, until `ready` returns a value.
    public func wait<R>(until ready: (inout State) -> R?) -> R {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        while true {
            if let result = ready(&state) { return result }
            pthread_cond_wait(condition, mutex)
        }
    }

    /// As `wait(until:)`, but nil once `deadline` (CLOCK_MONOTONIC) has passed.
    public func wait<R>(deadline: MonotonicTime, until ready: (inout State) -> R?) -> R? {
        var limit = timespec(tv_sec: Int(deadline.nanoseconds / 1_000_000_000), tv_nsec: Int(deadline.nanoseconds % 1_000_000_000))
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        while true {
            if let result = ready(&state) { return result }
            if pthread_cond_timedwait(condition, mutex, &limit) == ETIMEDOUT { return ready(&state) }
        }
    }

    /// Wakes every waiter to test again.
    public func notifyAll() { pthread_cond_broadcast(condition) }
}

/// A point on CLOCK_MONOTONIC.
public struct MonotonicTime: Sendable, Comparable {
    public var nanoseconds: UInt64

    public init(nanoseconds: UInt64) { self.nanoseconds = nanoseconds }

    /// The corresponding C function is `clock_gettime(CLOCK_MONOTONIC)`.
    public static func now() -> MonotonicTime {
        var t = timespec()
        clock_gettime(CLOCK_MONOTONIC, &t)
        return MonotonicTime(nanoseconds: UInt64(t.tv_sec) * 1_000_000_000 + UInt64(t.tv_nsec))
    }

    public static func < (a: MonotonicTime, b: MonotonicTime) -> Bool { a.nanoseconds < b.nanoseconds }
    /// The end of time (584 years after the start) if it would be later.
    public func advanced(milliseconds: UInt64) -> MonotonicTime {
        let (added, isTooLong) = milliseconds.multipliedReportingOverflow(by: 1_000_000)
        let (sum, isTooLate) = nanoseconds.addingReportingOverflow(added)
        return MonotonicTime(nanoseconds: isTooLong || isTooLate ? .max : sum)
    }
    /// 0 if `earlier` is not earlier: another thread may have looked at the clock after this time was taken, and stored what it saw before this one compares.
    public func nanoseconds(since earlier: MonotonicTime) -> UInt64 { self > earlier ? nanoseconds - earlier.nanoseconds : 0 }
    /// Seconds, modulo 2^32: for intervals.
    public var wholeSeconds: UInt32 { UInt32(truncatingIfNeeded: nanoseconds / 1_000_000_000) }
}

extension DedicatedThread {
    /// Lets the thread end on its own; call it instead of `join`. The corresponding C function is `pthread_detach`.
    public func detach() { pthread_detach(thread) }
}
