import ShrinkEngine
import ShrinkLinux
import Synchronization
import SystemPackage
import TestSupport
import Testing

/// Named after the kernel's tests of `ttm_bo_reserve` where there is one (reference §3).
@Suite struct ReservationTests {
    /// Runs `body` while another thread has the object reserved; `letGo` makes that thread let go.
    private func whileHeld(_ engine: Engine, _ ids: [ObjectID], _ body: (_ letGo: () -> Void) throws -> Void) throws {
        let phase = Monitor(0)
        try withDedicatedThreads { threads in
            threads.start("holder") {
                _ = engine.withReserved(ids) {
                    phase.withLock { $0 = 1 }
                    phase.notifyAll()
                    phase.wait { $0 == 2 ? () : nil }
                }
            }
            phase.wait { $0 == 1 ? () : nil }
            let letGo = {
                phase.withLock { $0 = 2 }
                phase.notifyAll()
            }
            defer { letGo() }
            try body(letGo)
        }
    }

    @Test func reserve_optimistic_no_ticket() throws {
        let fixture = try EngineFixture(poolPages: 64)
        let engine = fixture.engine
        let object = try fixture.makeObject(pages: 4)
        for _ in 0..<3 {
            var visits = 0
            let end = engine.forEachReserved { view in
                visits += view.id == object.id ? 1 : 0
                return .next
            }
            #expect(end == .finished(busy: 0) && visits == 1)
        }
    }

    @Test func reserve_locked_no_sleep() throws {
        let fixture = try EngineFixture(poolPages: 64)
        let engine = fixture.engine
        let object = try fixture.makeObject(pages: 4)
        try whileHeld(engine, [object.id]) { _ in
            #expect(engine.forEachReserved { _ in .next } == .finished(busy: 1))
            // A wish for bytes never waits.
            let result = engine.shrink(.bytes(.mebibytes(1)))
            #expect(result.freedBytes == .zero && result.skippedObjects == 1 && result.failure == nil)
        }
    }

    @Test func reserve_double_resv() throws {
        let fixture = try EngineFixture(poolPages: 64)
        let engine = fixture.engine
        let object = try fixture.makeObject(pages: 4)
        // The same object twice under one ticket: known to be held, neither waited for nor released twice.
        guard case .done(7) = engine.withReserved([object.id, object.id], { 7 }) else { return #expect(Bool(false)) }
        #expect(engine.shrink(.all).freedBytes == ByteCount(4 * basePageSize))
    }

    @Test func reserve_interrupted() throws {
        let fixture = try EngineFixture(poolPages: 64)
        let engine = fixture.engine
        let object = try fixture.makeObject(pages: 4)
        try whileHeld(engine, [object.id]) { _ in
            let cancellation = Cancellation()
            let codes = Monitor<[EngineError.Code]>([])
            let ends = Monitor(0)
            try withDedicatedThreads { threads in
                threads.start("pin") {
                    do { try engine.pin(object.id, cancellation: cancellation) } catch {
                        if let code = (error as? EngineError)?.code { codes.withLock { $0.append(code) } }
                    }
                }
                threads.start("recover") {
                    let failure = engine.recover(.object(object.id), cancellation: cancellation).failure
                    codes.withLock { if let failure { $0.append(failure.code) } }
                }
                threads.start("walk") {
                    let end = engine.forEachReserved(waitingOnce: true, cancellation: cancellation) { _ in .next }
                    ends.withLock { $0 += end == .interrupted ? 1 : 0 }
                }
                threads.start("many") {
                    if case .interrupted = engine.withReserved([object.id], cancellation: cancellation, {}) {
                        ends.withLock { $0 += 1 }
                    }
                }
                cancellation.cancel()
            }
            #expect(codes.withLock { $0 } == [.interrupted, .interrupted])
            #expect(ends.withLock { $0 } == 2)
        }
        #expect(try engine.object(object.id).pinCount == 0)
    }

    /// Two that want the same objects in opposite order: one has to let go, both get through, again and again.
    @Test func reserve_deadlock() throws {
        let fixture = try EngineFixture(poolPages: 64)
        let engine = fixture.engine
        let objects = try (0..<6).map { _ in try fixture.makeObject(pages: 2).id }
        let seed = testSeed("deadlock")
        let inside = Monitor<Set<ObjectID>>([])
        let clashes = Atomic(0)
        let done = Atomic(0)
        try withDedicatedThreads { threads in
            for worker in 0..<4 {
                threads.start("worker-\(worker)") {
                    var generator = SeededGenerator(seed: seed &+ UInt64(worker))
                    for _ in 0..<300 {
                        let wanted = Array(objects.shuffled(using: &generator).prefix(4))
                        let outcome = engine.withReserved(wanted) {
                            let isAlone = inside.withLock { inside in
                                defer { inside.formUnion(wanted) }
                                return inside.isDisjoint(with: wanted)
                            }
                            if !isAlone { clashes.add(1, ordering: .relaxed) }
                            inside.withLock { $0.subtract(wanted) }
                        }
                        if case .done = outcome { done.add(1, ordering: .relaxed) }
                    }
                }
            }
        }
        #expect(clashes.load(ordering: .relaxed) == 0 && done.load(ordering: .relaxed) == 1200, "seed \(seed)")
    }

    @Test func aLoopThatThrowsOrStopsLeavesNothingReserved() throws {
        struct Stop: Error {}
        let fixture = try EngineFixture(poolPages: 64)
        let engine = fixture.engine
        for _ in 0..<8 { _ = try fixture.makeObject(pages: 2, zeroEvery: 0) }
        for _ in 0..<200 {
            #expect(throws: Stop.self) { _ = try engine.forEachReserved { _ throws(Stop) -> WalkStep in throw Stop() } }
            #expect(engine.forEachReserved { _ in .stop } == .stopped)
        }
        // 64 cursors would be used up by now, and a leaked reservation would be skipped.
        #expect(engine.shrink(.all).freedBytes == ByteCount(16 * basePageSize))
    }

    @Test func evictionWaitsForBusyObjectsUntilNothingIsLeft() throws {
        let fixture = try EngineFixture(poolPages: 256)
        let engine = fixture.engine
        let objects = try (0..<8).map { _ in try fixture.makeObject(pages: 8, zeroEvery: 0) }
        let pinned = objects[7].id
        let pool = fixture.pool
        try engine.pin(pinned)
        try whileHeld(engine, [objects[1].id, objects[4].id]) { letGo in
            let result = Monitor(ShrinkResult())
            try withDedicatedThreads { threads in
                threads.start("evict") {
                    let evicted = engine.evict()
                    result.withLock { $0 = evicted }
                }
                // Everything free goes at once, then it stands before the held ones.
                while (try? engine.pool(pool).pages.backedUp) != 40 {}
                letGo()
            }
            #expect(result.withLock { $0.backedUpPages } == 56)
        }
        #expect(try engine.object(pinned).pages.resident == 8)
    }

    /// Between two runs, not only between two objects.
    @Test func evictionStopsInTheMiddleOfAnObject() throws {
        let cancellation = Cancellation()
        let fixture = try EngineFixture(poolPages: 2048) { configuration in
            configuration.faults = { point, _, page in
                if point == .beforeCopyOut, page.rawValue == EngineLimits.runPages { cancellation.cancel() }
                return nil
            }
        }
        let object = try fixture.makeObject(pages: 4 * EngineLimits.runPages, zeroEvery: 0)
        #expect(fixture.engine.evict(cancellation: cancellation).failure?.code == .interrupted)
        #expect(try fixture.engine.object(object.id).pages.backedUp == 2 * EngineLimits.runPages)
        #expect(fixture.engine.evict().backedUpPages == 2 * EngineLimits.runPages)
        #expect(try fixture.mismatches(object, zeroEvery: 0) == [])
    }

    @Test func evictionHonoursItsGoal() throws {
        let fixture = try EngineFixture(poolPages: 256)
        let engine = fixture.engine
        for _ in 0..<8 { _ = try fixture.makeObject(pages: 8, zeroEvery: 0) }
        #expect(engine.evict(goalPages: 20).freedBytes == ByteCount(20 * basePageSize))
    }

    /// The kernel's zombie: dead content is freed, never copied.
    @Test func anObjectThatIsBeingDestroyedIsPurgedNotBackedUp() throws {
        let fixture = try EngineFixture(poolPages: 256)
        let engine = fixture.engine
        let object = try fixture.makeObject(pages: 16, zeroEvery: 0)
        let result = Monitor(ShrinkResult())
        try withDedicatedThreads { threads in
            let phase = Monitor(0)
            _ = engine.forEachReserved { view in
                threads.start("destroy") {
                    phase.withLock { $0 = 1 }
                    phase.notifyAll()
                    try? engine.destroyObject(object.id)
                }
                phase.wait { $0 == 1 ? () : nil }
                // From the moment it is ending, others do not see it any more.
                while (try? engine.setPurgeable(object.id, false, cancellation: cancelled)) != nil {}
                while (try? engine.pinCount(object.id)) != nil {}
                let shrunk = view.shrink()
                result.withLock { $0 = shrunk }
                return .next
            }
        }
        #expect(result.withLock { $0.backedUpPages } == 0)
        #expect(result.withLock { $0.purgedPages } == 16)
        #expect(throws: EngineError.self) { _ = try engine.object(object.id) }
        #expect(try engine.pool(fixture.pool).allocatedBytes == .zero)
        #expect(fixture.backup.status().storedBytes == 0)
    }

    private let cancelled: Cancellation = {
        let cancellation = Cancellation()
        cancellation.cancel()
        return cancellation
    }()
}

extension Engine {
    fileprivate func pinCount(_ id: ObjectID) throws -> Int { try object(id).pinCount }
}
