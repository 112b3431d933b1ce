import ShrinkLinux
import ShrinkProtocol
import Synchronization
import SystemPackage
import Varlink

/// The connection under a client, replaced when the engine dies.
///
/// Rules, and where each is kept:
/// - Only the server's end of the connection is answered with another connection (`connectAgain`); a call that was cancelled, ran out of time or met a
///   broken protocol ends it for good.
/// - Calls that change what the session holds go one at a time (`turn`): when a reply is lost, what the session holds now tells whether that one call
///   was done (`LostReply`).
/// - While the session holds something, a thread waits for the connection's end, so that a client that calls nothing comes back within the grace too.
final class Link: Sendable {
    /// How long a socket that nobody listens at is tried again. An engine that is restarted leaves its socket open with its starter, so this is for
    /// engines without one.
    private static let absenceMilliseconds: UInt64 = 2_000
    /// How long a new engine may take to answer, taking over and healing its pools.
    private static let returnMilliseconds: UInt64 = 120_000
    /// How often one call is begun again: an engine that dies of it must not be asked for ever. Far above what a keeper starts in a row.
    private static let attempts = 32

    private struct State {
        var client: VarlinkClient
        var generation = 0
        var token: String?
        /// The session is gone, or the client was closed.
        var failure: ShrinkdError?
        var isClosed = false
        var isConnecting = false
        var isWatched = false
    }

    private let path: String
    private let timeoutMilliseconds: UInt64
    private let state: Monitor<State>
    private let turn = Monitor(false)
    private let holdings = Mutex(Holdings())
    /// Mappings of this client, told to every engine anew: the next one may not know them.
    private let touched = Mutex<[TouchRegistration]>([])

    init(path: String, timeoutMilliseconds: UInt64) throws(TransportError) {
        self.path = path
        self.timeoutMilliseconds = timeoutMilliseconds
        state = Monitor(State(client: try VarlinkClient(path: path)))
    }

    var client: VarlinkClient { state.withLock { $0.client } }
    var reconnections: Int { state.withLock { $0.generation } }

    func close() { end { $0.close() } }
    func cancel() { end { $0.cancel() } }

    private func end(_ how: (VarlinkClient) -> Void) {
        let client = state.withLock { state in
            state.isClosed = true
            return state.client
        }
        how(client)
    }

    // MARK: Calls

    func call<P, R>(
        _ method: WireMethod<P, R>, _ parameters: P, _ timeout: UInt64?, passing descriptors: [SharedDescriptor] = []
    ) throws(ShrinkdError) -> ClientReply {
        guard Holdings.concerns(method.member) else {
            return try retrying(method.fullName, parameters, timeout, member: method.member, passing: descriptors)
        }
        turn.wait { isTaken -> Void? in
            if isTaken { return nil }
            isTaken = true
            return ()
        }
        defer {
            turn.withLock { $0 = false }
            turn.notifyAll()
        }
        if Holdings.adds(method.member) { try openSession() }
        let reply = try retrying(method.fullName, parameters, timeout, member: method.member, passing: descriptors)
        holdings.withLock { $0.note(method.member, parameters, reply) }
        return reply
    }

    func seriesOfReplies(_ body: (VarlinkClient) throws(VarlinkFailure) -> Void) throws(ShrinkdError) {
        let (client, generation) = try current()
        do throws(VarlinkFailure) { try body(client) } catch {
            if Self.isServersEnd(error) { try? connectAgain(after: generation) }
            throw ShrinkdError(error)
        }
    }

    private func retrying(
        _ method: String, _ parameters: some Encodable & Sendable, _ timeout: UInt64?, member: String,
        passing descriptors: [SharedDescriptor] = []
    ) throws(ShrinkdError) -> ClientReply {
        for attempt in 1...Self.attempts {
            let (client, generation) = try current()
            do throws(VarlinkFailure) {
                return try client.call(method, parameters, descriptors: descriptors, timeoutMilliseconds: timeout)
            } catch {
                if attempt > 1, let reply = try answeredBefore(error, member, parameters) { return reply }
                guard Self.isServersEnd(error), attempt < Self.attempts, Self.mayBeRepeated(member) else { throw ShrinkdError(error) }
                do throws(ShrinkdError) { try connectAgain(after: generation) } catch let failure {
                    // Nobody is there any more: the first failure tells more than the second.
                    throw failure.code == .notRunning ? ShrinkdError(error) : failure
                }
                if let reply = try answeredMeanwhile(member, parameters) { return reply }
            }
        }
        throw ShrinkdError(.disconnected, "shrinkd's engine died \(Self.attempts) times of this call; see its log")
    }

    /// A fault that is set twice counts twice.
    private static func mayBeRepeated(_ member: String) -> Bool { member != Methods.setFault.member }

    private static func isServersEnd(_ failure: VarlinkFailure) -> Bool {
        if case .transport(let error) = failure { error.code == .disconnected } else { false }
    }

    private func current() throws(ShrinkdError) -> (VarlinkClient, Int) {
        // Whoever finds somebody at it waits for the outcome instead of calling into a connection that has ended.
        try state.wait { state -> Result<(VarlinkClient, Int), ShrinkdError>? in
            if let failure = state.failure { return .failure(failure) }
            return state.isConnecting ? nil : .success((state.client, state.generation))
        }.get()
    }

    // MARK: Coming back

    /// Connects again after the connection of that generation has ended, unless somebody has done so already.
    func connectAgain(after generation: Int) throws(ShrinkdError) {
        let isMine: Bool = try state.wait { state -> Result<Bool, ShrinkdError>? in
            if let failure = state.failure { return .failure(failure) }
            if state.isClosed { return .failure(ShrinkdError(.disconnected, "the connection was closed on this side")) }
            if state.generation != generation { return .success(false) }
            if state.isConnecting { return nil }
            state.isConnecting = true
            return .success(true)
        }.get()
        guard isMine else { return }
        let token = state.withLock { $0.token }
        let mustHold = holdings.withLock { !$0.isEmpty } || touched.withLock { $0.contains { !$0.isAbandoned } }
        let result = Result { () throws(ShrinkdError) in try connected(token, mustHold) }
        let isClosed = state.withLock { state in
            state.isConnecting = false
            switch result {
            case .success(let (client, isResumed)):
                state.client = client
                state.generation += 1
                if !isResumed { state.token = nil }
            case .failure(let error): if error.code == .sessionLost { state.failure = error }
            }
            return state.isClosed
        }
        state.notifyAll()
        if isClosed, case .success(let (client, _)) = result { client.close() }
        _ = try result.get()
    }

    private func connected(_ token: String?, _ mustHold: Bool) throws(ShrinkdError) -> (VarlinkClient, isResumed: Bool) {
        let absence = MonotonicTime.now().advanced(milliseconds: Self.absenceMilliseconds)
        let limit = MonotonicTime.now().advanced(milliseconds: Self.returnMilliseconds)
        while true {
            do throws(VarlinkFailure) {
                let client: VarlinkClient
                do throws(TransportError) { client = try VarlinkClient(path: path) } catch { throw .transport(error) }
                guard let token else { return (client, false) }
                do throws(VarlinkFailure) {
                    _ = try client.call(
                        Methods.resumeSession.fullName, ResumeSessionParameters(sessionToken: token),
                        timeoutMilliseconds: Self.returnMilliseconds)
                    try register(on: client)
                    return (client, true)
                } catch {
                    guard case .answered(let answer) = error, WireErrorName(fullName: answer.name) == .noSuchSession else { throw error }
                    if mustHold { throw error }
                    // Nothing was held, so nothing is lost.
                    return (client, false)
                }
            } catch {
                let now = MonotonicTime.now()
                guard case .transport(let reason) = error, now < limit else { throw ShrinkdError(error) }
                switch reason.code {
                case .notRunning where now < absence: break
                // The next engine died as well: its successor may live.
                case .disconnected: break
                default: throw ShrinkdError(error)
                }
            }
            // An engine without a starter needs a moment; there is nothing to wait on.
            DedicatedThread.pause(milliseconds: 20)
        }
    }

    // MARK: Memory for touch

    /// Registers a mapping now, and with every engine that comes after this one.
    func register(_ mapping: TouchRegistration, _ timeout: UInt64?) throws(ShrinkdError) {
        let known = touched.withLock { touched in
            defer { if !touched.contains(where: { $0 === mapping }) { touched.append(mapping) } }
            return touched
        }
        // Let go without a word since the last time.
        for other in known where other.isAbandoned { try? unregister(other, timeout) }
        do throws(ShrinkdError) {
            let reply = try call(Methods.registerMapping, mapping.parameters, timeout, passing: [mapping.userfaults])
            mapping.note(try decoded(reply, RegisterMappingReply.self).mappingId)
        } catch {
            if !known.contains(where: { $0 === mapping }) { forget(mapping) }
            throw error
        }
    }

    func unregister(_ mapping: TouchRegistration, _ timeout: UInt64?) throws(ShrinkdError) {
        forget(mapping)
        guard let id = mapping.id else { return }
        _ = try call(Methods.unregisterMapping, UnregisterMappingParameters(mappingId: id), timeout)
        mapping.note(nil)
    }

    private func forget(_ mapping: TouchRegistration) { touched.withLock { $0.removeAll { $0 === mapping } } }

    /// All mappings on a new connection that has its session back: so the pools are the same. What the engine took over it is told again, which changes nothing.
    private func register(on client: VarlinkClient) throws(VarlinkFailure) {
        for mapping in touched.withLock({ $0 }) where !mapping.isAbandoned {
            do throws(VarlinkFailure) {
                let reply = try client.call(
                    Methods.registerMapping.fullName, mapping.parameters, descriptors: [mapping.userfaults],
                    timeoutMilliseconds: Self.returnMilliseconds)
                mapping.note(try reply.decode(RegisterMappingReply.self).mappingId)
            } catch {
                if case .transport = error { throw error }
                // The pool is gone, or its limit is reached: the others go on, and the mapping says why.
                mapping.note(failure: ShrinkdError(error))
            }
        }
    }

    // MARK: The session

    /// Has a token before there is anything to lose, and somebody who notices the end.
    private func openSession() throws(ShrinkdError) {
        if state.withLock({ $0.token != nil }) { return }
        let (_, generation) = try current()
        do throws(ShrinkdError) {
            let reply = try retrying(
                Methods.openSession.fullName, NoParameters(), timeoutMilliseconds, member: Methods.openSession.member)
            let token: OpenSessionReply
            do throws(VarlinkFailure) { token = try reply.decode(OpenSessionReply.self) } catch { throw ShrinkdError(error) }
            state.withLock { state in
                // Of the connection that answered, or the one it was replaced by in between has no token yet and is asked again next time.
                if state.generation >= generation { state.token = token.sessionToken }
            }
        } catch {
            // A daemon of the version before knows no sessions: its pins end with the connection.
            if error.code == .protocolViolation { return }
            throw error
        }
        let isWatched = state.withLock { state in
            defer { state.isWatched = true }
            return state.isWatched
        }
        if isWatched { return }
        do throws(Errno) {
            try DedicatedThread("shrinkd-link", stackSize: 256 << 10) { [weak self] in
                while true {
                    // Not held while waiting: a client that is let go must go.
                    guard let (client, generation) = self?.watched() else { return }
                    client.waitUntilEnded()
                    guard let link = self else { return }
                    if (try? link.connectAgain(after: generation)) != nil { continue }
                    // The next call tries again, and is told why if that fails too.
                    return link.state.withLock { $0.isWatched = false }
                }
            }.detach()
        } catch {
            throw ShrinkdError(.system, "no thread to watch the connection with: \(error)")
        }
    }

    private func watched() -> (VarlinkClient, Int)? {
        state.withLock { $0.isClosed || $0.failure != nil ? nil : ($0.client, $0.generation) }
    }

    // MARK: Calls whose reply was lost

    /// The reply to a call that the last engine did before it died, if what the session holds now shows that it did.
    private func answeredMeanwhile(_ member: String, _ parameters: some Sendable) throws(ShrinkdError) -> ClientReply? {
        let expected = holdings.withLock { $0 }
        switch member {
        case Methods.pin.member:
            guard let id = (parameters as? ObjectAddress)?.objectId else { return nil }
            guard try pins(of: id) > expected.pins[id, default: 0] else { return nil }
            return try ask(Methods.getObject, ObjectAddress(objectId: id))
        case Methods.unpin.member:
            guard let id = (parameters as? ObjectAddress)?.objectId else { return nil }
            guard try pins(of: id) < expected.pins[id, default: 0] else { return nil }
            return .empty
        case Methods.createObject.member:
            var after: Int?
            while true {
                let list = try decoded(try ask(Methods.listPins, ListPinsParameters(afterObjectId: after)), ListPinsReply.self)
                if let new = list.pins.first(where: { expected.pins[$0.objectId] == nil }) {
                    return try ask(Methods.getObject, ObjectAddress(objectId: new.objectId))
                }
                guard let next = list.nextAfterObjectId else { return nil }
                after = next
            }
        default: return nil
        }
    }

    /// The reply to a call that was done by the last engine, when doing it again is refused for that very reason.
    private func answeredBefore(
        _ error: VarlinkFailure, _ member: String, _ parameters: some Sendable
    ) throws(ShrinkdError) -> ClientReply? {
        guard case .answered(let answer) = error, let name = WireErrorName(fullName: answer.name) else { return nil }
        switch (member, name) {
        case (Methods.createPool.member, .nameTaken):
            guard let wanted = parameters as? CreatePoolParameters else { return nil }
            let opened = try ask(Methods.openPool, PoolAddress(name: wanted.poolName))
            let pool = try decoded(opened, PoolReply.self).pool
            // Made by the lost call: as large as was asked for, empty, and new to this client.
            let isOurs =
                pool.sizeBytes == wanted.sizeBytes && pool.objectCount == 0 && holdings.withLock { !$0.pools.contains(pool.poolId) }
            return isOurs ? opened : nil
        case (Methods.destroyPool.member, .noSuchPool), (Methods.destroyObject.member, .noSuchObject): return .empty
        default: return nil
        }
    }

    private func pins(of id: Int) throws(ShrinkdError) -> Int {
        let list = try decoded(try ask(Methods.listPins, ListPinsParameters(afterObjectId: id - 1)), ListPinsReply.self)
        return list.pins.first { $0.objectId == id }?.count ?? 0
    }

    /// A question that changes nothing, asked until an engine lives long enough to answer.
    private func ask<P, R>(_ method: WireMethod<P, R>, _ parameters: P) throws(ShrinkdError) -> ClientReply {
        for _ in 0..<Self.attempts {
            let (client, generation) = try current()
            do throws(VarlinkFailure) {
                return try client.call(method.fullName, parameters, timeoutMilliseconds: timeoutMilliseconds)
            } catch {
                guard Self.isServersEnd(error) else { throw ShrinkdError(error) }
                try connectAgain(after: generation)
            }
        }
        throw ShrinkdError(.disconnected, "shrinkd's engine died \(Self.attempts) times in a row; see its log")
    }

    private func decoded<R: Decodable>(_ reply: ClientReply, _ type: R.Type) throws(ShrinkdError) -> R {
        do throws(VarlinkFailure) { return try reply.decode(type) } catch { throw ShrinkdError(error) }
    }
}
