public import ShrinkLinux
public import SystemPackage

/// The starter's end of the notify protocol: a bound datagram socket that hears one child (sd_notify(3)).
///
/// Only datagrams whose sender the kernel says to be that child count (NotifyAccess=main in systemd's words); of any other the
/// descriptors are closed and the message is not looked at.
public final class NotifySocket: Sendable {
    public let path: String
    private let socket: OwnedDescriptor

    /// Binds `path`, replacing a socket left there. The caller knows that nobody else listens: it holds the directory's lock.
    public init(binding path: String) throws(Errno) {
        if let status = try? Files.status(of: path), status.kind == .socket { try Files.remove(path) }
        socket = try UnixSocket.listen(path, .datagram, nonBlocking: true)
        try UnixSocket.receiveCredentials(socket.number)
        self.path = path
    }

    deinit { try? Files.remove(path) }

    /// Poll this for input.
    public var number: CInt { socket.number }

    public enum Received: Sendable {
        /// Descriptors belong to the reader now; each is closed with its last holder.
        case message(NotifyMessage, [SharedDescriptor])
        /// Something came that is not acted on, and why.
        case refused(String)
    }

    /// The next waiting message of `process`, or nil if none waits.
    public func receive(from process: Int32) throws(Errno) -> Received? {
        var buffer = [UInt8](repeating: 0, count: NotifyMessage.maxBytes + 1)
        let received = try buffer.withMutableBytes { (bytes) throws(Errno) in try UnixSocket.receive(socket.number, into: bytes) }
        guard let received else { return nil }
        let descriptors = received.descriptors.map { SharedDescriptor(OwnedDescriptor(owning: $0)) }
        guard let sender = received.sender else { return .refused("a message without its sender's credentials") }
        guard sender.processID == process else {
            return .refused("a message of process \(sender.processID), which is not the one that was started (\(process))")
        }
        if received.descriptorsLost {
            return .refused("more descriptors in one message than are read at once; send them in several")
        }
        do throws(NotifyMessage.Refusal) {
            return .message(try NotifyMessage(parsing: buffer[0..<received.count]), descriptors)
        } catch {
            return .refused("a message that is \(error)")
        }
    }
}
