import ShrinkLinux
import SystemPackage

/// The socket thread's own view of one connection. No other thread touches it.
final class Channel {
    enum Activity: Equatable {
        /// Between calls, or inside the bytes of one.
        case reading
        /// A handler works on a call; nothing is read meanwhile.
        case answering(oneway: Bool)
        /// The peer will send no more; it still reads the replies that wait here.
        case finishing
    }

    let connection: VarlinkConnection
    /// Closed, and thereby out of the epoll set, when the channel goes: it has no other owner.
    let socket: OwnedDescriptor
    var activity = Activity.reading
    var reader: MessageReader
    /// The socket may have bytes that were not asked for yet.
    var inputReady = false
    /// Both directions are closed by the peer.
    var hungUp = false
    var readDeadline: MonotonicTime?
    var writeDeadline: MonotonicTime?
    private var output: [OutgoingMessage] = []
    private var outputOffset = 0

    init(_ socket: consuming OwnedDescriptor, _ connection: VarlinkConnection, _ limits: VarlinkLimits) {
        self.socket = socket
        self.connection = connection
        reader = MessageReader(messageBytes: limits.messageBytes, descriptorsPerMessage: limits.descriptorsPerMessage)
    }

    var hasOutput: Bool { !output.isEmpty }

    /// What the socket must become ready for before there is anything to do.
    var interest: Epoll.Interest {
        var interest: Epoll.Interest = .oneShot
        if activity == .reading { interest.insert(.input) }
        if hasOutput { interest.insert(.output) }
        return interest
    }

    func append(_ messages: [OutgoingMessage]) { output += messages }

    /// Writes as much as the socket takes; returns the bytes taken.
    func write() throws(Errno) -> Int {
        var total = 0
        var done = 0
        defer { output.removeFirst(done) }
        while done < output.count {
            let message = output[done]
            let offset = outputOffset
            let descriptors = offset == 0 ? message.descriptors.map(\.number) : []
            let taken = try message.bytes.withBytes { (bytes) throws(Errno) in
                try UnixSocket.send(socket.number, UnsafeRawBufferPointer(rebasing: bytes[offset...]), descriptors: descriptors)
            }
            guard let taken else { break }
            total += taken
            outputOffset += taken
            if outputOffset == message.bytes.count {
                done += 1
                outputOffset = 0
            }
        }
        return total
    }
}
