import ShrinkEngine
import ShrinkLinux
import Testing

@testable import ShrinkControl

/// Connections that hold as much as can be noted: the next pin is refused, and nothing ends.
@Suite struct SessionLimitTests {
    private let peer: PeerCredentials

    init() throws {
        let pair = try UnixSocket.pair()
        peer = try UnixSocket.peer(of: pair.first.number)
    }

    private func sessions() throws -> Sessions {
        let sessions = Sessions(try ParkedState())
        for connection in [1, 2] as [UInt64] { #expect(sessions.begin(connection, peer) == .new) }
        return sessions
    }

    @Test func poolsLeaveTheLastPlacesToPins() throws {
        let sessions = try sessions()
        for pool in 1...UInt32(ParkedState.holdCapacity) { sessions.addPool(PoolID(rawValue: pool), 1) }
        let left = ParkedState.holdCapacity - sessions.pools(1).count
        // Pins that were begun while there was room still find it.
        #expect(left == 64)
        #expect(!sessions.hasRoomForPin(ObjectID(rawValue: 1), 2))
        for object in 1..<UInt32(left) + 1 { #expect(sessions.addPin(ObjectID(rawValue: object), 2)) }
        let last = ObjectID(rawValue: UInt32(left) + 1)
        #expect(!sessions.addPin(last, 2))
        #expect(sessions.pins(last, 2) == 0)
        #expect(sessions.end(2).count == left)
        #expect(sessions.begin(2, peer) == .new)
        #expect(sessions.addPin(last, 2))
    }

    @Test func oneObjectIsPinnedAsOftenAsAGateCounts() throws {
        let sessions = try sessions()
        let object = ObjectID(rawValue: 1)
        for _ in 0..<Sessions.pinsOfObjectLimit - 1 { _ = sessions.addPin(object, 1) }
        #expect(sessions.hasRoomForPin(object, 1))
        #expect(sessions.addPin(object, 1))
        #expect(!sessions.hasRoomForPin(object, 1))
        #expect(sessions.hasRoomForPin(object, 2))
        #expect(sessions.removePin(object, 1) && sessions.hasRoomForPin(object, 1))
    }
}
