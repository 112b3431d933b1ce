import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@testable import ShrinkEngine

/// What clients that are strangers cost: calls on the pool's own thread, each of which switches threads twice. They are made for whole runs, however the
/// pages of zeros lie between the others.
@Suite struct PoolThreadTests {
    private func calls(_ fixture: EngineFixture) throws -> UInt64 {
        let file = try fixture.engine.state.withLock { state throws(EngineError) in try state.pool(fixture.pool).file }
        return try #require(file.callCount)
    }

    @Test func recoverMakesOneCallForEachRun() throws {
        let fixture = try EngineFixture(configure: { $0.clientsAreStrangers = true })
        // Every second page zero: 512 stretches in four runs of 1 MiB.
        let object = try fixture.makeObject(pages: 1024, zeroEvery: 2)
        #expect(fixture.engine.shrink(.object(object.id)).failure == nil)
        let before = try calls(fixture)
        let result = fixture.engine.recover(.object(object.id))
        #expect(result.failure == nil && result.recoveredPages > 400)
        let made = try calls(fixture) - before
        #expect(made >= 4 && made <= 20, "\(made) calls")
        #expect(try fixture.mismatches(object, zeroEvery: 2) == [])
    }
}
