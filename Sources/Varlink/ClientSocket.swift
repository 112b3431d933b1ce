import ShrinkLinux
import Synchronization
import SystemPackage

/// One reply, as a client reads it.
public struct ClientReply: Sendable {
    /// The text of a JSON object, checked as strictly as calls are.
    public let parameters: [UInt8]
    /// More replies of the same call follow.
    public let continues: Bool
    public let descriptors: ReceivedDescriptors

    /// A reply without parameters, for a call that turns out to have been answered already.
    public static let empty = ClientReply(parameters: Array("{}".utf8), continues: false, descriptors: ReceivedDescriptors(owning: []))

    /// The parameters as a type. Unknown members are ignored, as clients should.
    public func decode<R: Decodable>(_ type: R.Type) throws(VarlinkFailure) -> R {
        do { return try ParameterText.decodeReply(type, from: parameters) } catch {
            throw .transport(TransportError(.encoding, "the reply does not have the expected shape: \(error)"))
        }
    }
}

/// The client's end of a connection, one call at a time, blocking. `VarlinkClient` puts it to use.
final class ClientSocket: @unchecked Sendable {
    // Sendable: `reader` and `inSeries` are touched only by the thread that holds the client's turn (VarlinkClient); `ended` has its lock.
    private let socket: OwnedDescriptor
    private var reader: MessageReader
    private let ended = Mutex<TransportError?>(nil)

    init(_ socket: consuming OwnedDescriptor, limits: VarlinkLimits) throws(Errno) {
        try UnixSocket.setNonBlocking(socket.number)
        self.socket = socket
        reader = MessageReader(messageBytes: limits.messageBytes, descriptorsPerMessage: limits.descriptorsPerMessage)
    }

    static func connect(_ path: String) throws(TransportError) -> OwnedDescriptor {
        do throws(Errno) { return try UnixSocket.connect(path) } catch {
            switch error {
            case .noSuchFileOrDirectory, .connectionRefused:
                throw TransportError(.notRunning, "nobody listens at \(path)", error)
            case .permissionDenied, .notPermitted:
                throw TransportError(.notAllowed, "this user may not connect to \(path)", error)
            default:
                throw TransportError(.system, "cannot connect to \(path): \(error)", error)
            }
        }
    }

    /// Ends the connection from any thread: whoever reads or writes there returns with `reason`.
    func end(_ reason: TransportError) {
        ended.withLock { if $0 == nil { $0 = reason } }
        UnixSocket.shutDown(socket.number)
    }

    /// Poll fails for want of kernel memory only; then who waits looks again by calling.
    func waitUntilEnded() { try? waitForHangUp(socket.number) }

    var endReason: TransportError? { ended.withLock { $0 } }

    func send(_ bytes: [UInt8], _ descriptors: [CInt], _ deadline: MonotonicTime?) throws(TransportError) {
        if let reason = endReason { throw reason }
        var sent = 0
        do throws(Errno) {
            while sent < bytes.count {
                let offset = sent
                let taken = try bytes.withBytes { (bytes) throws(Errno) in
                    try UnixSocket.send(
                        socket.number, UnsafeRawBufferPointer(rebasing: bytes[offset...]), descriptors: offset == 0 ? descriptors : [])
                }
                if let taken {
                    sent += taken
                } else if try !wait(for: .output, of: socket.number, until: deadline) {
                    throw Errno.timedOut
                }
            }
        } catch {
            throw failed(error, "sending a call")
        }
    }

    /// The next reply; an error reply is thrown.
    func receive(_ deadline: MonotonicTime?) throws(VarlinkFailure) -> ClientReply {
        let message: ([UInt8], ReceivedDescriptors)
        do throws(TransportError) { message = try receiveMessage(deadline) } catch { throw .transport(error) }
        let header: ReplyHeader
        do throws(HeaderFault) { header = try ReplyHeader(parsing: message.0) } catch {
            throw .transport(violation("it sent a malformed reply (\(error))"))
        }
        if let name = header.error { throw .answered(VarlinkError(name: name, text: header.parameters)) }
        return ClientReply(parameters: header.parameters, continues: header.continues, descriptors: message.1)
    }

    private func receiveMessage(_ deadline: MonotonicTime?) throws(TransportError) -> ([UInt8], ReceivedDescriptors) {
        do throws(Errno) {
            while true {
                switch try reader.step(socket.number) {
                case .message(let bytes, let descriptors): return (bytes, descriptors)
                case .blocked: if try !wait(for: .input, of: socket.number, until: deadline) { throw Errno.timedOut }
                case .end: throw Errno.connectionReset
                case .broken: throw Errno.badMessage
                }
            }
        } catch {
            throw failed(error, "waiting for the reply")
        }
    }

    private func violation(_ what: String) -> TransportError {
        let error = TransportError(.protocolViolation, "the server broke the protocol: \(what)")
        end(error)
        return error
    }

    private func failed(_ error: Errno, _ doing: String) -> TransportError {
        if let reason = endReason { return reason }
        let typed: TransportError
        switch error {
        case .timedOut: typed = TransportError(.timedOut, "no answer in time while \(doing)", error)
        case .badMessage:
            typed = TransportError(.protocolViolation, "the server broke the protocol: wrong descriptors, or a message too large", error)
        case .connectionReset, .brokenPipe:
            typed = TransportError(.disconnected, "the server closed the connection while \(doing)", error)
        default: typed = TransportError(.system, "\(error) while \(doing)", error)
        }
        // A late reply would be taken for the next call's: the connection ends with its first failure.
        end(typed)
        return typed
    }
}
