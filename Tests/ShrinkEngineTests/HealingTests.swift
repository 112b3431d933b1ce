import ShrinkEngine
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// Strikes at the given hit of a point, and ever after: a dead engine does nothing more.
final class Death: Sendable {
    private let point: FaultPoint
    private let hit: Int
    private let state = Monitor((isArmed: false, hits: 0))

    init(at point: FaultPoint, hit: Int) {
        self.point = point
        self.hit = hit
    }

    func arm() { state.withLock { $0.isArmed = true } }

    func strikes(_ at: FaultPoint) -> Bool {
        state.withLock { state in
            guard state.isArmed, at == point else { return false }
            state.hits += 1
            return state.hits >= hit
        }
    }
}

/// What an engine that takes over from the two memory files sees.
private struct FoundByTheNext: Sendable {
    let healing: HealingReport
    let objects: Int
    let orphans: Int
    let freePages: Int

    init(_ dead: Engine, _ poolOfTheDead: PoolID, _ backup: String) throws {
        let parked = try dead.persistentDescriptors(of: poolOfTheDead)
        let next = try Engine(backup: try BackupDirectory(path: backup), logger: quiet)
        let (pool, healing) = try next.adoptPool(file: try parked.file.duplicate(), ledger: try parked.ledger.duplicate())
        self.healing = healing
        objects = next.objects(in: pool, limit: 10).count
        orphans = next.status().orphans
        freePages = try next.pool(pool).freeBytes.rawValue / basePageSize
    }
}

/// The engine stops dead at a fault point; another takes over the pool from its two memory files.
@Suite struct HealingTests {
    private static let shrinkPoints: [FaultPoint] = [.cancel, .beforeCopyOut, .afterCopyOut, .betweenWords, .afterWords, .afterFree]
    private static let recoverPoints: [FaultPoint] = [.room, .beforeCopyIn, .afterCopyIn, .afterRecoverWords, .beforeDrop, .afterDrop]

    @Test(arguments: shrinkPoints + recoverPoints) func whereverAnEngineDiesTheNextOneHasEveryPage(_ point: FaultPoint) throws {
        let seed = testSeed("\(point)")
        var generator = SeededGenerator(seed: seed)
        for round in 0..<4 {
            // A page of zeros needs no healing: die far enough in that others went before.
            let death = Death(at: point, hit: Int.random(in: point == .betweenWords ? 20...60 : 1...3, using: &generator))
            let fixture = try EngineFixture(seed: seed &+ UInt64(round)) { configuration in
                configuration.copyWorkers = 1
                configuration.faults = { at, _, _ in death.strikes(at) ? EngineError(.interrupted, "died at \(at)") : nil }
            }
            let objects = try [1500, 300].map { try fixture.makeObject(pages: $0) }
            // Recover points are reached with everything out; shrink points with everything in.
            let isRecover = Self.recoverPoints.contains(point)
            if isRecover { #expect(fixture.engine.shrink(.all).failure == nil) }
            death.arm()
            let failure = isRecover ? fixture.engine.recover(.all).failure : fixture.engine.shrink(.all).failure
            #expect(failure?.message == "died at \(point)", "the point was not reached (seed \(seed))")

            let persistent = try fixture.engine.persistentDescriptors(of: fixture.pool)
            let next = try Engine(backup: try BackupDirectory(path: fixture.backup.path), logger: quiet)
            let (pool, healing) = try next.adoptPool(file: try persistent.file.duplicate(), ledger: try persistent.ledger.duplicate())
            #expect(healing.lost == 0)
            switch point {
            case .afterCopyOut: #expect(healing.punchedInStore > 0)
            case .betweenWords: #expect(healing.punchedInStore > 0 && healing.punchedInPool > 0)
            case .afterWords: #expect(healing.punchedInPool > 0)
            // Its memory is gone; the next run may have been copied out meanwhile.
            case .afterFree: #expect(healing.punchedInPool == 0)
            case .afterCopyIn: #expect(healing.punchedInPool > 0)
            case .afterRecoverWords, .beforeDrop: #expect(healing.punchedInStore > 0)
            default: #expect(healing == HealingReport())
            }
            for object in objects { #expect(try fixture.mismatches(object, in: next) == [], "seed \(seed)") }
            #expect(next.shrink(.all).failure == nil)
            #expect(try next.pool(pool).allocatedBytes == .zero)
            #expect(next.recover(.all).failure == nil)
            for object in objects { #expect(try fixture.mismatches(object, in: next) == [], "seed \(seed)") }
            // The range of each object is taken in the new engine too.
            let free = try next.pool(pool).freeBytes.rawValue
            let fresh = try next.createObject(in: pool, name: "all the rest", size: ByteCount(1024 * basePageSize))
            #expect(objects.allSatisfy { !overlap($0, fresh) })
            #expect(try next.pool(pool).freeBytes.rawValue == free - 1024 * basePageSize)
            #expect(objects.allSatisfy { $0.id != fresh.id })
        }
    }

    @Test(arguments: [FaultPoint.afterPurgeMark, .betweenPurgeRuns]) func contentThatWasGivenUpNeverComesBackInPieces(_ point: FaultPoint)
        throws
    {
        let death = Death(at: point, hit: 1)
        let fixture = try EngineFixture { configuration in
            configuration.copyWorkers = 1
            configuration.faults = { at, _, _ in death.strikes(at) ? EngineError(.interrupted, "died at \(at)") : nil }
        }
        let object = try fixture.makeObject(pages: 700, zeroEvery: 0)
        _ = fixture.engine.shrink(.bytes(.mebibytes(1)))
        try fixture.engine.setPurgeable(object.id, true)
        death.arm()
        #expect(fixture.engine.shrink(.all).failure?.message == "died at \(point)")
        let persistent = try fixture.engine.persistentDescriptors(of: fixture.pool)
        let next = try Engine(backup: try BackupDirectory(path: fixture.backup.path), logger: quiet)
        let (pool, healing) = try next.adoptPool(file: try persistent.file.duplicate(), ledger: try persistent.ledger.duplicate())
        #expect(healing.lost == 0)
        #expect(try next.pool(pool).allocatedBytes == .zero)
        #expect(try next.pin(object.id).retained == false)
        for page in 0..<700 { #expect(fixture.bytes(object, page).allSatisfy { $0 == 0 }) }
        #expect(try next.object(object.id).pages.backedUp == 0)
    }

    /// A pin of given-up content dies on the way to zeros: the next one still says that it was given up, and has zeros.
    @Test(arguments: [FaultPoint.afterClearFree, .afterClearDrop, .afterClearWords]) func aPinOfGivenUpContentThatDiesIsDoneAgain(
        _ point: FaultPoint
    ) throws {
        let death = Death(at: point, hit: 1)
        let fixture = try EngineFixture { configuration in
            configuration.copyWorkers = 1
            configuration.faults = { at, _, _ in death.strikes(at) ? EngineError(.interrupted, "died at \(at)") : nil }
        }
        let object = try fixture.makeObject(pages: 300, zeroEvery: 0)
        _ = fixture.engine.shrink(.bytes(ByteCount(100 * basePageSize)))
        // Neither the pool's part nor the backup's has gone.
        try fixture.engine.discardContent(object.id)
        death.arm()
        do {
            try fixture.engine.pin(object.id)
            #expect(Bool(false), "the point was not reached")
        } catch { #expect(error.message == "died at \(point)") }
        let persistent = try fixture.engine.persistentDescriptors(of: fixture.pool)
        let next = try Engine(backup: try BackupDirectory(path: fixture.backup.path), logger: quiet)
        let (pool, healing) = try next.adoptPool(file: try persistent.file.duplicate(), ledger: try persistent.ledger.duplicate())
        #expect(healing.lost == 0)
        #expect(try next.pin(object.id).retained == false)
        #expect((0..<300).allSatisfy { page in fixture.bytes(object, page).allSatisfy { $0 == 0 } })
        #expect(try next.pool(pool).pages.backedUp == 0)
        #expect(fixture.backup.status().storedBytes == 0)
    }

    @Test(arguments: [FaultPoint.afterDyingMark, .afterBackupRemoved, .afterWordsCleared])
    func destroyingIsFinished(_ point: FaultPoint) throws {
        let death = Death(at: point, hit: 1)
        let fixture = try EngineFixture(poolPages: 256) { configuration in
            configuration.faults = { at, _, _ in death.strikes(at) ? EngineError(.interrupted, "died at \(at)") : nil }
        }
        let kept = try fixture.makeObject(pages: 20, zeroEvery: 0)
        let other = try fixture.makeObject(pages: 20, zeroEvery: 0)
        _ = fixture.engine.shrink(.bytes(ByteCount(30 * basePageSize)))
        death.arm()
        #expect(throws: EngineError.self) { try fixture.engine.destroyObject(other.id) }
        let persistent = try fixture.engine.persistentDescriptors(of: fixture.pool)
        let next = try Engine(backup: try BackupDirectory(path: fixture.backup.path), logger: quiet)
        let (pool, healing) = try next.adoptPool(file: try persistent.file.duplicate(), ledger: try persistent.ledger.duplicate())
        #expect(healing.lost == 0 && healing.finishedDestructions == 1)
        #expect(next.objects(in: pool, limit: 10).count == 1)
        #expect(next.status().orphans == 0)
        #expect(try fixture.mismatches(kept, zeroEvery: 0, in: next) == [])
        #expect(try next.pool(pool).freeBytes == ByteCount(236 * basePageSize))
        #expect(next.shrink(.all).failure == nil && next.recover(.all).failure == nil)
    }

    /// What a later engine finds when this one dies while it makes an object: it adopts the pool at that very moment.
    @Test(arguments: [FaultPoint.afterBackupMade, .afterRecordLive])
    func makingIsWholeOrUndoneAndLeavesNoOrphan(_ point: FaultPoint) throws {
        let death = Death(at: point, hit: 1)
        let dead = Monitor<(engine: Engine, pool: PoolID, backup: String)?>(nil)
        let found = Monitor<[Result<FoundByTheNext, any Error>]>([])
        let fixture = try EngineFixture(poolPages: 256) { configuration in
            configuration.faults = { at, _, _ in
                guard death.strikes(at), let dead = dead.withLock({ $0 }) else { return nil }
                let seen = Result { try FoundByTheNext(dead.engine, dead.pool, dead.backup) }
                found.withLock { $0.append(seen) }
                return EngineError(.interrupted, "died at \(at)")
            }
        }
        let kept = try fixture.makeObject(pages: 20, zeroEvery: 0)
        _ = fixture.engine.shrink(.all)
        dead.withLock { $0 = (fixture.engine, fixture.pool, fixture.backup.path) }
        defer { dead.withLock { $0 = nil } }
        death.arm()
        #expect(throws: EngineError.self) {
            _ = try fixture.engine.createObject(in: fixture.pool, name: "new", size: ByteCount(30 * basePageSize))
        }
        let seen = try #require(try found.withLock { $0 }.first?.get())
        let isLive = point == .afterRecordLive
        #expect(seen.healing.lost == 0 && seen.healing.finishedDestructions == (isLive ? 0 : 1))
        #expect(seen.objects == (isLive ? 2 : 1) && seen.orphans == 0 && seen.freePages == 256 - (isLive ? 50 : 20))
        // And the engine that lives on has undone it.
        #expect(fixture.engine.objects(in: fixture.pool, limit: 10).count == 1 && fixture.engine.status().orphans == 0)
        #expect(try fixture.engine.pool(fixture.pool).freeBytes == ByteCount(236 * basePageSize))
        #expect(try fixture.mismatches(kept, zeroEvery: 0, in: fixture.engine) == [])
    }

    @Test func pagesMissingInTheStoreAreReportedAndStayMissing() throws {
        let fixture = try EngineFixture()
        let object = try fixture.makeObject(pages: 50, zeroEvery: 0)
        _ = fixture.engine.shrink(.all)
        let file = try Files.open("\(fixture.backup.path)/objects/\(object.id.rawValue)/data", .readWrite)
        try Files.punch(file.number, at: 10 * basePageSize, length: 5 * basePageSize)
        let persistent = try fixture.engine.persistentDescriptors(of: fixture.pool)
        let next = try Engine(backup: try BackupDirectory(path: fixture.backup.path), logger: quiet)
        let healing = try next.adoptPool(file: try persistent.file.duplicate(), ledger: try persistent.ledger.duplicate()).healing
        #expect(healing == HealingReport(punchedInPool: 0, punchedInStore: 0, lost: 5, finishedDestructions: 0))
        #expect(next.status().damagedPages == 5)
        #expect(throws: EngineError.self) { try next.pin(object.id) }
        // Met again with every try, counted once.
        #expect(next.recover(.all).failedPages == 5)
        #expect(next.status().damagedPages == 5)
        // And a page that goes bad later counts too.
        _ = next.shrink(.all)
        try Files.punch(file.number, at: 40 * basePageSize, length: basePageSize)
        #expect(next.recover(.all).failedPages == 6)
        #expect(next.recover(.object(object.id)).failedPages == 6)
        #expect(next.status().damagedPages == 6)
    }

    @Test func aLedgerThatIsNoneIsRefused() throws {
        let fixture = try EngineFixture()
        #expect(throws: EngineError.self) {
            _ = try fixture.engine.adoptPool(
                file: try MemoryFile.makeSealed("pool", size: 1 << 20), ledger: try MemoryFile.makeSealed("not a ledger", size: 1 << 20))
        }
    }

    @Test func idsAreNotUsedAgainByTheNextEngine() throws {
        let fixture = try EngineFixture()
        let object = try fixture.makeObject(pages: 1)
        try fixture.engine.destroyObject(object.id)
        let next = try Engine(backup: try BackupDirectory(path: fixture.backup.path), logger: quiet)
        let pool = try next.createPool(name: "p", owner: 0, size: .mebibytes(1)).id
        #expect(try next.createObject(in: pool, name: "o", size: ByteCount(1)).id > object.id)
    }

    private func overlap(_ a: ObjectInfo, _ b: ObjectInfo) -> Bool {
        a.offsetBytes.rawValue < b.offsetBytes.rawValue + b.pageCount * basePageSize
            && b.offsetBytes.rawValue < a.offsetBytes.rawValue + a.pageCount * basePageSize
    }
}
