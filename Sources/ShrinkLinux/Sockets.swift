import CShrinkLinux
import Glibc
public import SystemPackage

/// Who is at the other end of a Unix socket (SO_PEERCRED, unix(7)): as of connect(2), not of now.
public struct PeerCredentials: Sendable, Equatable {
    public var processID: Int32
    public var userID: UInt32
    public var groupID: UInt32
}

/// Unix sockets. Paths are file-system paths; a leading `@` is the abstract namespace.
public enum UnixSocket {
    public enum Kind: Sendable { case stream, datagram }

    /// A listening or bound socket. An existing file of that name is EADDRINUSE. The corresponding C functions are `socket`, `bind`, `listen`.
    public static func listen(_ path: String, _ kind: Kind = .stream, backlog: CInt = 512, nonBlocking: Bool = false) throws(Errno)
        -> OwnedDescriptor
    {
        var address = sockaddr_un()
        let length = CInt(try check(shl_unix_address(&address, path)))
        let socket = try make(kind, nonBlocking: nonBlocking)
        try retrying { shl_bind(socket.number, &address, length) }
        if kind == .stream { try retrying { Glibc.listen(socket.number, backlog) } }
        return socket
    }

    /// The corresponding C functions are `socket` and `connect`.
    public static func connect(_ path: String, _ kind: Kind = .stream) throws(Errno) -> OwnedDescriptor {
        var address = sockaddr_un()
        let length = CInt(try check(shl_unix_address(&address, path)))
        let socket = try make(kind, nonBlocking: false)
        try retrying { shl_connect(socket.number, &address, length) }
        return socket
    }

    private static func make(_ kind: Kind, nonBlocking: Bool) throws(Errno) -> OwnedDescriptor {
        let type = (kind == .stream ? SHL_SOCK_STREAM.rawInt : SHL_SOCK_DGRAM.rawInt) | (nonBlocking ? SHL_SOCK_NONBLOCK.rawInt : 0)
        return OwnedDescriptor(owning: try check(shl_socket(type)))
    }

    /// Two connected ends.
    public struct Pair: ~Copyable {
        public var first: OwnedDescriptor
        public var second: OwnedDescriptor
    }

    /// Two connected sockets. The corresponding C function is `socketpair`.
    public static func pair(_ kind: Kind = .stream) throws(Errno) -> Pair {
        var ends: (CInt, CInt) = (-1, -1)
        _ = try withUnsafeMutableBytes(of: &ends) { (raw) throws(Errno) in
            try check(
                shl_socketpair(kind == .stream ? SHL_SOCK_STREAM.rawInt : SHL_SOCK_DGRAM.rawInt, raw.bindMemory(to: CInt.self).baseAddress!)
            )
        }
        return Pair(first: OwnedDescriptor(owning: ends.0), second: OwnedDescriptor(owning: ends.1))
    }

    /// The next connection, or nil if none waits on a non-blocking socket. The corresponding C function is `accept4`.
    public static func accept(_ listener: CInt, nonBlocking: Bool) throws(Errno) -> OwnedDescriptor? {
        while true {
            do {
                return OwnedDescriptor(owning: try retrying { shl_accept4(listener, nonBlocking ? SHL_SOCK_NONBLOCK.rawInt : 0) })
            } catch {
                if error == .wouldBlock { return nil }
                // The peer went away before we came to it: the next one may be there.
                if error == .connectionAbort { continue }
                throw error
            }
        }
    }

    /// The corresponding C function is `getsockopt(SO_PEERCRED)`.
    public static func peer(of fd: CInt) throws(Errno) -> PeerCredentials {
        var c = shl_credentials()
        try check(shl_peer_credentials(fd, &c))
        return PeerCredentials(processID: c.pid, userID: c.uid, groupID: c.gid)
    }

    /// Asks the kernel to attach the sender's credentials to every message (SO_PASSCRED).
    public static func passCredentials(_ fd: CInt) throws(Errno) { try check(shl_pass_credentials(fd)) }

    /// Most descriptors one message carries here. (The kernel's limit is SCM_MAX_FD, 253.)
    public static let maxDescriptorsPerMessage = Int(SHL_MAX_DESCRIPTORS_PER_MESSAGE)

    /// Sends bytes and descriptors; returns the bytes taken, or nil if a non-blocking socket is full. Descriptors go with the first byte.
    /// The corresponding C function is `sendmsg`, with MSG_NOSIGNAL.
    public static func send(_ fd: CInt, _ bytes: UnsafeRawBufferPointer, descriptors: [CInt] = []) throws(Errno) -> Int? {
        do {
            return try retrying { shl_send(fd, bytes.baseAddress, bytes.count, descriptors, descriptors.count, 0) }
        } catch {
            if error == .wouldBlock { return nil }
            throw error
        }
    }

    /// What one `recvmsg` brought.
    public struct Received: Sendable {
        /// Bytes placed in the buffer; 0 is the end of the stream.
        public var count: Int
        /// Close-on-exec; the receiver owns them and must close each.
        public var descriptors: [CInt]
        /// The kernel had more descriptors than fit and closed them.
        public var descriptorsLost: Bool
        public var sender: PeerCredentials?
    }

    /// The corresponding C function is `recvmsg`, with MSG_CMSG_CLOEXEC. Nil if a non-blocking socket has nothing.
    public static func receive(_ fd: CInt, into buffer: UnsafeMutableRawBufferPointer, dontWait: Bool = false) throws(Errno) -> Received? {
        var out = shl_received()
        do {
            let n = try retrying { shl_receive(fd, buffer.baseAddress, buffer.count, &out, dontWait ? SHL_MSG_DONTWAIT.rawInt : 0) }
            let descriptors = withUnsafeBytes(of: &out.fds) { Array($0.bindMemory(to: CInt.self).prefix(out.count)) }
            let sender =
                out.has_credentials != 0
                ? PeerCredentials(processID: out.credentials.pid, userID: out.credentials.uid, groupID: out.credentials.gid) : nil
            return Received(count: n, descriptors: descriptors, descriptorsLost: out.truncated != 0, sender: sender)
        } catch {
            if error == .wouldBlock { return nil }
            throw error
        }
    }

    /// Ends one or both directions. The corresponding C function is `shutdown`.
    public static func shutDown(_ fd: CInt) { _ = shutdown(fd, CInt(SHUT_RDWR)) }
}
