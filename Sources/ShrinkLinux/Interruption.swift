import CShrinkLinux
import Glibc
public import SystemPackage

/// Wakes threads that block in a call which must not be retried, such as reading a FUSE device.
public enum Interruption {
    /// From now on `interrupt` ends the calling thread's blocking calls with EINTR. The corresponding C functions are
    /// `sigaction` and `pthread_sigmask`; the signal is SIGUSR1.
    public static func allow() throws(Errno) { try check(shl_allow_interruption()) }

    /// Interrupts a thread of this process that allowed it, by its kernel id. One that blocks a moment later is not reached: repeat until it
    /// is seen to have noticed. The corresponding C function is `tgkill`.
    public static func interrupt(_ thread: Int32) { _ = shl_interrupt_thread(thread) }
}

/// One object per thread, found without a lock (pthread_getspecific(3)).
///
/// The object's owner outlives the thread's use of it: the slot holds no reference.
public final class ThreadSlot<Value: AnyObject>: Sendable {
    private let key: pthread_key_t

    public init() {
        var key = pthread_key_t()
        let code = pthread_key_create(&key, nil)
        precondition(code == 0, "a process has 1024 thread slots, and few are made")
        self.key = key
    }

    deinit { pthread_key_delete(key) }

    /// The calling thread's object, set before.
    @inline(__always)
    public var value: Value {
        guard let pointer = pthread_getspecific(key) else { fatalError("this thread has no object in the slot") }
        return Unmanaged<Value>.fromOpaque(pointer).takeUnretainedValue()
    }

    public func set(_ value: Value) { pthread_setspecific(key, Unmanaged.passUnretained(value).toOpaque()) }
}
