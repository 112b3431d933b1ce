public import ShrinkLinux
import Synchronization
import SystemPackage

/// A client's connection to a Varlink service. Calls go one after the other, in the order in which they come.
///
/// The blocking calls are for threads that may wait; the async ones run them on a thread of the client's own, never on the cooperative pool.
/// Whoever cancels a call, or lets it time out, ends the connection: Varlink knows no other way to take a call back.
public final class VarlinkClient: Sendable {
    private let socket: ClientSocket
    private let limits: VarlinkLimits
    private let turn = Monitor(Turn.free)
    private let thread = ClientThread()

    /// Who has the connection. A call waits for another call; behind a series it would wait for its own caller, so it fails instead.
    private enum Turn { case free, call, series }

    /// Connects to the socket at `path`.
    public convenience init(path: String, limits: VarlinkLimits = VarlinkLimits()) throws(TransportError) {
        try self.init(connected: ClientSocket.connect(path), limits: limits)
    }

    /// Uses a connected socket.
    public init(connected socket: consuming OwnedDescriptor, limits: VarlinkLimits = VarlinkLimits()) throws(TransportError) {
        self.limits = limits
        do throws(Errno) {
            self.socket = try ClientSocket(socket, limits: limits)
        } catch {
            throw TransportError(.system, "cannot set up a connection: \(error)", error)
        }
    }

    deinit {
        close()
        thread.finish()
    }

    /// Ends the connection, also under a call that waits.
    public func close() { socket.end(TransportError(.disconnected, "the connection was closed on this side")) }

    /// As `close`, but what waits ends with `cancelled`.
    public func cancel() { socket.end(TransportError(.cancelled, "the call was cancelled, which ends the connection")) }

    /// Returns when the connection has ended, on whichever side. Between calls nothing else tells that the server is gone. Call it from a thread of
    /// your own: it blocks, and takes nothing from the calls that go on meanwhile.
    public func waitUntilEnded() { socket.waitUntilEnded() }

    // MARK: - Blocking

    /// Calls and waits for the reply.
    /// - Parameter timeoutMilliseconds: nil waits as long as the server needs.
    public func call(
        _ method: String, _ parameters: some Encodable & Sendable, descriptors: [SharedDescriptor] = [], timeoutMilliseconds: UInt64?
    ) throws(VarlinkFailure) -> ClientReply {
        try callEncoded(method, encode(parameters), descriptors, timeoutMilliseconds)
    }

    /// Calls for a series of replies and gives each to `body`, the last one included, in order. The timeout counts anew for each reply.
    /// If `body` returns `.stop` the connection is closed and `cancelled` thrown.
    public func callMore(
        _ method: String, _ parameters: some Encodable & Sendable, descriptors: [SharedDescriptor] = [], timeoutMilliseconds: UInt64?,
        _ body: (ClientReply) throws(VarlinkFailure) -> SeriesContinuation
    ) throws(VarlinkFailure) {
        let text = try encode(parameters)
        try take(.series)
        defer { giveTurn() }
        try start(method, text, .more, descriptors, timeoutMilliseconds)
        while true {
            let reply = try socket.receive(deadline(timeoutMilliseconds))
            let more: SeriesContinuation
            do throws(VarlinkFailure) { more = try body(reply) } catch {
                if reply.continues { abandon() }
                throw error
            }
            if !reply.continues { return }
            if more == .stop { throw .transport(abandon()) }
        }
    }

    public enum SeriesContinuation: Sendable { case proceed, stop }

    /// Calls without wanting to know what becomes of it.
    public func callOneway(
        _ method: String, _ parameters: some Encodable & Sendable, descriptors: [SharedDescriptor] = [],
        timeoutMilliseconds: UInt64? = 30_000
    ) throws(VarlinkFailure) {
        let text = try encode(parameters)
        try take(.call)
        defer { giveTurn() }
        try start(method, text, .oneway, descriptors, timeoutMilliseconds)
    }

    // MARK: - Async

    /// As the blocking call. If the task is cancelled meanwhile, the connection is closed and `cancelled` thrown.
    public func call(
        _ method: String, _ parameters: some Encodable & Sendable, descriptors: [SharedDescriptor] = [], timeoutMilliseconds: UInt64?
    ) async throws(VarlinkFailure) -> ClientReply {
        let text = try encode(parameters)
        return try await onThread { () throws(VarlinkFailure) in try self.callEncoded(method, text, descriptors, timeoutMilliseconds) }
    }

    /// A series of replies. Nothing is buffered here: the next reply is read when it is asked for, so a slow consumer slows the server down.
    /// Until the series has ended the connection takes no other call; a consumer that stops early closes it.
    public func replies(
        _ method: String, _ parameters: some Encodable & Sendable, descriptors: [SharedDescriptor] = [], timeoutMilliseconds: UInt64?
    ) -> AsyncThrowingStream<ClientReply, any Error> {
        let series = Series(self)
        let text = Result { () throws(VarlinkFailure) in try encode(parameters) }
        return AsyncThrowingStream {
            let text = try text.get()
            return try await self.onThread { () throws(VarlinkFailure) -> ClientReply? in
                switch series.phase {
                case .ended: return nil
                case .notStarted:
                    try self.take(.series)
                    do throws(VarlinkFailure) {
                        try self.start(method, text, .more, descriptors, timeoutMilliseconds)
                    } catch {
                        self.giveTurn()
                        series.phase = .ended
                        throw error
                    }
                    series.phase = .running
                case .running: break
                }
                do throws(VarlinkFailure) {
                    let reply = try self.socket.receive(self.deadline(timeoutMilliseconds))
                    if !reply.continues { series.finish() }
                    return reply
                } catch {
                    series.finish()
                    throw error
                }
            }
        }
    }

    /// Where a stream is. Touched only by the client's thread, and by the end of its last holder.
    private final class Series: @unchecked Sendable {
        // Sendable: the stream is asked for one element at a time, and each is fetched by the client's one thread.
        enum Phase { case notStarted, running, ended }
        var phase = Phase.notStarted
        let client: VarlinkClient

        init(_ client: VarlinkClient) { self.client = client }

        func finish() {
            if phase == .running { client.giveTurn() }
            phase = .ended
        }

        deinit {
            // The consumer left before the end.
            if phase == .running {
                client.socket.end(TransportError(.cancelled, "the series of replies was given up, which ends the connection"))
                client.giveTurn()
            }
        }
    }

    // MARK: - Parts

    private func encode(_ parameters: some Encodable) throws(VarlinkFailure) -> [UInt8] {
        do {
            let text = try MessageText.encode(parameters)
            // One message of the server's limit, less the header around the parameters.
            if text.count < limits.messageBytes - 512 { return text }
        } catch {
            throw .transport(TransportError(.encoding, "the parameters cannot be encoded: \(error)"))
        }
        throw .transport(TransportError(.encoding, "the parameters exceed a message of \(limits.messageBytes) bytes"))
    }

    private func callEncoded(
        _ method: String, _ text: [UInt8], _ descriptors: [SharedDescriptor], _ timeout: UInt64?
    ) throws(VarlinkFailure) -> ClientReply {
        try take(.call)
        defer { giveTurn() }
        let limit = deadline(timeout)
        try start(method, text, nil, descriptors, timeout)
        let reply = try socket.receive(limit)
        if reply.continues {
            abandon()
            throw .transport(TransportError(.protocolViolation, "the server broke the protocol: a series of replies nobody asked for"))
        }
        return reply
    }

    private func start(
        _ method: String, _ text: [UInt8], _ flag: CallFlag?, _ descriptors: [SharedDescriptor], _ timeout: UInt64?
    ) throws(VarlinkFailure) {
        do throws(TransportError) {
            try socket.send(MessageText.call(method, parameters: text, flag: flag), descriptors.map(\.number), deadline(timeout))
        } catch {
            throw .transport(error)
        }
    }

    @discardableResult
    private func abandon() -> TransportError {
        let error = TransportError(.cancelled, "the series of replies was given up, which ends the connection")
        socket.end(error)
        return error
    }

    private func deadline(_ milliseconds: UInt64?) -> MonotonicTime? { milliseconds.map { MonotonicTime.now().advanced(milliseconds: $0) } }

    private func take(_ wanted: Turn) throws(VarlinkFailure) {
        let taken: Bool = turn.wait { current -> Bool? in
            switch current {
            case .call: return nil
            case .series: return false
            case .free:
                current = wanted
                return true
            }
        }
        if !taken {
            throw .transport(
                TransportError(
                    .busy, "an unfinished series of replies occupies the connection; read it to its end, or open another connection"))
        }
    }

    private func giveTurn() {
        turn.withLock { $0 = .free }
        turn.notifyAll()
    }

    private func onThread<R: Sendable>(_ work: @escaping @Sendable () throws(VarlinkFailure) -> R) async throws(VarlinkFailure) -> R {
        let result: Result<R, VarlinkFailure> = await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                thread.run { continuation.resume(returning: Result { () throws(VarlinkFailure) in try work() }) }
            }
        } onCancel: {
            socket.end(TransportError(.cancelled, "the call was cancelled, which ends the connection"))
        }
        return try result.get()
    }
}
