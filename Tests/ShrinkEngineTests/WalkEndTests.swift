import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@testable import ShrinkEngine

/// Nothing is visited for ever, whoever moves objects in front of a walk.
@Suite struct WalkEndTests {
    @Test(arguments: [false, true]) func aWalkEndsThoughItsObjectsMoveAtEveryStep(_ asBulk: Bool) throws {
        let fixture = try EngineFixture(poolPages: 64)
        let engine = fixture.engine
        let bulk = try engine.createBulkMove()
        let objects = try (0..<4).map { _ in try fixture.makeObject(pages: 2, zeroEvery: 0).id }
        if asBulk { for id in objects { try engine.setBulkMove(bulk, of: id) } }
        let steady = try fixture.makeObject(pages: 2, priority: .high, zeroEvery: 0).id
        var visits = 0
        var sawSteady = 0
        let end = try engine.forEachReserved { object in
            visits += 1
            sawSteady += object.id == steady ? 1 : 0
            if asBulk {
                engine.bump(bulk)
            } else {
                // The others are used at once.
                for id in objects where id != object.id {
                    try engine.pin(id)
                    try engine.unpin(id)
                }
            }
            return visits < 10_000 ? .next : .stop
        }
        #expect(end == .finished(busy: 0), "\(visits) visits of 5 objects")
        #expect(sawSteady == 1)
    }

    /// A member that is used goes to the end of its bulk's range, in front of a cursor that stands there.
    @Test func aCursorInARangeWhoseMembersAreUsedEnds() {
        var lru = LRU()
        lru.reserveSlots(4)
        guard let bulk = lru.makeBulk(), var cursor = lru.makeCursor() else { return #expect(Bool(false)) }
        for slot in 0..<3 as Range<UInt32> {
            lru.setBulk(slot, bulk)
            lru.touch(slot, .normal)
        }
        lru.touch(3, .high)
        var visits: [UInt32] = []
        while visits.count < 10_000, let slot = lru.next(&cursor) {
            visits.append(slot)
            if slot != 3 { lru.touch(slot, .normal) }
        }
        #expect(visits.count < 1000 && visits.last == 3)
        lru.end(cursor)
    }

    @Test func theNameOfADestroyedBulkMoveIsNotThatOfTheNext() throws {
        let fixture = try EngineFixture(poolPages: 64)
        let object = try fixture.makeObject(pages: 2)
        let old = try fixture.engine.createBulkMove()
        fixture.engine.destroyBulkMove(old)
        let new = try fixture.engine.createBulkMove()
        #expect(old != new)
        #expect(throws: EngineError.self) { try fixture.engine.setBulkMove(old, of: object.id) }
        fixture.engine.destroyBulkMove(old)
        try fixture.engine.setBulkMove(new, of: object.id)
    }
}
