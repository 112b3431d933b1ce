import CShrinkLinux
import Glibc
public import SystemPackage

/// A process of somebody else, told from a later one that got its number: the number and when the process started.
public struct ProcessIdentity: Sendable, Equatable {
    public var processID: Int32
    /// Clock ticks since boot (proc_pid_stat(5), field 22); 0 where it is not known.
    public var startTime: UInt64

    public init(processID: Int32, startTime: UInt64) {
        self.processID = processID
        self.startTime = startTime
    }

    /// The process that has this number now. A start time of 0 if it is gone, or hidden from this process.
    public init(of processID: Int32) {
        self.init(processID: processID, startTime: Self.startTime(of: processID) ?? 0)
    }

    private static func startTime(of processID: Int32) -> UInt64? {
        guard processID > 0, let bytes = try? Files.contents(of: "/proc/\(processID)/stat", limit: 4096) else { return nil }
        // The name in parentheses may have spaces and parentheses of its own: fields are counted from the last one.
        let text = String(decoding: bytes, as: UTF8.self)
        guard let end = text.lastIndex(of: ")") else { return nil }
        let fields = text[text.index(after: end)...].split(separator: " ")
        return fields.count > 19 ? UInt64(fields[19]) : nil
    }

    /// A descriptor that becomes readable when the process has ended; nil if it has ended already, or another one has its number now.
    ///
    /// A process in another pid namespace has number 0 here and cannot be watched: then the answer is `unknown`.
    public func watch() throws(Errno) -> Watched {
        guard processID > 0 else { return .unknown }
        let number = shl_pidfd_open(processID)
        guard number >= 0 else {
            if lastErrno == .noSuchProcess { return .ended }
            throw lastErrno
        }
        // The descriptor first, the question afterwards: what is read is of the process that the descriptor names, or that one is gone.
        let descriptor = OwnedDescriptor(owning: number)
        let now = Self.startTime(of: processID)
        if startTime != 0, let now, now != startTime { return .ended }
        if try waitReadable(descriptor.number, timeoutMilliseconds: 0) { return .ended }
        return .alive(SharedDescriptor(descriptor))
    }

    public enum Watched: Sendable {
        case alive(SharedDescriptor)
        case ended
        case unknown
    }
}

/// Waits until the other side of a stream socket is gone, or this side was shut down; what it sends meanwhile is left unread.
/// The corresponding C function is `poll(POLLRDHUP)`.
public func waitForHangUp(_ fd: CInt) throws(Errno) {
    while true {
        var entry = pollfd(fd: fd, events: Int16(SHL_EPOLLRDHUP), revents: 0)
        if try retrying({ poll(&entry, 1, -1) }) > 0 { return }
    }
}
