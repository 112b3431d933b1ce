import ShrinkEngine
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// What a caller of shrink and recover may ask for, and do meanwhile.
@Suite struct ShrinkCallTests {
    @Test func theLargestGoalIsOneLikeAnother() throws {
        let fixture = try EngineFixture(poolPages: 64)
        _ = try fixture.makeObject(pages: 2, zeroEvery: 0)
        #expect(fixture.engine.shrink(.bytes(ByteCount(.max))).freedBytes == ByteCount(2 * basePageSize))
        #expect(fixture.engine.recover(.bytes(ByteCount(.max))).recoveredPages == 2)
    }

    /// Two threads copy; one reports while the other takes its next object. A report that asks the engine waits for neither's locks.
    @Test func aProgressReportMayAskTheEngine() throws {
        let fixture = try EngineFixture(poolPages: 4096)
        let engine = fixture.engine
        let pool = fixture.pool
        for _ in 0..<400 { _ = try fixture.makeObject(pages: 8, zeroEvery: 0) }
        let isDone = Monitor(false)
        let thread = try DedicatedThread("shrink") {
            for _ in 0..<10 {
                _ = engine.shrink(.all) { _ in
                    for _ in 0..<10 { _ = try? engine.pool(pool) }
                    return .proceed
                }
                _ = engine.recover(.all) { _ in (try? engine.pool(pool)) == nil ? .stop : .proceed }
            }
            isDone.withLock { $0 = true }
            isDone.notifyAll()
        }
        let ended = isDone.wait(deadline: .now().advanced(milliseconds: 120_000)) { $0 ? true : nil }
        #expect(ended == true, "the copying threads wait for each other")
        if ended == true { thread.join() }
    }
}
