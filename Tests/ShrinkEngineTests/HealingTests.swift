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

    @Test(arguments: [FaultPoint.afterBackupMade, .afterRecordLive, .afterDyingMark, .afterBackupRemoved, .afterWordsCleared])
    func makingAndDestroyingAreWholeOrUndone(_ point: FaultPoint) throws {
        let death = Death(at: point, hit: 1)
        let fixture = try EngineFixture(poolPages: 256) { configuration in
            configuration.faults = { at, _, _ in death.strikes(at) ? EngineError(.interrupted, "died at \(at)") : nil }
        }
        let kept = try fixture.makeObject(pages: 20, zeroEvery: 0)
        let other = try fixture.makeObject(pages: 20, zeroEvery: 0)
        _ = fixture.engine.shrink(.bytes(ByteCount(30 * basePageSize)))
        death.arm()
        let isMaking = point == .afterBackupMade || point == .afterRecordLive
        #expect(throws: EngineError.self) {
            if isMaking {
                _ = try fixture.engine.createObject(in: fixture.pool, name: "new", size: ByteCount(30 * basePageSize))
            } else {
                try fixture.engine.destroyObject(other.id)
            }
        }
        let persistent = try fixture.engine.persistentDescriptors(of: fixture.pool)
        let next = try Engine(backup: try BackupDirectory(path: fixture.backup.path), logger: quiet)
        let (pool, healing) = try next.adoptPool(file: try persistent.file.duplicate(), ledger: try persistent.ledger.duplicate())
        let objects = next.objects(in: pool, limit: 10)
        #expect(healing.lost == 0 && healing.finishedDestructions == (isMaking ? 0 : 1))
        #expect(objects.count == (point == .afterRecordLive ? 3 : isMaking ? 2 : 1))
        // What no ledger knows is kept and told.
        #expect(next.status().orphans == (point == .afterBackupMade ? 1 : 0))
        #expect(try fixture.mismatches(kept, zeroEvery: 0, in: next) == [])
        if isMaking { #expect(try fixture.mismatches(other, zeroEvery: 0, in: next) == []) }
        let taken = objects.reduce(0) { $0 + $1.pageCount }
        #expect(try next.pool(pool).freeBytes == ByteCount((256 - taken) * basePageSize))
        #expect(next.shrink(.all).failure == nil && next.recover(.all).failure == nil)
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
