import ShrinkLinux
import ShrinkProtocol
import SystemPackage

/// What the daemon asks a program that has leased memory for.
public struct LeaseRevocation: Sendable, Equatable {
    public var objectID: Int
    /// How long the daemon waits, from when it asked.
    public var deadlineMilliseconds: Int
}

extension ShrinkdClient {
    /// Has `handler` called whenever the daemon wants leased memory back: make the device let go of the object's memory, end the object's accesses, return.
    /// Returning is the answer; who takes longer than the deadline keeps its memory, and the daemon says so in its status.
    ///
    /// Called on a thread of the client's own, one call at a time, on a second connection to the daemon. One handler a client.
    public func onRevocation(_ handler: @escaping @Sendable (LeaseRevocation) -> Void) throws(ShrinkdError) {
        let gates = try gates.memory(of: self)
        try revocations.begin(path, gates.clientID, handler)
    }
}

/// The second connection, on which revocations come, and its thread.
final class RevocationWatch: Sendable {
    private enum State {
        case idle
        case running(ShrinkdClient)
        case ended
    }
    private let state = Monitor(State.idle)

    deinit { end() }

    func begin(_ path: String, _ gateClientID: Int, _ handler: @escaping @Sendable (LeaseRevocation) -> Void) throws(ShrinkdError) {
        let connection = try ShrinkdClient(path: path)
        let isFirst = state.withLock { state in
            guard case .idle = state else { return false }
            state = .running(connection)
            return true
        }
        guard isFirst else { throw ShrinkdError(.busy, "this client has a handler of revocations already, or was closed") }
        _ = try connection.call(Methods.listenForRevocations, GateClientAddress(gateClientId: gateClientID))
        do throws(Errno) {
            // The thread ends with the connection, and holds the client no longer than that.
            try DedicatedThread("shrink-revoke") { Self.serve(connection, gateClientID, handler) }.detach()
        } catch {
            throw ShrinkdError(.system, "no thread for revocations: \(error)")
        }
    }

    func end() {
        let connection = state.withLock { state -> ShrinkdClient? in
            defer { state = .ended }
            if case .running(let connection) = state { return connection }
            return nil
        }
        connection?.close()
    }

    private static func serve(_ connection: ShrinkdClient, _ gateClientID: Int, _ handler: @Sendable (LeaseRevocation) -> Void) {
        var parameters = WaitForRevocationParameters(gateClientId: gateClientID)
        while true {
            let asked: RevocationReply
            // The connection ended, or the client's gates did: nothing can be asked any more.
            do throws(ShrinkdError) { asked = try connection.call(Methods.waitForRevocation, parameters) } catch { return }
            handler(LeaseRevocation(objectID: asked.objectId, deadlineMilliseconds: asked.deadlineMilliseconds))
            parameters.acknowledgedRevocationId = asked.revocationId
        }
    }
}
