public import ShrinkLinux
public import ShrinkProtocol
import Varlink

/// A connection to shrinkd that outlives the daemon's engine.
///
/// Caveats first:
/// - Pins belong to the client's session. When the client is closed, or gives up a call, all of its objects may go out and their memory must not
///   be used.
/// - Use an object's range of the pool's memory only while the object is pinned.
/// - If the engine dies, or is restarted, this client connects again by itself, also while no call is under way, and has its pools and pins back;
///   calls wait meanwhile and go on. If the daemon was stopped and started, they are gone: then every call fails with `sessionLost`.
/// - Each blocking method has an async twin that waits on a thread of the client's own. Calls go one after the other.
/// - A cancelled or timed-out call ends the connection, and with it the pins.
public final class ShrinkdClient: Sendable {
    private let link: Link
    private let thread = ClientThread()
    private let timeoutMilliseconds: UInt64
    let path: String
    let gates = GateSession()
    let revocations = RevocationWatch()

    /// Connects.
    /// - Parameters:
    ///   - path: nil looks where `SocketLocation.find` says.
    ///   - timeoutMilliseconds: for calls that move no pages; those that do (pin, shrink, recover) take as long as they need.
    public init(path: String? = nil, timeoutMilliseconds: UInt64 = 30_000) throws(ShrinkdError) {
        self.timeoutMilliseconds = timeoutMilliseconds
        self.path = SocketLocation.find(explicit: path)
        do throws(TransportError) { link = try Link(path: self.path, timeoutMilliseconds: timeoutMilliseconds) } catch {
            throw ShrinkdError(error)
        }
    }

    deinit {
        link.close()
        thread.finish()
    }

    /// Ends the connection and every pin of it.
    public func close() {
        link.close()
        gates.close()
        revocations.end()
    }

    /// How often this client has come back to a new engine.
    public var reconnections: Int { link.reconnections }

    /// One call, blocking.
    public func call<P, R>(_ method: WireMethod<P, R>, _ parameters: P) throws(ShrinkdError) -> R {
        try Self.decode(try link.call(method, parameters, timeout(method.member)))
    }

    /// One call.
    public func call<P, R>(_ method: WireMethod<P, R>, _ parameters: P) async throws(ShrinkdError) -> R {
        let (link, timeout) = (link, timeout(method.member))
        let result: Result<R, ShrinkdError> = await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                thread.run {
                    continuation.resume(
                        returning: Result { () throws(ShrinkdError) in try Self.decode(try link.call(method, parameters, timeout)) })
                }
            }
        } onCancel: {
            link.cancel()
        }
        return try result.get()
    }

    private static func decode<R: Decodable>(_ reply: ClientReply) throws(ShrinkdError) -> R {
        do throws(VarlinkFailure) { return try reply.decode(R.self) } catch { throw ShrinkdError(error) }
    }

    /// A series of replies, each given to `body` in order, the last one included; blocking. `.stop` ends the connection. A series is not begun again
    /// when the engine dies: then `disconnected` is thrown, and the next call goes on.
    public func series<P, R>(
        _ method: WireMethod<P, R>, _ parameters: P, _ body: (R, _ continues: Bool) -> SeriesContinuation
    ) throws(ShrinkdError) {
        try link.seriesOfReplies { (client) throws(VarlinkFailure) in
            try client.callMore(method.fullName, parameters, timeoutMilliseconds: timeout(method.member)) {
                (reply) throws(VarlinkFailure) in
                switch body(try reply.decode(R.self), reply.continues) {
                case .proceed: .proceed
                case .stop: .stop
                }
            }
        }
    }

    /// A series of replies. The next is read when it is asked for; a consumer that leaves early ends the connection. It is not begun again when the
    /// engine dies.
    public func series<P, R>(_ method: WireMethod<P, R>, _ parameters: P) -> ReplySeries<R> {
        ReplySeries(replies: link.client.replies(method.fullName, parameters, timeoutMilliseconds: timeout(method.member)))
    }

    /// One call whose reply brings a descriptor, blocking. `index` tells which field names it.
    public func call<P, R>(
        _ method: WireMethod<P, R>, _ parameters: P, descriptor index: (R) -> Int
    ) throws(ShrinkdError) -> DescriptorReply<R> {
        let reply = try link.call(method, parameters, timeout(method.member))
        let decoded: R = try Self.decode(reply)
        if let descriptor = reply.descriptors.take(index(decoded)) { return DescriptorReply(reply: decoded, descriptor: descriptor) }
        throw ShrinkdError(
            .protocolViolation, "shrinkd's reply to \(method.member) lacks its descriptor; the process may have too many open")
    }

    /// Registers a mapping now, and again whenever this client comes back to another engine.
    func register(_ mapping: TouchRegistration) throws(ShrinkdError) {
        try link.register(mapping, timeout(Methods.registerMapping.member))
    }

    func unregister(_ mapping: TouchRegistration) throws(ShrinkdError) {
        try link.unregister(mapping, timeout(Methods.unregisterMapping.member))
    }

    private func timeout(_ member: String) -> UInt64? {
        switch member {
        // These bring what happens when it happens.
        case Methods.watchPressure.member, Methods.waitForRevocation.member: nil
        case Methods.pin.member, Methods.pinGate.member, Methods.attachGate.member, Methods.shrink.member, Methods.recover.member,
            Methods.destroyPool.member:
            nil
        default: timeoutMilliseconds
        }
    }
}

/// What the reader of a series wants next.
public enum SeriesContinuation: Sendable {
    case proceed
    /// No more; the connection ends, and with it its pins.
    case stop
}

/// A reply and the descriptor that came with it.
public struct DescriptorReply<Reply: Sendable>: ~Copyable {
    public var reply: Reply
    public var descriptor: OwnedDescriptor
}

/// The replies of one call, in order.
public struct ReplySeries<Reply: Decodable & Sendable>: AsyncSequence, Sendable {
    let replies: AsyncThrowingStream<ClientReply, any Error>

    public struct AsyncIterator: AsyncIteratorProtocol {
        var replies: AsyncThrowingStream<ClientReply, any Error>.Iterator

        public mutating func next() async throws(ShrinkdError) -> Reply? {
            do {
                return try await replies.next(isolation: #isolation)?.decode(Reply.self)
            } catch let failure as VarlinkFailure {
                throw ShrinkdError(failure)
            } catch {
                throw ShrinkdError(.system, "\(error)")
            }
        }
    }

    public func makeAsyncIterator() -> AsyncIterator { AsyncIterator(replies: replies.makeAsyncIterator()) }
}
