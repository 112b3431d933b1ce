import ShrinkLinux
import Synchronization
import SystemPackage

/// Why the server ended a connection.
public enum VarlinkDropReason: Sendable, Hashable {
    case tooManyConnections, tooManyConnectionsOfOneUser
    case malformedMessage, messageTooLarge, descriptorViolation
    case halfMessageTimeout, slowReader, unsendableReply, upgradeUnsupported
}

/// What a server has counted since its start.
public struct VarlinkCounters: Sendable, Equatable {
    public var accepted = 0
    public var open = 0
    public var calls = 0
    /// How often the socket thread woke up. Without traffic it does not.
    public var wakeups = 0
    /// How often the process was out of descriptors or memory when a connection waited.
    public var acceptRests = 0
    public var dropped: [VarlinkDropReason: Int] = [:]
}

/// The door between handlers and the one thread that does all socket I/O.
final class Reactor: Sendable {
    enum Command: Sendable {
        /// The handler is done with its call: read the next.
        case readOn(UInt64)
        /// Replies are queued.
        case flush(UInt64)
        case drop(UInt64, VarlinkDropReason)
        case stopAccepting
        case stop
    }

    let limits: VarlinkLimits
    /// Told of every connection that the server ended, on the socket thread.
    let onDrop: @Sendable (PeerCredentials, VarlinkDropReason) -> Void
    let wakeup: Wakeup
    let epoll: Epoll
    private let inbox = Mutex<[Command]>([])
    private let counted = Mutex(VarlinkCounters())

    init(limits: VarlinkLimits, onDrop: @escaping @Sendable (PeerCredentials, VarlinkDropReason) -> Void) throws(Errno) {
        self.limits = limits
        self.onDrop = onDrop
        wakeup = try Wakeup()
        epoll = try Epoll()
    }

    func post(_ command: Command) {
        let first = inbox.withLock {
            $0.append(command)
            return $0.count == 1
        }
        if first { wakeup.signal() }
    }

    func takeCommands() -> [Command] {
        inbox.withLock { takeAll(&$0) }
    }

    var counters: VarlinkCounters { counted.withLock { $0 } }
    func count(_ body: (inout VarlinkCounters) -> Void) { counted.withLock { body(&$0) } }
}

/// The elements, and an empty array in their place.
func takeAll<Element>(_ elements: inout [Element]) -> [Element] {
    let all = elements
    elements = []
    return all
}
