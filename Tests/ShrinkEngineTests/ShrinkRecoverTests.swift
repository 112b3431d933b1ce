import ShrinkEngine
import ShrinkLinux
import Synchronization
import SystemPackage
import TestSupport
import Testing

@Suite struct ShrinkRecoverTests {
    @Test(arguments: [64 << 20, nil]) func pagesGoOutAndComeBackAsTheyWere(_ storeBytes: Int?) throws {
        let fixture = try EngineFixture(storeBytes: storeBytes, seed: testSeed("round trip"))
        // Lengths around the run length, and one of a single page.
        let objects = try [1, 255, 256, 257, 1000].map { try fixture.makeObject(pages: $0) }
        let total = objects.reduce(0) { $0 + $1.pageCount }
        let zeros = objects.reduce(0) { $0 + fixture.zeroPages($1) }

        let shrunk = fixture.engine.shrink(.all)
        #expect(shrunk.failure == nil)
        #expect(shrunk.scannedPages == total)
        #expect(shrunk.zeroPages == zeros)
        #expect(shrunk.backedUpPages == total - zeros)
        #expect(shrunk.freedBytes == ByteCount(total * basePageSize))
        #expect(shrunk.storedBytes.rawValue >= (total - zeros) * basePageSize)
        let pool = try fixture.engine.pool(fixture.pool)
        #expect(pool.allocatedBytes == .zero)
        #expect(pool.pages == PageCounts(resident: 0, zero: zeros, backedUp: total - zeros, empty: 0))
        for object in objects { #expect(try fixture.mismatches(object) == []) }

        let recovered = fixture.engine.recover(.all)
        #expect(recovered.failure == nil)
        #expect(recovered.recoveredPages == total - zeros)
        for object in objects {
            #expect(try fixture.mismatches(object) == [])
            #expect(try fixture.engine.object(object.id).pages.backedUp == 0)
        }
        // Recovering drops: nothing is stored twice.
        #expect(fixture.backup.status().storedBytes == 0)
    }

    /// Of a store in memory less than a run is in both places at once, at any moment of a recover by three threads.
    @Test func recoverTakesLessThanARunOfMemory() throws {
        let most = Monitor(0)
        let look = Monitor<@Sendable () -> Int>({ 0 })
        let fixture = try EngineFixture { configuration in
            configuration.faults = { point, _, _ in
                guard point == .beforeDrop || point == .afterCopyIn else { return nil }
                // One looks at a time: the others go on to their next point here, a quarter of a run away, and wait.
                let body = look.withLock { $0 }
                most.withLock { $0 = max($0, body()) }
                return nil
            }
        }
        let objects = try (0..<4).map { _ in try fixture.makeObject(pages: 1024, zeroEvery: 0) }
        #expect(fixture.engine.shrink(.all).backedUpPages == 4096)
        let (engine, pool, backup) = (fixture.engine, fixture.pool, fixture.backup)
        look.withLock {
            $0 = {
                // The store first: what is dropped between the two looks is in neither.
                let stored = Int(backup.status().storedBytes ?? 0)
                return (stored + ((try? engine.pool(pool).allocatedBytes.rawValue) ?? 0)) / basePageSize - 4096
            }
        }
        #expect(engine.recover(.object(objects[0].id)).recoveredPages == 1024)
        let one = most.withLock { $0 }
        #expect((1...EngineLimits.runPages / 4).contains(one), "\(one) pages in both places")
        #expect(engine.recover(.all).recoveredPages == 3 * 1024)
        let all = most.withLock { $0 }
        // Three quarters; and between the two looks each of the others may have brought one in.
        #expect(all <= EngineLimits.runPages * 5 / 4, "\(all) pages in both places")
        look.withLock { $0 = { 0 } }
        for object in objects { #expect(try fixture.mismatches(object, zeroEvery: 0) == []) }
    }

    /// Where a file server drops, what is back is dropped run by run; two runs together only where memory is plenty.
    @Test func recoveredRunsAreDroppedOneByOne() throws {
        let dropped = Atomic(0)
        var configuration = Engine.Configuration()
        configuration.copyWorkers = 1
        configuration.faults = { point, _, _ in
            if point == .beforeDrop { dropped.add(1, ordering: .relaxed) }
            return nil
        }
        let engine = try Engine(backup: MemoryBackup(), configuration: configuration, logger: quiet)
        let pool = try engine.createPool(name: "p", owner: 0, size: .mebibytes(4)).id
        _ = try engine.makeFilledObject(in: pool, pages: 1024)
        #expect(engine.shrink(.all).backedUpPages == 1024)
        #expect(engine.recover(.all).recoveredPages == 1024)
        let count = dropped.load(ordering: .relaxed)
        #expect(count == 4)
    }

    @Test func lookingChangesNoState() throws {
        let fixture = try EngineFixture()
        let object = try fixture.makeObject(pages: 300)
        _ = fixture.engine.shrink(.object(object.id))
        let before = try fixture.engine.object(object.id).pages
        #expect(try fixture.mismatches(object) == [])
        #expect(try fixture.engine.object(object.id).pages == before)
        #expect(try fixture.engine.pool(fixture.pool).allocatedBytes == .zero)
    }

    @Test func aNewObjectReadsAsZerosAlsoFromARecycledBlock() throws {
        let fixture = try EngineFixture(poolPages: 512)
        let dirty = try fixture.makeObject(pages: 512, zeroEvery: 0)
        try fixture.engine.destroyObject(dirty.id)
        #expect(try fixture.engine.pool(fixture.pool).allocatedBytes.rawValue == 512 * basePageSize, "the freed range stays ready")
        let fresh = try fixture.engine.createObject(in: fixture.pool, name: "fresh", size: ByteCount(512 * basePageSize))
        #expect(fresh.offsetBytes == dirty.offsetBytes)
        for page in 0..<512 { #expect(fixture.bytes(fresh, page).allSatisfy { $0 == 0 }) }
    }

    @Test func readyBlocksGoBeforeObjects() throws {
        let fixture = try EngineFixture(poolPages: 512)
        let gone = try fixture.makeObject(pages: 256, zeroEvery: 0)
        let kept = try fixture.makeObject(pages: 256, zeroEvery: 0)
        try fixture.engine.destroyObject(gone.id)
        let result = fixture.engine.shrink(.bytes(.mebibytes(1)))
        #expect(result.freedBytes == .mebibytes(1))
        #expect(result.backedUpPages == 0)
        #expect(try fixture.engine.object(kept.id).pages.resident == 256)
    }

    @Test func aFullBackupKeepsWhatWentOutAndLosesNothing() throws {
        // Room for about 500 pages, objects of 2000.
        let fixture = try EngineFixture(storeBytes: 2 << 20, seed: testSeed("full backup"))
        let object = try fixture.makeObject(pages: 2000, zeroEvery: 0)
        let result = fixture.engine.shrink(.object(object.id))
        #expect(result.failure?.code == .backupFull)
        let pages = try fixture.engine.object(object.id).pages
        #expect(pages.backedUp > 0 && pages.backedUp < 520)
        #expect(pages.backedUp == result.backedUpPages)
        #expect(pages.resident == 2000 - pages.backedUp)
        #expect(try fixture.mismatches(object, zeroEvery: 0) == [])
        // Every page before the first resident one is backed up, every page from it on is resident.
        let file = try Files.open("\(fixture.backup.path)/objects/\(object.id.rawValue)/data", .readOnly)
        #expect(try Files.nextHole(file.number, from: 0) == pages.backedUp * basePageSize)
        #expect(fixture.engine.recover(.all).failure == nil)
        #expect(try fixture.mismatches(object, zeroEvery: 0) == [])
    }

    @Test func aByteGoalFreesTheLongestUnusedFirstAndNotMore() throws {
        let fixture = try EngineFixture(configure: { $0.copyWorkers = 1 })
        let objects = try (0..<8).map { _ in try fixture.makeObject(pages: 256, zeroEvery: 0) }
        // The first is used again, so the second is now the longest unused.
        try fixture.engine.pin(objects[0].id)
        try fixture.engine.unpin(objects[0].id)
        let result = fixture.engine.shrink(.bytes(.mebibytes(2)))
        #expect(result.freedBytes == .mebibytes(2))
        #expect(try objects.map { try fixture.engine.object($0.id).pages.backedUp } == [0, 256, 256, 0, 0, 0, 0, 0])
    }

    /// Two threads share the goal: what the first claims for an object that turns out empty must not be lost to the second.
    @Test func aGoalIsReachedThoughSomeObjectsHaveLess() throws {
        for _ in 0..<20 {
            let fixture = try EngineFixture()
            for _ in 0..<3 {
                let empty = try fixture.engine.createObject(in: fixture.pool, name: "untouched", size: ByteCount(30 * basePageSize))
                try fixture.engine.unpin(empty.id)
            }
            _ = try fixture.makeObject(pages: 200, zeroEvery: 0)
            let result = fixture.engine.shrink(.bytes(ByteCount(100 * basePageSize)))
            #expect(result.freedBytes == ByteCount(100 * basePageSize))
        }
    }

    @Test func lowerPrioritiesGoFirst() throws {
        let fixture = try EngineFixture(configure: { $0.copyWorkers = 1 })
        let high = try fixture.makeObject(pages: 16, priority: .high, zeroEvery: 0)
        let low = try fixture.makeObject(pages: 16, priority: .lowest, zeroEvery: 0)
        _ = fixture.engine.shrink(.bytes(ByteCount(16 * basePageSize)))
        #expect(try fixture.engine.object(low.id).pages.backedUp == 16)
        #expect(try fixture.engine.object(high.id).pages.backedUp == 0)
    }

    @Test func pinnedObjectsStayAndAPinBringsPagesBack() throws {
        let fixture = try EngineFixture()
        let object = try fixture.makeObject(pages: 64)
        _ = fixture.engine.shrink(.all)
        try fixture.engine.pin(object.id)
        for page in 0..<64 {
            #expect(fixture.bytes(object, page).elementsEqual(fixture.pattern.page(Int(object.id.rawValue) << 20 | page)))
        }
        #expect(fixture.engine.shrink(.object(object.id)).failure?.code == .busy)
        #expect(fixture.engine.shrink(.all).skippedObjects == 1)
        #expect(throws: EngineError.self) { try fixture.engine.destroyObject(object.id) }
        #expect(throws: EngineError.self) { try fixture.engine.destroyPool(fixture.pool) }
        try fixture.engine.unpin(object.id)
        #expect(throws: EngineError.self) { try fixture.engine.unpin(object.id) }
        #expect(fixture.engine.shrink(.all).backedUpPages > 0)
        try fixture.engine.destroyPool(fixture.pool)
        #expect(try fixture.backup.objects() == [])
    }

    @Test func apartlyBackedUpObjectIsShrunkFurther() throws {
        let fixture = try EngineFixture()
        let object = try fixture.makeObject(pages: 1024, zeroEvery: 0)
        _ = fixture.engine.shrink(.bytes(.mebibytes(1)))
        #expect(try fixture.engine.object(object.id).pages.backedUp == 256)
        _ = fixture.engine.shrink(.bytes(.mebibytes(1)))
        #expect(try fixture.engine.object(object.id).pages.backedUp == 512)
        #expect(try fixture.mismatches(object, zeroEvery: 0) == [])
    }

    @Test func whatAClientWritesToABackedUpPageLosesToTheBackup() throws {
        let fixture = try EngineFixture()
        let object = try fixture.makeObject(pages: 32, zeroEvery: 0)
        _ = fixture.engine.shrink(.all)
        fixture.bytes(object, 7)[0] ^= 0xff
        // Recovered first: the object is off the list, as nothing of it should be resident.
        let again = fixture.engine.shrink(.object(object.id))
        #expect(again.backedUpPages == 0)
        #expect(fixture.engine.status().strayPages == 1)
        #expect(fixture.engine.recover(.all).failure == nil)
        #expect(try fixture.mismatches(object, zeroEvery: 0) == [])
    }

    @Test func aPageThatTheBackupLostIsAnErrorAndNeverZeros() throws {
        let fixture = try EngineFixture()
        let object = try fixture.makeObject(pages: 600, zeroEvery: 0)
        _ = fixture.engine.shrink(.all)
        let file = try Files.open("\(fixture.backup.path)/objects/\(object.id.rawValue)/data", .readWrite)
        try Files.punch(file.number, at: 300 * basePageSize, length: basePageSize)
        let result = fixture.engine.recover(.all)
        #expect(result.failedPages == 1)
        #expect(result.recoveredPages == 599)
        #expect(result.failure?.code == .damaged)
        var page = [UInt8](repeating: 1, count: basePageSize)
        #expect(throws: EngineError.self) {
            _ = try page.withUnsafeMutableBytes { try fixture.engine.read(object.id, at: ByteCount(300 * basePageSize), into: $0) }
        }
        #expect(throws: EngineError.self) { try fixture.engine.pin(object.id) }
        #expect(try fixture.engine.object(object.id).pages.backedUp == 1)
        // The others are whole.
        for index in [0, 299, 301, 599] {
            #expect(fixture.bytes(object, index).elementsEqual(fixture.pattern.page(Int(object.id.rawValue) << 20 | index, zeroEvery: 0)))
        }
    }

    @Test func recoverLeavesTheFloorAlone() throws {
        let fixture = try EngineFixture(configure: { $0.memoryFloor = ByteCount(1 << 50) })
        let object = try fixture.makeObject(pages: 16)
        _ = fixture.engine.shrink(.all)
        let before = try fixture.engine.object(object.id).pages
        #expect(fixture.engine.recover(.all).failure?.code == .outOfMemory)
        #expect(throws: EngineError.self) { try fixture.engine.pin(object.id) }
        #expect(try fixture.engine.object(object.id).pages == before)
    }

    @Test func progressCanStopAndNothingIsLost() throws {
        let fixture = try EngineFixture(poolPages: 4096, configure: { $0.copyWorkers = 1 })
        let object = try fixture.makeObject(pages: 2048, zeroEvery: 0)
        let shrunk = fixture.engine.shrink(.all) { $0.freedBytes >= .mebibytes(2) ? .stop : .proceed }
        #expect(shrunk.failure?.code == .interrupted)
        // What was told then, and the run that was being freed.
        #expect(shrunk.freedBytes == .mebibytes(3))
        _ = fixture.engine.shrink(.all)
        let recovered = fixture.engine.recover(.all) { $0.recoveredPages >= 512 ? .stop : .proceed }
        #expect(recovered.failure?.code == .interrupted)
        #expect(recovered.recoveredPages == 512)
        #expect(try fixture.mismatches(object, zeroEvery: 0) == [])
    }

    @Test func badInputIsRefusedAndChangesNothing() throws {
        let fixture = try EngineFixture(poolPages: 64)
        func code(_ body: () throws -> Void) -> EngineError.Code? {
            do { try body() } catch { return (error as? EngineError)?.code }
            return nil
        }
        let engine = fixture.engine
        #expect(code { _ = try engine.createPool(name: "test", owner: 0, size: .mebibytes(1)) } == .nameTaken)
        #expect(code { _ = try engine.createPool(name: "other", owner: 0, size: ByteCount(4095)) } == .invalidSize)
        #expect(code { _ = try engine.createPool(name: "other", owner: 0, size: .zero) } == .invalidSize)
        #expect(code { _ = try engine.createPool(name: "other", owner: 0, size: ByteCount(.max)) } == .invalidSize)
        #expect(code { _ = try engine.createPool(name: "a/b", owner: 0, size: .mebibytes(1)) } == .invalidName)
        #expect(code { _ = try engine.createPool(name: "", owner: 0, size: .mebibytes(1)) } == .invalidName)
        #expect(code { _ = try engine.createObject(in: fixture.pool, name: "o", size: ByteCount(65 * basePageSize)) } == .poolFull)
        #expect(code { _ = try engine.createObject(in: fixture.pool, name: "o", size: ByteCount(-1)) } == .invalidSize)
        #expect(code { _ = try engine.createObject(in: PoolID(rawValue: 99), name: "o", size: ByteCount(1)) } == .noSuchPool)
        #expect(code { try engine.pin(ObjectID(rawValue: 12345)) } == .noSuchObject)
        #expect(code { try engine.destroyObject(ObjectID(rawValue: 12345)) } == .noSuchObject)
        #expect(engine.shrink(.object(ObjectID(rawValue: 12345))).failure?.code == .noSuchObject)
        #expect(engine.shrink(.pool(PoolID(rawValue: 77))).failure?.code == .noSuchPool)
        #expect(engine.recover(.pool(PoolID(rawValue: 77))).failure?.code == .noSuchPool)
        #expect(engine.shrink(.bytes(ByteCount(-5))).failure?.code == .invalidSize)
        let object = try fixture.makeObject(pages: 1)
        var byte: [UInt8] = [0]
        #expect(code { _ = try byte.withUnsafeMutableBytes { try engine.read(object.id, at: ByteCount(4097), into: $0) } } == .invalidSize)
        #expect(code { _ = try byte.withUnsafeMutableBytes { try engine.read(object.id, at: ByteCount(-1), into: $0) } } == .invalidSize)
        #expect(try engine.pool(fixture.pool).freeBytes == ByteCount(63 * basePageSize))
    }
}
