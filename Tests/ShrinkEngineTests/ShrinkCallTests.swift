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

    /// A client that is gone is not waited for, also where others have all the buffers.
    @Test func whoIsCancelledDoesNotWaitForABuffer() throws {
        let fixture = try EngineFixture(poolPages: 64) { $0.concurrentOperations = 1 }
        let engine = fixture.engine
        let object = try fixture.makeObject(pages: 2, zeroEvery: 0).id
        _ = try fixture.makeObject(pages: 2, zeroEvery: 0)
        _ = engine.shrink(.object(object))
        let cancellation = Cancellation()
        let ended = Monitor<[EngineError.Code?]>([])
        try withDedicatedThreads { threads in
            // The loop's thread has the only buffer.
            _ = engine.forEachReserved { _ in
                let part = PageIndex(rawValue: 0)..<PageIndex(rawValue: 1)
                let calls: [@Sendable () -> EngineError.Code?] = [
                    { engine.recover(.all, cancellation: cancellation).failure?.code },
                    { engine.recover(object, pages: part, cancellation: cancellation).failure?.code },
                    { engine.shrink(.all, cancellation: cancellation).failure?.code },
                    { engine.shrink(.object(object), cancellation: cancellation).failure?.code },
                    { engine.forEachReserved(cancellation: cancellation) { _ in .next } == .interrupted ? .interrupted : nil },
                ]
                for (index, call) in calls.enumerated() {
                    threads.start("caller-\(index)") {
                        let code = call()
                        ended.withLock { $0.append(code) }
                        ended.notifyAll()
                    }
                }
                cancellation.cancel()
                let codes = ended.wait(deadline: .now().advanced(milliseconds: 60_000)) { $0.count == calls.count ? $0 : nil }
                #expect(codes == [EngineError.Code?](repeating: .interrupted, count: calls.count))
                return .stop
            }
        }
        #expect(engine.recover(.all).recoveredPages == 2)
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
