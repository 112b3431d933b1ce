import ShrinkEngine
import ShrinkLinux
import Synchronization
import Varlink

/// What the open connections hold: pins, and pools whose memory they were given.
final class Sessions: Sendable {
    /// Different objects that one connection may have pinned.
    static let pinnedObjectsLimit = 1 << 16

    private struct Session {
        var pins: [ObjectID: Int] = [:]
        var pools: Set<PoolID> = []
        /// The connection's gates, once it has asked for them.
        var gates: GateClientID?
        /// The generation of each object's content that this connection saw last.
        var seenContent: [ObjectID: UInt32] = [:]
    }

    /// What a connection leaves behind.
    struct Estate {
        var pins: [ObjectID: Int] = [:]
        var gates: GateClientID?
    }

    private let sessions = Mutex<[UInt64: Session]>([:])

    /// True if the connection was not known: its end must then be awaited, and `end` called.
    func begin(_ connection: UInt64) -> Bool {
        sessions.withLock {
            if $0[connection] != nil { return false }
            $0[connection] = Session()
            return true
        }
    }

    /// Forgets the connection and returns what is to be undone.
    func end(_ connection: UInt64) -> Estate {
        sessions.withLock { sessions in
            let session = sessions.removeValue(forKey: connection)
            return Estate(pins: session?.pins ?? [:], gates: session?.gates)
        }
    }

    func gates(_ connection: UInt64) -> GateClientID? { sessions.withLock { $0[connection]?.gates } }

    /// False if the connection is gone.
    func setGates(_ gates: GateClientID, _ connection: UInt64) -> Bool {
        sessions.withLock { sessions in
            guard sessions[connection] != nil else { return false }
            sessions[connection]?.gates = gates
            return true
        }
    }

    /// All pins of an object, which something else now answers for.
    func takePins(_ object: ObjectID, _ connection: UInt64) -> Int {
        sessions.withLock { $0[connection]?.pins.removeValue(forKey: object) ?? 0 }
    }

    /// Whether the content is what the connection last saw, which from now on is this one. One that never saw it has nothing to miss.
    func sees(_ generation: UInt32, of object: ObjectID, _ connection: UInt64) -> Bool {
        sessions.withLock { sessions in
            guard let session = sessions[connection] else { return true }
            if session.seenContent[object] != nil || session.seenContent.count < Self.pinnedObjectsLimit {
                sessions[connection]?.seenContent[object] = generation
            }
            return session.seenContent[object].map { $0 == generation } ?? true
        }
    }

    func hasRoomForPin(_ object: ObjectID, _ connection: UInt64) -> Bool {
        sessions.withLock {
            guard let pins = $0[connection]?.pins else { return false }
            return pins[object] != nil || pins.count < Self.pinnedObjectsLimit
        }
    }

    func addPin(_ object: ObjectID, _ connection: UInt64) { sessions.withLock { $0[connection]?.pins[object, default: 0] += 1 } }

    func pins(_ object: ObjectID, _ connection: UInt64) -> Int { sessions.withLock { $0[connection]?.pins[object] ?? 0 } }

    /// False if the connection has no pin of the object.
    func removePin(_ object: ObjectID, _ connection: UInt64) -> Bool {
        sessions.withLock {
            guard let count = $0[connection]?.pins[object] else { return false }
            $0[connection]?.pins[object] = count > 1 ? count - 1 : nil
            return true
        }
    }

    /// The object is gone, and with it every pin.
    func forget(_ object: ObjectID) {
        sessions.withLock { sessions in
            for connection in sessions.keys {
                sessions[connection]?.pins[object] = nil
                sessions[connection]?.seenContent[object] = nil
            }
        }
    }

    func addPool(_ pool: PoolID, _ connection: UInt64) { sessions.withLock { _ = $0[connection]?.pools.insert(pool) } }

    func forget(_ pool: PoolID) {
        sessions.withLock { for connection in $0.keys { $0[connection]?.pools.remove(pool) } }
    }

    /// Pools whose memory an open connection was given.
    var heldPools: Set<PoolID> { sessions.withLock { $0.values.reduce(into: []) { $0.formUnion($1.pools) } } }
}
