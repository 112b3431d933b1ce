import ShrinkEngine
import ShrinkLinux
import ShrinkProtocol
import Synchronization
import Varlink

/// What the open connections hold: pins, and pools whose memory they were given.
final class Sessions: Sendable {
    /// Different objects that one connection may have pinned.
    static let pinnedObjectsLimit = 1 << 16

    fileprivate struct Session {
        var pins: [ObjectID: Int] = [:]
        var pools: Set<PoolID> = []
        var mappings: Set<MappingID> = []
    }
    fileprivate let sessions = Mutex<[UInt64: Session]>([:])

    /// True if the connection was not known: its end must then be awaited, and `end` called.
    func begin(_ connection: UInt64) -> Bool {
        sessions.withLock {
            if $0[connection] != nil { return false }
            $0[connection] = Session()
            return true
        }
    }

    /// Forgets the connection and returns the pins that are to be undone.
    func end(_ connection: UInt64) -> [ObjectID: Int] { sessions.withLock { $0.removeValue(forKey: connection)?.pins ?? [:] } }

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
        sessions.withLock { for connection in $0.keys { $0[connection]?.pins[object] = nil } }
    }

    func addPool(_ pool: PoolID, _ connection: UInt64) { sessions.withLock { _ = $0[connection]?.pools.insert(pool) } }

    func forget(_ pool: PoolID) {
        sessions.withLock { for connection in $0.keys { $0[connection]?.pools.remove(pool) } }
    }

    /// Pools whose memory an open connection was given.
    var heldPools: Set<PoolID> { sessions.withLock { $0.values.reduce(into: []) { $0.formUnion($1.pools) } } }
}

extension Sessions {
    func hasRoomForMapping(_ connection: UInt64) -> Bool {
        sessions.withLock { ($0[connection]?.mappings.count ?? Methods.mappingsPerConnection) < Methods.mappingsPerConnection }
    }

    func addMapping(_ mapping: MappingID, _ connection: UInt64) { sessions.withLock { _ = $0[connection]?.mappings.insert(mapping) } }

    /// False if it is none of the connection's.
    func removeMapping(_ mapping: MappingID, _ connection: UInt64) -> Bool {
        sessions.withLock { $0[connection]?.mappings.remove(mapping) != nil }
    }

    func mappings(_ connection: UInt64) -> Set<MappingID> { sessions.withLock { $0[connection]?.mappings ?? [] } }
}
