public import SystemPackage

/// Why a call brought no reply.
public struct TransportError: Error, Sendable, CustomStringConvertible {
    public enum Code: Sendable {
        /// Nobody listens at the path.
        case notRunning
        /// The path may not be used by this user.
        case notAllowed
        /// The server ended the connection before it answered.
        case disconnected
        case timedOut
        case cancelled
        /// The server broke the protocol.
        case protocolViolation
        /// An unfinished series of replies occupies the connection.
        case busy
        /// The parameters cannot be encoded, or the reply is not of the expected shape.
        case encoding
        case system
    }

    public var code: Code
    /// Cause and way out, one line.
    public var message: String
    public var errno: Errno?
    public var description: String { message }

    init(_ code: Code, _ message: String, _ errno: Errno? = nil) {
        self.code = code
        self.message = message
        self.errno = errno
    }
}

/// What a call can end with instead of a reply.
public enum VarlinkFailure: Error, Sendable {
    /// The service answered with an error. The connection can be used on.
    case answered(VarlinkError)
    /// No answer. Except after `busy` and `encoding` the connection is of no use any more.
    case transport(TransportError)
}
