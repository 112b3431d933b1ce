import ShrinkLinux
import SystemPackage

/// Takes messages off a stream socket: bytes up to a NUL, with the descriptors that came with the first of them.
///
/// A read of many bytes may glue one sender's messages together and return the descriptors of the last, so that nobody can tell whose they are.
/// So the first byte of a message is read alone, and the rest never beyond its NUL (found by peeking). Descriptors in mid-message are a
/// violation, and the next message stays in the socket until this one is dealt with: the kernel's buffer is the queue of pipelined calls.
struct MessageReader {
    enum Step {
        case message([UInt8], ReceivedDescriptors)
        /// The socket is empty.
        case blocked
        /// The peer sent all it will ever send. `midMessage`: it stopped inside a message.
        case end(midMessage: Bool)
        case broken(Fault)
    }

    enum Fault: Error, Equatable {
        case messageTooLarge, tooManyDescriptors, descriptorsInMidMessage, descriptorsLost, emptyMessage
    }

    let messageBytes: Int
    let descriptorsPerMessage: Int
    private var bytes: [UInt8] = []
    private var descriptors = ReceivedDescriptors(owning: [])

    init(messageBytes: Int, descriptorsPerMessage: Int) {
        self.messageBytes = messageBytes
        self.descriptorsPerMessage = descriptorsPerMessage
    }

    /// True between the first byte of a message and its NUL.
    var isMidMessage: Bool { !bytes.isEmpty }

    private static let chunkBytes = 16 << 10

    /// Reads until a message is whole or the (non-blocking) socket has no more.
    mutating func step(_ fd: CInt) throws(Errno) -> Step {
        if bytes.isEmpty {
            var first: UInt8 = 0
            let received = try withUnsafeMutableBytes(of: &first) { (buffer) throws(Errno) in try UnixSocket.receive(fd, into: buffer) }
            guard let received else { return .blocked }
            let arrived = ReceivedDescriptors(owning: received.descriptors)
            if received.count == 0 { return .end(midMessage: false) }
            if received.descriptorsLost { return .broken(.descriptorsLost) }
            if arrived.count > descriptorsPerMessage { return .broken(.tooManyDescriptors) }
            if first == 0 { return .broken(.emptyMessage) }
            bytes.append(first)
            descriptors = arrived
        }
        while true {
            if let step = try readOn(fd) { return step }
        }
    }

    /// One chunk more; nil if the message is still incomplete and the socket may have more.
    private mutating func readOn(_ fd: CInt) throws(Errno) -> Step? {
        try withUnsafeTemporaryAllocation(byteCount: Self.chunkBytes, alignment: 16) { (chunk) throws(Errno) -> Step? in
            guard let seen = try UnixSocket.peek(fd, into: chunk) else { return .blocked }
            if seen == 0 { return .end(midMessage: true) }
            let terminator = chunk[..<seen].firstIndex(of: 0)
            let wanted = terminator.map { $0 + 1 } ?? seen
            let received = try UnixSocket.receive(fd, into: UnsafeMutableRawBufferPointer(rebasing: chunk[0..<wanted]))
            guard let received else { return .blocked }
            if !received.descriptors.isEmpty || received.descriptorsLost {
                _ = ReceivedDescriptors(owning: received.descriptors)
                return .broken(.descriptorsInMidMessage)
            }
            let complete = received.count > 0 && chunk[received.count - 1] == 0
            bytes.append(contentsOf: chunk[0..<(complete ? received.count - 1 : received.count)])
            if bytes.count > messageBytes { return .broken(.messageTooLarge) }
            guard complete else { return nil }
            let whole = bytes
            let with = descriptors
            bytes = []
            descriptors = ReceivedDescriptors(owning: [])
            return .message(whole, with)
        }
    }
}
