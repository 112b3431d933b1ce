import ShrinkLinux
import SystemPackage

/// A socket that other services can have as their MEMORY_PRESSURE_WATCH: they hear of pressure when shrinkd does, and trim.
///
/// One byte is one notice; what they write is read and thrown away. Used by one thread.
final class PressureRelay {
    static let listenerToken: UInt64 = 32
    private static let firstClientToken: UInt64 = 1 << 32
    private static let clientLimit = 1024
    private static let clientsPerUser = 64
    /// Between two notices: a service that trims needs a moment to show for it.
    private static let pauseMilliseconds: UInt64 = 1000

    private struct Client {
        var socket: SharedDescriptor
        var user: UInt32
    }

    private let listener: OwnedDescriptor
    private let epoll: Epoll
    private var clients: [UInt64: Client] = [:]
    private var nextToken = firstClientToken
    private var next = MonotonicTime(nanoseconds: 0)

    init(_ listener: consuming OwnedDescriptor, epoll: Epoll) throws(Errno) {
        self.listener = listener
        self.epoll = epoll
        // systemd passes its sockets as they are, and waiting in accept(2) would keep the thread from all else.
        try UnixSocket.setNonBlocking(self.listener.number)
        try epoll.add(self.listener.number, .input, token: Self.listenerToken)
    }

    var count: Int { clients.count }

    /// True if the event was one of ours.
    func take(_ event: Epoll.Event) -> Bool {
        if event.token == Self.listenerToken {
            do throws(Errno) {
                while let socket = try UnixSocket.accept(listener.number, nonBlocking: true) { admit(SharedDescriptor(socket)) }
            } catch {
                // No descriptor left: who waits in the queue is taken when one is free.
            }
            return true
        }
        guard let client = clients[event.token] else { return event.token >= Self.firstClientToken }
        if event.ready.contains(.error) || event.ready.contains(.hangUp) || !drain(client) { drop(event.token) }
        return true
    }

    private func admit(_ socket: SharedDescriptor) {
        guard let user = try? UnixSocket.peer(of: socket.number).userID else { return }
        let ofUser = clients.values.count { $0.user == user }
        // Closed at once: the client sees the end of the stream, which is its sign that there is nothing to hear.
        guard clients.count < Self.clientLimit, ofUser < Self.clientsPerUser || user == 0 else { return }
        let token = nextToken
        guard (try? epoll.add(socket.number, .input, token: token)) != nil else { return }
        nextToken += 1
        clients[token] = Client(socket: socket, user: user)
    }

    private func drop(_ token: UInt64) {
        guard let client = clients.removeValue(forKey: token) else { return }
        try? epoll.remove(client.socket.number)
    }

    private func drain(_ client: Client) -> Bool {
        var bytes = [UInt8](repeating: 0, count: 512)
        do throws(Errno) {
            let received = try bytes.withMutableBytes { (buffer) throws(Errno) in
                try UnixSocket.receive(client.socket.number, into: buffer, dontWait: true)
            }
            return received?.count != 0
        } catch {
            return false
        }
    }

    /// Tells everybody, unless that was done a moment ago. Returns how many were told; one that does not read keeps its unread notice.
    @discardableResult
    func tell(_ now: MonotonicTime, isAsked: Bool = false) -> Int {
        guard isAsked || now >= next else { return 0 }
        next = now.advanced(milliseconds: Self.pauseMilliseconds)
        var told = 0
        let notice: [UInt8] = [UInt8(ascii: "!")]
        for (token, client) in clients {
            do throws(Errno) {
                _ = try notice.withBytes { (bytes) throws(Errno) in try UnixSocket.send(client.socket.number, bytes) }
                told += 1
            } catch {
                drop(token)
            }
        }
        return told
    }
}
