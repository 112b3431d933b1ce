import CShrinkLinux
import Glibc
public import SystemPackage

extension UnixSocket {
    /// Looks at waiting bytes without taking them, and without receiving their descriptors. Nil if a non-blocking socket has nothing,
    /// 0 at the end of the stream. The corresponding C function is `recv(MSG_PEEK)`.
    public static func peek(_ fd: CInt, into buffer: UnsafeMutableRawBufferPointer) throws(Errno) -> Int? {
        do {
            return try retrying { recv(fd, buffer.baseAddress, buffer.count, CInt(MSG_PEEK)) }
        } catch {
            if error == .wouldBlock { return nil }
            throw error
        }
    }

    /// Makes calls on the socket return at once instead of waiting. The corresponding C function is `fcntl(F_SETFL)`.
    public static func setNonBlocking(_ fd: CInt) throws(Errno) {
        let flags = try check(shl_get_status_flags(fd))
        try check(shl_set_status_flags(fd, flags | O_NONBLOCK))
    }
}

extension Files {
    /// The corresponding C function is `fchmodat`, which follows a final link.
    public static func setMode(of path: String, at directory: CInt = currentDirectory, _ mode: UInt32) throws(Errno) {
        try retrying { fchmodat(directory, path, mode, 0) }
    }
}

/// What a caller waits for on one descriptor.
public enum Readiness: Sendable {
    case input, output
}

/// Waits for one descriptor until `deadline` (nil waits for ever); false if the time ran out. An error or hang-up counts as ready, so
/// that the call that follows reports it. The corresponding C function is `poll`.
public func wait(for readiness: Readiness, of fd: CInt, until deadline: MonotonicTime?) throws(Errno) -> Bool {
    while true {
        var timeout: CInt = -1
        if let deadline {
            let now = MonotonicTime.now()
            if now >= deadline { return false }
            // Rounded up, or the last millisecond would spin.
            timeout = CInt(clamping: (deadline.nanoseconds(since: now) + 999_999) / 1_000_000)
        }
        var entry = pollfd(fd: fd, events: Int16(readiness == .input ? POLLIN : POLLOUT), revents: 0)
        let n = poll(&entry, 1, timeout)
        if n > 0 { return true }
        if n < 0, lastErrno != .interrupted { throw lastErrno }
    }
}
