import CShrinkLinux
import Glibc
public import SystemPackage

/// Readiness of many descriptors (epoll(7)). Call `wait` from a dedicated thread: it blocks.
public final class Epoll: Sendable {
    public struct Interest: OptionSet, Sendable {
        public let rawValue: UInt32
        public init(rawValue: UInt32) { self.rawValue = rawValue }
        public static let input = Interest(rawValue: SHL_EPOLLIN)
        public static let output = Interest(rawValue: SHL_EPOLLOUT)
        public static let priority = Interest(rawValue: SHL_EPOLLPRI)
        public static let error = Interest(rawValue: SHL_EPOLLERR)
        public static let hangUp = Interest(rawValue: SHL_EPOLLHUP)
        public static let peerClosed = Interest(rawValue: SHL_EPOLLRDHUP)
        public static let oneShot = Interest(rawValue: SHL_EPOLLONESHOT)
    }

    public struct Event: Sendable {
        public var token: UInt64
        public var ready: Interest
    }

    private let descriptor: OwnedDescriptor

    public init() throws(Errno) { descriptor = OwnedDescriptor(owning: try check(shl_epoll_create())) }

    public func add(_ fd: CInt, _ interest: Interest, token: UInt64) throws(Errno) {
        try check(shl_epoll_set(descriptor.number, SHL_EPOLL_ADD.rawInt, fd, interest.rawValue, token))
    }

    public func change(_ fd: CInt, _ interest: Interest, token: UInt64) throws(Errno) {
        try check(shl_epoll_set(descriptor.number, SHL_EPOLL_MOD.rawInt, fd, interest.rawValue, token))
    }

    public func remove(_ fd: CInt) throws(Errno) {
        try check(shl_epoll_set(descriptor.number, SHL_EPOLL_DEL.rawInt, fd, 0, 0))
    }

    /// Up to 64 events; empty after `timeoutMilliseconds` (-1 waits for ever).
    public func wait(timeoutMilliseconds: CInt = -1) throws(Errno) -> [Event] {
        try withUnsafeTemporaryAllocation(of: shl_event.self, capacity: 64) { (buffer) throws(Errno) -> [Event] in
            let n = try retrying { shl_epoll_wait(descriptor.number, buffer.baseAddress, 64, timeoutMilliseconds) }
            return (0..<Int(n)).map { Event(token: buffer[$0].token, ready: Interest(rawValue: buffer[$0].events)) }
        }
    }
}

/// A counter that wakes a poller (eventfd(2)).
public final class Wakeup: Sendable {
    private let descriptor: OwnedDescriptor

    public init() throws(Errno) { descriptor = OwnedDescriptor(owning: try check(shl_eventfd(0))) }

    /// Poll this for input.
    public var number: CInt { descriptor.number }

    public func signal() {
        var one: UInt64 = 1
        _ = write(descriptor.number, &one, 8)
    }

    public func clear() {
        var value: UInt64 = 0
        _ = read(descriptor.number, &value, 8)
    }
}

/// Waits for one descriptor. The corresponding C function is `poll`.
public func waitReadable(_ fd: CInt, timeoutMilliseconds: CInt = -1) throws(Errno) -> Bool {
    var entry = pollfd(fd: fd, events: Int16(POLLIN), revents: 0)
    return try retrying { poll(&entry, 1, timeoutMilliseconds) } > 0
}
