import Glibc
import ShrinkEngine
import ShrinkLinux
import Synchronization
import SystemPackage
import TestSupport
import Testing

@Suite struct RoomTests {
    /// Pools together may be larger than the limit; what comes back pushes the longest unused out.
    @Test func recoverShrinksOthersToStayBelowTheLimit() throws {
        let fixture = try EngineFixture(poolPages: 4096) { $0.maximumResident = ByteCount(600 * basePageSize) }
        let engine = fixture.engine
        let objects = try (0..<6).map { _ in try fixture.makeObject(pages: 200, zeroEvery: 0) }
        #expect(try engine.pool(fixture.pool).allocatedBytes.rawValue <= 600 * basePageSize)
        for object in objects {
            try engine.pin(object.id)
            for page in 0..<200 {
                #expect(fixture.bytes(object, page).elementsEqual(fixture.pattern.page(Int(object.id.rawValue) << 20 | page, zeroEvery: 0)))
            }
            #expect(try engine.pool(fixture.pool).allocatedBytes.rawValue <= 600 * basePageSize)
            try engine.unpin(object.id)
        }
    }

    @Test func whatDoesNotFitIsRefusedAndNothingChanges() throws {
        let fixture = try EngineFixture(poolPages: 4096) { $0.maximumResident = ByteCount(400 * basePageSize) }
        let engine = fixture.engine
        let out = try fixture.makeObject(pages: 300, zeroEvery: 0)
        _ = engine.shrink(.all)
        let held = try fixture.makeObject(pages: 350, zeroEvery: 0)
        try engine.pin(held.id)
        let before = try engine.object(out.id).pages
        do {
            try engine.pin(out.id)
            #expect(Bool(false), "350 and 300 pages are within 400")
        } catch { #expect(error.code == .outOfMemory) }
        #expect(try engine.object(out.id).pages == before && before.backedUp == 300)
        do {
            _ = try engine.createObject(in: fixture.pool, name: "too large", size: ByteCount(500 * basePageSize))
            #expect(Bool(false), "an object larger than the limit was made")
        } catch { #expect(error.code == .outOfMemory) }
        try engine.unpin(held.id)
        try engine.pin(out.id)
        #expect(try fixture.mismatches(held, zeroEvery: 0) == [])
    }

    /// A limit of a version 2 ancestor, in a tree of files: recover is refused while it is met, and goes on when it is lifted.
    @Test func theLimitOfAnAncestorCountsInVersionTwo() throws {
        let tree = try ScratchDirectory()
        func write(_ path: String, _ text: String) throws {
            try Files.replaceContents(of: tree.file(path), with: Array((text + "\n").utf8))
        }
        try Files.makeDirectories(tree.file("cgroup/slice/service"))
        try write("membership", "0::/slice/service")
        for group in ["slice", "slice/service"] {
            try write("cgroup/\(group)/memory.current", "\(100 << 20)")
            try write("cgroup/\(group)/memory.stat", "inactive_file 0")
        }
        try write("cgroup/slice/service/memory.max", "max")
        try write("cgroup/slice/memory.max", "\((104 << 20) + (128 << 10))")
        let group = try #require(MemoryCgroup.ofThisProcess(mount: tree.file("cgroup"), membership: tree.file("membership")))
        let fixture = try EngineFixture(poolPages: 4096) { $0.cgroup = group }
        let engine = fixture.engine
        // 4 MiB of what is left are kept back: 128 KiB may come, less than comes at once.
        let object = try fixture.makeObject(pages: 300, zeroEvery: 0)
        _ = engine.shrink(.all)
        do {
            try engine.pin(object.id)
            #expect(Bool(false), "300 pages came into 32 pages of room")
        } catch {
            #expect(error.code == .outOfMemory && "\(error)".contains("cgroup"), "\(error)")
        }
        try write("cgroup/slice/memory.max", "\(200 << 20)")
        try engine.pin(object.id)
        #expect(try fixture.mismatches(object, zeroEvery: 0) == [])
    }

    @Test func aRangeComesBackAloneAndTheRestAhead() throws {
        let fixture = try EngineFixture(poolPages: 2048)
        let engine = fixture.engine
        let object = try fixture.makeObject(pages: 1000, zeroEvery: 0)
        _ = engine.shrink(.all)
        let part = PageIndex(rawValue: 300)..<PageIndex(rawValue: 420)
        #expect(engine.recover(object.id, pages: part).recoveredPages == 120)
        var pages = try engine.object(object.id).pages
        #expect(pages.resident == 120 && pages.backedUp == 880)
        #expect(try fixture.mismatches(object, zeroEvery: 0) == [])
        #expect(engine.recover(object.id, pages: PageIndex(rawValue: 0)..<PageIndex(rawValue: 10), ahead: true).recoveredPages == 10)
        engine.waitForRecoverAhead()
        pages = try engine.object(object.id).pages
        #expect(pages.backedUp == 0)
        #expect(try fixture.mismatches(object, zeroEvery: 0) == [])
        #expect(engine.recover(object.id, pages: PageIndex(rawValue: 900)..<PageIndex(rawValue: 1001)).failure?.code == .invalidSize)
    }

    /// Of two recovers that have room together, neither is refused because the other's run, in the pool already, still counts as on its way.
    @Test(arguments: [FaultPoint.afterCopyIn, .beforeDrop]) func aRunThatCameInCountsOnce(at point: FaultPoint) throws {
        // What comes at once.
        let pages = EngineLimits.runPages / 4
        let phase = Monitor(0)
        let first = Monitor<ObjectID?>(nil)
        let fixture = try EngineFixture(poolPages: 4096) { configuration in
            configuration.maximumResident = ByteCount(2 * pages * basePageSize)
            configuration.copyWorkers = 1
            configuration.faults = { reached, id, _ in
                guard reached == point, id == first.withLock({ $0 }), phase.withLock({ $0 == 0 }) else { return nil }
                phase.withLock { $0 = 1 }
                phase.notifyAll()
                phase.wait { $0 == 2 ? () : nil }
                return nil
            }
        }
        let engine = fixture.engine
        let objects = try (0..<2).map { _ in
            let object = try fixture.makeObject(pages: pages, zeroEvery: 0)
            #expect(engine.shrink(.object(object.id)).failure == nil)
            return object
        }
        first.withLock { $0 = objects[0].id }
        let failure = Monitor<EngineError?>(nil)
        try withDedicatedThreads { threads in
            threads.start("first") {
                let result = engine.recover(.object(objects[0].id))
                failure.withLock { $0 = result.failure }
            }
            phase.wait { $0 == 1 ? () : nil }
            #expect(engine.recover(.object(objects[1].id)).failure == nil)
            phase.withLock { $0 = 2 }
            phase.notifyAll()
        }
        #expect(failure.withLock { $0 } == nil)
        for object in objects { #expect(try fixture.mismatches(object, zeroEvery: 0) == []) }
        #expect(try engine.pool(fixture.pool).allocatedBytes.rawValue == 2 * pages * basePageSize)
    }

    /// Stopped at every run in turn, then asked again: everything comes back, once.
    @Test func recoverGoesOnWhereItWasStopped() throws {
        let runs = Atomic(0)
        let stopAt = Atomic(Int.max)
        let fixture = try EngineFixture(poolPages: 4096) { configuration in
            configuration.copyWorkers = 1
            configuration.faults = { point, _, _ in
                guard point == .cancel, runs.add(1, ordering: .relaxed).newValue >= stopAt.load(ordering: .relaxed) else { return nil }
                return EngineError(.interrupted, "stopped")
            }
        }
        let object = try fixture.makeObject(pages: 1500, zeroEvery: 7)
        _ = fixture.engine.shrink(.all)
        let total = try fixture.engine.object(object.id).pages.backedUp
        var recovered = 0
        var rounds = 0
        while true {
            runs.store(0, ordering: .relaxed)
            stopAt.store(2, ordering: .relaxed)
            let result = fixture.engine.recover(.object(object.id))
            recovered += result.recoveredPages
            rounds += 1
            #expect(try fixture.engine.object(object.id).pages.backedUp == total - recovered)
            if result.failure == nil { break }
            #expect(result.failure?.code == .interrupted)
            #expect(rounds < 2000)
        }
        #expect(rounds > 3)
        #expect(recovered == total)
        #expect(try fixture.mismatches(object, zeroEvery: 7) == [])
        #expect(fixture.backup.status().storedBytes == 0)
    }

    /// Destroyed in the middle of a recover: nothing stays behind in pool or store.
    @Test func destroyingDuringARecoverLeaksNothing() throws {
        let reached = Monitor(false)
        let isArmed = Atomic(false)
        let running = Monitor<Engine?>(nil)
        let fixture = try EngineFixture(poolPages: 4096) { configuration in
            configuration.faults = { point, id, page in
                if point == .afterCopyIn, isArmed.load(ordering: .relaxed), page.rawValue == 256 {
                    reached.withLock { $0 = true }
                    reached.notifyAll()
                    // Here until its end has begun, or the recover might be done first.
                    let engine = running.withLock { $0 }
                    let deadline = MonotonicTime.now().advanced(milliseconds: 30_000)
                    while MonotonicTime.now() < deadline, (try? engine?.object(id)) != nil { sched_yield() }
                }
                return nil
            }
        }
        let engine = fixture.engine
        running.withLock { $0 = engine }
        defer { running.withLock { $0 = nil } }
        let object = try fixture.makeObject(pages: 3000, zeroEvery: 0)
        _ = engine.shrink(.all)
        isArmed.store(true, ordering: .relaxed)
        let code = Monitor<EngineError.Code?>(nil)
        try withDedicatedThreads { threads in
            threads.start("pin") {
                do { try engine.pin(object.id) } catch { code.withLock { $0 = (error as? EngineError)?.code } }
            }
            reached.wait { $0 ? () : nil }
            try engine.destroyObject(object.id)
        }
        #expect(code.withLock { $0 } == .noSuchObject)
        _ = engine.shrink(.all)
        #expect(try engine.pool(fixture.pool).allocatedBytes == .zero)
        #expect(try fixture.backup.objects() == [] && fixture.backup.status().storedBytes == 0)
        #expect(try engine.pool(fixture.pool).pages == PageCounts())
    }

    /// A client that is gone: its pin stops at the next run, and what came back is kept.
    @Test func aCancelledPinStopsAndKeepsWhatCameBack() throws {
        let cancellation = Cancellation()
        let fixture = try EngineFixture(poolPages: 4096) { configuration in
            configuration.faults = { point, _, page in
                if point == .afterCopyIn, page.rawValue == 512 { cancellation.cancel() }
                return nil
            }
        }
        let object = try fixture.makeObject(pages: 2000, zeroEvery: 0)
        _ = fixture.engine.shrink(.all)
        do {
            try fixture.engine.pin(object.id, cancellation: cancellation)
            #expect(Bool(false), "a cancelled pin pinned")
        } catch { #expect(error.code == .interrupted) }
        let info = try fixture.engine.object(object.id)
        #expect(info.pinCount == 0 && info.pages.backedUp == 2000 - 512 - EngineLimits.runPages / 4)
        try fixture.engine.pin(object.id)
        #expect(try fixture.mismatches(object, zeroEvery: 0) == [])
    }
}
