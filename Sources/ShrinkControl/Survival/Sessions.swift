import ShrinkEngine
import ShrinkLinux
import ShrinkProtocol
import Synchronization
import Varlink

/// What the connections hold: pins, and pools whose memory they were given. Every change is in the parked state before it is answered.
///
/// A session is attached to its connection and ends with it. Only the engine's death leaves sessions without one: they wait here for their
/// client, who shows the token, until its process has ended or the grace is over (`SessionGrace`).
final class Sessions: Sendable {
    /// Different objects that one connection may have pinned.
    static let pinnedObjectsLimit = 1 << 16
    /// Pins of one object that one connection may have: as many as a gate counts.
    static let pinsOfObjectLimit = GateWord.pinLimit
    /// Free places below which no new pin is begun, and no pool noted: more than there are threads that make pins at the same time.
    private static let spareHolds = 64

    private struct Hold {
        var count: Int
        /// Its record in the parked state.
        var place: Int
    }

    private struct Session {
        var slot: Int
        var token: SessionToken
        var userID: UInt32
        var pins: [ObjectID: Hold] = [:]
        var pools: [PoolID: Int] = [:]
    }

    private struct State {
        var attached: [UInt64: Session] = [:]
        var waiting: [SessionToken: Session] = [:]
        var freeSlots: [Int] = []
        var nextSlot = 0
        var freeHolds: [Int] = []
        var nextHold = 0
    }

    /// A session that lost its connection with the last engine.
    struct Waiting: Sendable {
        var token: SessionToken
        var process: ProcessIdentity
        var pins: [ObjectID: Int]
    }

    enum Beginning { case new, known, full }

    private let parked: ParkedState
    private let state: Mutex<State>

    /// Sessions that are in the state wait for their clients.
    init(_ parked: ParkedState) {
        self.parked = parked
        var state = State()
        var bySlot: [Int: Session] = [:]
        for slot in parked.sessionsInUse() {
            let record = parked.session(slot)
            bySlot[slot] = Session(slot: slot, token: record.token, userID: record.userID)
            state.nextSlot = slot + 1
        }
        state.freeSlots = (0..<state.nextSlot).filter { bySlot[$0] == nil }
        var used: Set<Int> = []
        for place in parked.holdsInUse() {
            let record = parked.hold(place)
            let hold = Hold(count: Int(record.count), place: place)
            switch record.kind {
            case .pins? where bySlot[record.session] != nil:
                bySlot[record.session]?.pins[ObjectID(rawValue: record.target)] = hold
            case .pool? where bySlot[record.session] != nil: bySlot[record.session]?.pools[PoolID(rawValue: record.target)] = place
            default:
                record.count = 0
                continue
            }
            used.insert(place)
            state.nextHold = place + 1
        }
        state.freeHolds = (0..<state.nextHold).filter { !used.contains($0) }
        for session in bySlot.values { state.waiting[session.token] = session }
        self.state = Mutex(state)
    }

    // MARK: Life of a session

    /// `new`: the connection's end must be awaited, and `end` called.
    func begin(_ connection: UInt64, _ peer: PeerCredentials) -> Beginning {
        state.withLock { state in
            if state.attached[connection] != nil { return .known }
            guard let slot = Self.takePlace(&state.freeSlots, &state.nextSlot, ParkedState.sessionCapacity) else { return .full }
            let session = Session(slot: slot, token: .random(), userID: peer.userID)
            parked.session(slot).begin(user: peer.userID, process: ProcessIdentity(of: peer.processID), token: session.token)
            state.attached[connection] = session
            return .new
        }
    }

    /// Forgets the connection and returns the pins that are to be undone.
    func end(_ connection: UInt64) -> [ObjectID: Int] {
        state.withLock { state in
            guard let session = state.attached.removeValue(forKey: connection) else { return [:] }
            return finish(session, &state)
        }
    }

    func token(_ connection: UInt64) -> SessionToken? { state.withLock { $0.attached[connection]?.token } }

    enum Resumption { case resumed, unknown, notEmpty }

    /// Gives a connection, which holds nothing yet, the session that waits under a token.
    func resume(_ connection: UInt64, _ token: SessionToken, _ peer: PeerCredentials) -> Resumption {
        state.withLock { state in
            guard let fresh = state.attached[connection] else { return .unknown }
            guard fresh.pins.isEmpty, fresh.pools.isEmpty else { return .notEmpty }
            guard let session = state.waiting[token], session.userID == peer.userID else { return .unknown }
            state.waiting[token] = nil
            parked.session(session.slot).changeProcess(ProcessIdentity(of: peer.processID))
            _ = finish(fresh, &state)
            state.attached[connection] = session
            return .resumed
        }
    }

    /// Sessions that wait for their clients.
    var waiting: [Waiting] {
        state.withLock { state in
            state.waiting.values.map { session in
                Waiting(token: session.token, process: parked.session(session.slot).process, pins: session.pins.mapValues(\.count))
            }
        }
    }

    var waitingCount: Int { state.withLock { $0.waiting.count } }

    /// Ends a session that still waits; returns the pins that are to be undone.
    func expire(_ token: SessionToken) -> [ObjectID: Int]? {
        state.withLock { state in state.waiting.removeValue(forKey: token).map { finish($0, &state) } }
    }

    /// A waiting session's pin of an object that is gone.
    func dropPin(_ object: ObjectID, waiting token: SessionToken) {
        state.withLock { state in
            guard let hold = state.waiting[token]?.pins.removeValue(forKey: object) else { return }
            release(hold.place, &state)
        }
    }

    private func finish(_ session: Session, _ state: inout State) -> [ObjectID: Int] {
        // Holds first: a session that counts never lacks one that was not given back.
        for hold in session.pins.values { release(hold.place, &state) }
        for place in session.pools.values { release(place, &state) }
        parked.session(session.slot).end()
        state.freeSlots.append(session.slot)
        return session.pins.mapValues(\.count)
    }

    private func release(_ place: Int, _ state: inout State) {
        parked.hold(place).count = 0
        state.freeHolds.append(place)
    }

    private static func takePlace(_ free: inout [Int], _ next: inout Int, _ capacity: Int) -> Int? {
        if let place = free.popLast() { return place }
        guard next < capacity else { return nil }
        defer { next += 1 }
        return next
    }

    // MARK: Pins

    func hasRoomForPin(_ object: ObjectID, _ connection: UInt64) -> Bool {
        state.withLock {
            guard let pins = $0.attached[connection]?.pins else { return false }
            if let hold = pins[object] { return hold.count < Self.pinsOfObjectLimit }
            return pins.count < Self.pinnedObjectsLimit && Self.hasSpareHolds($0)
        }
    }

    private static func hasSpareHolds(_ state: State) -> Bool {
        state.freeHolds.count + ParkedState.holdCapacity - state.nextHold > spareHolds
    }

    /// False if there is no room to note it: between `hasRoomForPin` and this call others took what there was. The pin is the caller's to undo.
    func addPin(_ object: ObjectID, _ connection: UInt64) -> Bool {
        state.withLock { state in
            guard let slot = state.attached[connection]?.slot else { return true }
            if var hold = state.attached[connection]?.pins[object] {
                hold.count += 1
                parked.hold(hold.place).count = UInt32(clamping: hold.count)
                state.attached[connection]?.pins[object] = hold
            } else {
                guard let place = Self.takePlace(&state.freeHolds, &state.nextHold, ParkedState.holdCapacity) else { return false }
                parked.hold(place).begin(session: slot, kind: .pins, target: object.rawValue, count: 1)
                state.attached[connection]?.pins[object] = Hold(count: 1, place: place)
            }
            return true
        }
    }

    func pins(_ object: ObjectID, _ connection: UInt64) -> Int { state.withLock { $0.attached[connection]?.pins[object]?.count ?? 0 } }

    /// A connection's pins in ascending order of object, those after `after`, at most `limit`.
    func pins(_ connection: UInt64, after: ObjectID, limit: Int) -> [(object: ObjectID, count: Int)] {
        state.withLock { state in
            let pins = state.attached[connection]?.pins ?? [:]
            return pins.keys.filter { $0 > after }.sorted().prefix(limit).map { ($0, pins[$0]?.count ?? 0) }
        }
    }

    /// False if the connection has no pin of the object.
    func removePin(_ object: ObjectID, _ connection: UInt64) -> Bool {
        state.withLock { state in
            guard var hold = state.attached[connection]?.pins[object] else { return false }
            hold.count -= 1
            if hold.count > 0 {
                parked.hold(hold.place).count = UInt32(clamping: hold.count)
                state.attached[connection]?.pins[object] = hold
            } else {
                release(hold.place, &state)
                state.attached[connection]?.pins[object] = nil
            }
            return true
        }
    }

    /// All pins of an object, which the connection's gate answers for from now on.
    func takePins(_ object: ObjectID, _ connection: UInt64) {
        state.withLock { state in
            if let hold = state.attached[connection]?.pins.removeValue(forKey: object) { release(hold.place, &state) }
        }
    }

    /// The object is gone, and with it every pin.
    func forget(_ object: ObjectID) {
        state.withLock { state in
            for connection in state.attached.keys {
                if let hold = state.attached[connection]?.pins.removeValue(forKey: object) { release(hold.place, &state) }
            }
            for token in state.waiting.keys {
                if let hold = state.waiting[token]?.pins.removeValue(forKey: object) { release(hold.place, &state) }
            }
        }
    }

    // MARK: Pools

    func addPool(_ pool: PoolID, _ connection: UInt64) {
        state.withLock { state in
            guard let slot = state.attached[connection]?.slot, state.attached[connection]?.pools[pool] == nil, Self.hasSpareHolds(state),
                let place = Self.takePlace(&state.freeHolds, &state.nextHold, ParkedState.holdCapacity)
            else { return }
            parked.hold(place).begin(session: slot, kind: .pool, target: pool.rawValue, count: 1)
            state.attached[connection]?.pools[pool] = place
        }
    }

    func pools(_ connection: UInt64) -> [PoolID] { state.withLock { ($0.attached[connection]?.pools).map { Array($0.keys) } ?? [] } }

    func forget(_ pool: PoolID) {
        state.withLock { state in
            for connection in state.attached.keys {
                if let place = state.attached[connection]?.pools.removeValue(forKey: pool) { release(place, &state) }
            }
            for token in state.waiting.keys {
                if let place = state.waiting[token]?.pools.removeValue(forKey: pool) { release(place, &state) }
            }
        }
    }

    /// Pools whose memory somebody was given who has not left: by an open connection, or one that the last engine's death ended.
    var heldPools: Set<PoolID> {
        state.withLock { state in
            var held: Set<PoolID> = []
            for session in state.attached.values { held.formUnion(session.pools.keys) }
            for session in state.waiting.values { held.formUnion(session.pools.keys) }
            return held
        }
    }
}
