import ShrinkLinux
import SystemPackage

/// The socket thread: accepts, reads, writes, and keeps the deadlines. It never waits for a handler, and no handler touches a socket.
///
/// Every descriptor is armed for one event at a time (EPOLLONESHOT). A hang-up is always reported and stays: without that it would spin
/// for as long as a handler is at work for a client that is gone.
final class SocketLoop {
    private enum Token {
        static let wakeup: UInt64 = 0
        static let listener: UInt64 = 1
        static let firstConnection: UInt64 = 2
    }

    private let reactor: Reactor
    private var listener: OwnedDescriptor?
    private let onConnection: (VarlinkConnection) -> Bool
    private var channels: [UInt64: Channel] = [:]
    private var perUser: [UInt32: Int] = [:]
    private var nextID = Token.firstConnection
    private var listenerRestsUntil: MonotonicTime?
    private var nextDeadline: MonotonicTime?
    private var running = true

    /// `onConnection` gets each connection with its first call; false means that it cannot be served.
    init(_ reactor: Reactor, _ listener: consuming OwnedDescriptor, onConnection: @escaping (VarlinkConnection) -> Bool) throws(Errno) {
        self.reactor = reactor
        self.onConnection = onConnection
        try reactor.epoll.add(reactor.wakeup.number, .input, token: Token.wakeup)
        try reactor.epoll.add(listener.number, .input, token: Token.listener)
        self.listener = consume listener
    }

    /// Call it from a dedicated thread; it returns after `.stop`, with every connection closed.
    func run() {
        while running {
            do throws(Errno) {
                for event in try reactor.epoll.wait(timeoutMilliseconds: timeout()) { handle(event) }
            } catch {
                fatalError("epoll_wait on a descriptor of our own: \(error)")
            }
            reactor.count { $0.wakeups += 1 }
            obey()
            keepDeadlines()
        }
        listener = nil
        for channel in Array(channels.values) { close(channel) }
    }

    private func handle(_ event: Epoll.Event) {
        switch event.token {
        case Token.wakeup: reactor.wakeup.clear()
        case Token.listener: accept()
        default: if let channel = channels[event.token] { serve(channel, event.ready) }
        }
    }

    private func obey() {
        for command in reactor.takeCommands() {
            switch command {
            case .readOn(let id):
                guard let channel = channels[id] else { continue }
                channel.activity = .reading
                channel.inputReady = true
                step(channel)
            case .flush(let id):
                guard let channel = channels[id] else { continue }
                channel.append(channel.connection.takeOutput())
                step(channel)
            case .drop(let id, let reason): if let channel = channels[id] { drop(channel, reason) }
            case .stopAccepting: listener = nil
            case .stop: running = false
            }
        }
    }

    // MARK: - Accepting

    private func accept() {
        // A few at a time, so that a storm of connections does not starve those that are there.
        for _ in 0..<64 {
            guard let listener = listener?.number else { return }
            do throws(Errno) {
                guard let socket = try UnixSocket.accept(listener, nonBlocking: true) else { return }
                try admit(socket)
            } catch {
                // EMFILE, ENFILE, ENOMEM: the connection stays in the queue and the listener stays readable. Rest, then ask again.
                reactor.count { $0.acceptRests += 1 }
                try? reactor.epoll.change(listener, [], token: Token.listener)
                let until = MonotonicTime.now().advanced(milliseconds: reactor.limits.acceptRestMilliseconds)
                listenerRestsUntil = until
                expect(until)
                return
            }
        }
    }

    private func admit(_ socket: consuming OwnedDescriptor) throws(Errno) {
        let peer = try UnixSocket.peer(of: socket.number)
        reactor.count { $0.accepted += 1 }
        // To be refused is to be closed: Varlink has no message that nobody asked for.
        if channels.count >= reactor.limits.connections { return refuse(.tooManyConnections) }
        if perUser[peer.userID, default: 0] >= reactor.limits.connectionsPerUser { return refuse(.tooManyConnectionsOfOneUser) }
        let id = nextID
        nextID += 1
        let connection = VarlinkConnection(id: id, peer: peer, limits: reactor.limits, reactor: reactor)
        let channel = Channel(socket, connection, reactor.limits)
        try reactor.epoll.add(channel.socket.number, [.input, .oneShot], token: id)
        channels[id] = channel
        perUser[peer.userID, default: 0] += 1
        reactor.count { $0.open += 1 }
    }

    private func refuse(_ reason: VarlinkDropReason) { reactor.count { $0.dropped[reason, default: 0] += 1 } }

    // MARK: - One connection

    private func serve(_ channel: Channel, _ ready: Epoll.Interest) {
        if ready.contains(.error) { return close(channel) }
        if ready.contains(.hangUp) {
            // Both directions are gone. A call that waits for its answer dies with its client; a oneway call, and calls that
            // were sent before the end, are still owed their work.
            if case .answering(oneway: false) = channel.activity { return close(channel) }
            channel.hungUp = true
        }
        if ready.contains(.input) || channel.hungUp { channel.inputReady = true }
        step(channel)
    }

    /// Does what the channel can do now, then arms it for what it waits for.
    private func step(_ channel: Channel) {
        do throws(Errno) {
            if channel.hasOutput {
                let sent = try channel.write()
                if sent > 0 { channel.connection.sent(sent) }
                if sent > 0 || channel.writeDeadline == nil {
                    channel.writeDeadline = channel.hasOutput ? deadline(reactor.limits.slowReaderMilliseconds) : nil
                }
            }
            if channel.activity == .finishing, !channel.hasOutput { return close(channel) }
            if channel.activity == .reading, channel.inputReady {
                if try !read(channel) { return }
            }
            // Armed, a hang-up would be reported again at once, and again, for as long as the oneway call takes. `readOn` comes back here.
            if channel.hungUp, case .answering = channel.activity { return }
            try reactor.epoll.change(channel.socket.number, channel.interest, token: channel.connection.id)
        } catch {
            // EPIPE, ECONNRESET: the client is gone.
            close(channel)
        }
    }

    /// False if the channel was closed.
    private func read(_ channel: Channel) throws(Errno) -> Bool {
        switch try channel.reader.step(channel.socket.number) {
        case .blocked:
            channel.inputReady = false
            if channel.reader.isMidMessage, channel.readDeadline == nil {
                channel.readDeadline = deadline(reactor.limits.halfMessageMilliseconds)
            }
            return true
        case .end(let midMessage):
            if channel.hasOutput, !channel.hungUp, !midMessage {
                channel.activity = .finishing
                return true
            }
            close(channel)
            return false
        case .broken(let fault):
            drop(channel, fault.dropReason)
            return false
        case .message(let bytes, let descriptors):
            channel.readDeadline = nil
            let header: CallHeader
            do throws(HeaderFault) { header = try CallHeader(parsing: bytes) } catch {
                drop(channel, .malformedMessage)
                return false
            }
            if header.upgrade {
                drop(channel, .upgradeUnsupported)
                return false
            }
            if channel.hungUp, !header.oneway {
                // Nobody is left to hear the answer.
                close(channel)
                return false
            }
            channel.activity = .answering(oneway: header.oneway)
            channel.inputReady = false
            reactor.count { $0.calls += 1 }
            let first = channel.connection.deliver(IncomingCall(header: header, descriptors: descriptors))
            if first, !onConnection(channel.connection) {
                drop(channel, .tooManyConnections)
                return false
            }
            return true
        }
    }

    private func drop(_ channel: Channel, _ reason: VarlinkDropReason) {
        reactor.count { $0.dropped[reason, default: 0] += 1 }
        reactor.onDrop(channel.connection.peer, reason)
        close(channel)
    }

    private func close(_ channel: Channel) {
        guard channels.removeValue(forKey: channel.connection.id) != nil else { return }
        let user = channel.connection.peer.userID
        perUser[user, default: 1] -= 1
        if perUser[user] == 0 { perUser[user] = nil }
        reactor.count { $0.open -= 1 }
        try? reactor.epoll.remove(channel.socket.number)
        channel.connection.closed()
        if listenerRestsUntil != nil {
            // A descriptor is free again.
            listenerRestsUntil = .now()
            expect(.now())
        }
    }

    // MARK: - Deadlines

    private func deadline(_ milliseconds: UInt64) -> MonotonicTime {
        let time = MonotonicTime.now().advanced(milliseconds: milliseconds)
        expect(time)
        return time
    }

    private func expect(_ time: MonotonicTime) {
        if nextDeadline.map({ time < $0 }) ?? true { nextDeadline = time }
    }

    private func timeout() -> CInt {
        guard let nextDeadline else { return -1 }
        let now = MonotonicTime.now()
        if now >= nextDeadline { return 0 }
        return CInt(clamping: (nextDeadline.nanoseconds(since: now) + 999_999) / 1_000_000)
    }

    /// Looks at every channel, but only when the earliest deadline that was ever set has passed.
    private func keepDeadlines() {
        guard let due = nextDeadline, MonotonicTime.now() >= due else { return }
        nextDeadline = nil
        let now = MonotonicTime.now()
        if let until = listenerRestsUntil {
            if now >= until {
                listenerRestsUntil = nil
                if let listener = listener?.number { try? reactor.epoll.change(listener, .input, token: Token.listener) }
            } else {
                expect(until)
            }
        }
        for channel in Array(channels.values) {
            if let time = channel.readDeadline, now >= time {
                drop(channel, .halfMessageTimeout)
            } else if let time = channel.writeDeadline, now >= time {
                drop(channel, .slowReader)
            } else {
                for time in [channel.readDeadline, channel.writeDeadline] { if let time { expect(time) } }
            }
        }
    }
}

extension MessageReader.Fault {
    var dropReason: VarlinkDropReason {
        switch self {
        case .messageTooLarge: .messageTooLarge
        case .emptyMessage: .malformedMessage
        case .tooManyDescriptors, .descriptorsInMidMessage, .descriptorsLost: .descriptorViolation
        }
    }
}
