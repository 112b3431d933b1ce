public import ShrinkLinux
import Synchronization

/// One client's connection, as handlers and the socket's thread share it. The socket itself belongs to the thread.
public final class VarlinkConnection: Sendable {
    /// Never used again while the server lives.
    public let id: UInt64
    /// As of connect(2). A process that changed its uid since, or passed the socket on, still counts as who it was.
    public let peer: PeerCredentials

    private let limits: VarlinkLimits
    private let reactor: Reactor

    private struct State {
        enum Phase {
            /// The first call is here, or none yet; no handler task runs.
            case fresh(IncomingCall?)
            /// The task waits for the next call.
            case waiting(CheckedContinuation<IncomingCall?, Never>)
            /// A handler has the call.
            case answering
            case closed
        }
        var phase = Phase.fresh(nil)
        var output: [OutgoingMessage] = []
        var outputBytes = 0
        var flushRequested = false
        var roomWaiters: [CheckedContinuation<Void, Never>] = []
        var closeWaiters: [CheckedContinuation<Void, Never>] = []
        var endings: [@Sendable () async -> Void] = []
        var ended = false
    }
    private let state = Mutex(State())

    init(id: UInt64, peer: PeerCredentials, limits: VarlinkLimits, reactor: Reactor) {
        self.id = id
        self.peer = peer
        self.limits = limits
        self.reactor = reactor
    }

    /// True once the client is gone or was dropped.
    public var isClosed: Bool {
        state.withLock { if case .closed = $0.phase { true } else { false } }
    }

    /// Runs `ending` once, after the connection has ended and its last handler has returned. Call it from a handler.
    public func onEnd(_ ending: @escaping @Sendable () async -> Void) {
        state.withLock {
            precondition(!$0.ended, "a connection's ending registered after its end")
            $0.endings.append(ending)
        }
    }

    /// Returns when the connection is closed.
    public func waitUntilClosed() async {
        await withCheckedContinuation { continuation in
            let closed = state.withLock {
                if case .closed = $0.phase { return true }
                $0.closeWaiters.append(continuation)
                return false
            }
            if closed { continuation.resume() }
        }
    }

    // MARK: - The handlers' side

    /// Answers calls until the connection is closed, then runs the endings. One task per connection.
    func serve(_ directory: Directory) async {
        await withTaskGroup(of: Void.self) { group in
            // Two children, so that a vanished client cancels the handler that is still working for it.
            group.addTask { await self.answerCalls(directory) }
            group.addTask { await self.waitUntilClosed() }
            await group.next()
            group.cancelAll()
        }
        let endings = state.withLock {
            $0.ended = true
            return takeAll(&$0.endings)
        }
        for ending in endings { await ending() }
    }

    private func answerCalls(_ directory: Directory) async {
        while let incoming = await nextCall() {
            let call = VarlinkCall(incoming, on: self)
            let message: OutgoingMessage
            do throws(VarlinkError) {
                message = try await directory.answer(call).message(continues: false)
            } catch {
                message = OutgoingMessage(bytes: MessageText.error(error), descriptors: [])
            }
            if call.isOneway { continue }
            do { try await send(message) } catch { return }
        }
    }

    private func nextCall() async -> IncomingCall? {
        await withCheckedContinuation { (continuation: CheckedContinuation<IncomingCall?, Never>) in
            enum Next {
                case now(IncomingCall?)
                case later
            }
            let next: Next = state.withLock {
                switch $0.phase {
                case .closed: return .now(nil)
                case .fresh(let call?):
                    $0.phase = .answering
                    return .now(call)
                case .fresh(nil), .answering:
                    $0.phase = .waiting(continuation)
                    return .later
                case .waiting: fatalError("two tasks wait for the calls of one connection")
                }
            }
            switch next {
            case .now(let call): continuation.resume(returning: call)
            case .later: reactor.post(.readOn(id))
            }
        }
    }

    func send(_ message: OutgoingMessage) async throws(VarlinkDisconnected) {
        while true {
            switch enqueue(message) {
            case .queued: return
            case .closed: throw VarlinkDisconnected()
            case .full:
                await withCheckedContinuation { continuation in
                    let wait = state.withLock {
                        if case .closed = $0.phase { return false }
                        if hasRoom(for: message, $0) { return false }
                        $0.roomWaiters.append(continuation)
                        return true
                    }
                    if !wait { continuation.resume() }
                }
            }
        }
    }

    func offer(_ message: OutgoingMessage) -> Bool { enqueue(message) == .queued }

    private enum Enqueued { case queued, full, closed }

    private func enqueue(_ message: OutgoingMessage) -> Enqueued {
        // Too large or not encodable: a service that promises bounded replies broke its promise, and no reply can stand in for this one.
        if message.bytes.isEmpty || message.bytes.count > limits.messageBytes + 1
            || message.descriptors.count > limits.descriptorsPerMessage
        {
            reactor.post(.drop(id, .unsendableReply))
            return .closed
        }
        var wake = false
        let result: Enqueued = state.withLock {
            if case .closed = $0.phase { return .closed }
            guard hasRoom(for: message, $0) else { return .full }
            $0.output.append(message)
            $0.outputBytes += message.bytes.count
            wake = !$0.flushRequested
            $0.flushRequested = true
            return .queued
        }
        if wake { reactor.post(.flush(id)) }
        return result
    }

    private func hasRoom(for message: OutgoingMessage, _ state: State) -> Bool {
        state.outputBytes == 0 || state.outputBytes + message.bytes.count <= limits.queuedReplyBytes
    }

    // MARK: - The socket thread's side

    /// True if this is the connection's first call: a task must be started for it.
    func deliver(_ call: IncomingCall) -> Bool {
        let waiting: CheckedContinuation<IncomingCall?, Never>? = state.withLock {
            switch $0.phase {
            case .fresh(nil):
                $0.phase = .fresh(call)
                return nil
            case .waiting(let continuation):
                $0.phase = .answering
                return continuation
            case .fresh, .answering, .closed: fatalError("a call was read while another is being answered")
            }
        }
        waiting?.resume(returning: call)
        return waiting == nil
    }

    /// Moves the queued messages to the thread.
    func takeOutput() -> [OutgoingMessage] {
        state.withLock {
            $0.flushRequested = false
            return takeAll(&$0.output)
        }
    }

    /// Tells that so many queued bytes are in the kernel's hands, and lets waiting producers try again.
    func sent(_ bytes: Int) {
        let waiters = state.withLock {
            $0.outputBytes -= bytes
            return takeAll(&$0.roomWaiters)
        }
        for waiter in waiters { waiter.resume() }
    }

    func closed() {
        var waitingCall: CheckedContinuation<IncomingCall?, Never>?
        let waiters = state.withLock {
            if case .waiting(let continuation) = $0.phase { waitingCall = continuation }
            $0.phase = .closed
            $0.output = []
            return takeAll(&$0.roomWaiters) + takeAll(&$0.closeWaiters)
        }
        waitingCall?.resume(returning: nil)
        for waiter in waiters { waiter.resume() }
    }
}
