import CShrinkLinux
import Glibc
public import SystemPackage

// The one choke point of system calls. A result of -1 becomes `Errno`; EINTR is retried; EBADF and EFAULT are bugs of the
// caller, not conditions of the machine, and stop the program where they happen.

/// The calling thread's errno.
@usableFromInline
var lastErrno: Errno { Errno(rawValue: errno) }

/// Passes a non-negative result through and throws errno for a negative one.
@discardableResult
func check<R: SignedInteger>(_ result: R) throws(Errno) -> R {
    if result >= 0 { return result }
    throw accepted(lastErrno)
}

/// Repeats a call that a signal interrupted.
@discardableResult
func retrying<R: SignedInteger>(_ call: () -> R) throws(Errno) -> R {
    while true {
        let result = call()
        if result >= 0 { return result }
        let error = lastErrno
        if error != .interrupted { throw accepted(error) }
    }
}

private func accepted(_ error: Errno) -> Errno {
    if error == .badFileDescriptor || error == .badAddress {
        fatalError("system call on a descriptor or address that is not ours: \(error)")
    }
    return error
}
