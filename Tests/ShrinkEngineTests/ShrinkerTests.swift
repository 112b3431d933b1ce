import ShrinkEngine
import ShrinkLinux
import Synchronization
import SystemPackage
import TestSupport
import Testing

/// Counting and scanning, after `xe_shrinker.c` (reference §1.9).
@Suite struct ShrinkerTests {
    @Test func countIsEmptyZeroOrABound() throws {
        let fixture = try EngineFixture(poolPages: 512)
        let shrinker = fixture.engine.shrinker
        #expect(shrinker.count(.background) == .empty)
        let object = try fixture.makeObject(pages: 100, zeroEvery: 0)
        #expect(shrinker.count(.background) == .pages(100))
        #expect(shrinker.count(.direct) == .pages(100))
        // Without the file system only what needs no copy counts: nothing now, but not empty for ever.
        let purgeOnly = ReclaimContext(caller: .direct, mayUseFileSystem: false)
        #expect(shrinker.count(purgeOnly) == .pages(0))
        try fixture.engine.setPurgeable(object.id, true)
        #expect(shrinker.count(purgeOnly) == .pages(100))
        try fixture.engine.pin(object.id)
        #expect(shrinker.count(.background) == .empty, "pinned objects do not count")
        try fixture.engine.unpin(object.id)
        try fixture.engine.setPurgeable(object.id, false)
        _ = fixture.engine.shrink(.all)
        #expect(shrinker.count(.background) == .empty, "what is out does not count")
    }

    /// No space in the backup: no backup is worth trying (`ttm_backup_bytes_avail`).
    @Test func countKnowsTheBackupsSpace() throws {
        let fixture = try EngineFixture(poolPages: 2048, storeBytes: 1 << 20)
        _ = try fixture.makeObject(pages: 1024, zeroEvery: 0)
        guard case .pages(let pages) = fixture.engine.shrinker.count(.background) else { return #expect(Bool(false)) }
        #expect(pages < 257)
    }

    @Test func withoutTheFileSystemOnlyExpendableContentGoes() throws {
        let fixture = try EngineFixture(poolPages: 512)
        let kept = try fixture.makeObject(pages: 50, zeroEvery: 0)
        let given = try fixture.makeObject(pages: 20, zeroEvery: 0)
        try fixture.engine.setPurgeable(given.id, true)
        let context = ReclaimContext(caller: .background, mayUseFileSystem: false, mayStartWriteback: true, mayWait: true)
        guard case .scanned(let result) = fixture.engine.shrinker.scan(goalPages: 1000, context) else { return #expect(Bool(false)) }
        #expect(result.purgedPages == 20 && result.backedUpPages == 0)
        #expect(fixture.engine.shrinker.scan(goalPages: 1000, context) == .stop)
        #expect(try fixture.engine.object(kept.id).pages.resident == 50)
    }

    @Test func readyBlocksGoFirstAndToTheGoal() throws {
        let fixture = try EngineFixture(poolPages: 2048)
        let gone = try (0..<4).map { _ in try fixture.makeObject(pages: 100, zeroEvery: 0) }
        let kept = try fixture.makeObject(pages: 100, zeroEvery: 0)
        for object in gone { try fixture.engine.destroyObject(object.id) }
        // The pool's own shrinker honours its goal, not more and not less (reference §4.2, 9).
        guard case .scanned(let first) = fixture.engine.shrinker.scan(goalPages: 150, .direct) else { return #expect(Bool(false)) }
        #expect(first.freedBytes == ByteCount(150 * basePageSize) && first.backedUpPages == 0)
        guard case .scanned(let second) = fixture.engine.shrinker.scan(goalPages: 260, .direct) else { return #expect(Bool(false)) }
        #expect(second.freedBytes == ByteCount(260 * basePageSize) && second.backedUpPages == 10)
        #expect(try fixture.mismatches(kept, zeroEvery: 0) == [])
    }

    /// A direct caller never waits, a background one does.
    @Test func onlyABackgroundCallerWaitsForBusyObjects() throws {
        let fixture = try EngineFixture(poolPages: 512)
        let engine = fixture.engine
        let object = try fixture.makeObject(pages: 30, zeroEvery: 0)
        let phase = Monitor(0)
        let waited = Monitor<Shrinker.Scan?>(nil)
        try withDedicatedThreads { threads in
            threads.start("holder") {
                _ = engine.withReserved([object.id]) {
                    phase.withLock { $0 = 1 }
                    phase.notifyAll()
                    phase.wait { $0 == 2 ? () : nil }
                }
            }
            phase.wait { $0 == 1 ? () : nil }
            #expect(engine.shrinker.scan(goalPages: 10, ReclaimContext(caller: .direct, mayWait: true)) == .stop)
            threads.start("background") {
                let scan = engine.shrinker.scan(goalPages: 10, .background)
                waited.withLock { $0 = scan }
            }
            phase.withLock { $0 = 2 }
            phase.notifyAll()
        }
        guard case .scanned(let result) = waited.withLock({ $0 }) else { return #expect(Bool(false), "it did not wait") }
        #expect(result.freedBytes == ByteCount(10 * basePageSize))
    }

    /// An object that fails is passed over, and what others freed counts (reference §4.2 [R] a, c).
    @Test func aFailingObjectNeitherEndsAWalkNorHidesWhatWasFreed() throws {
        let bad = Atomic<UInt32>(0)
        let fixture = try EngineFixture(poolPages: 2048) { configuration in
            configuration.copyWorkers = 1
            configuration.faults = { point, id, page in
                point == .beforeCopyOut && id.rawValue == bad.load(ordering: .relaxed) && page.rawValue >= 256
                    ? EngineError(.backupFailed, "this one fails") : nil
            }
        }
        let objects = try (0..<3).map { _ in try fixture.makeObject(pages: 300, zeroEvery: 0) }
        bad.store(objects[0].id.rawValue, ordering: .relaxed)
        let result = fixture.engine.shrink(.all)
        #expect(result.failure?.code == .backupFailed)
        #expect(result.freedBytes == ByteCount((256 + 600) * basePageSize))
        // The rest of the bad one is still on the list and accounted page by page.
        #expect(fixture.engine.shrinker.count(.background) == .pages(44))
        bad.store(0, ordering: .relaxed)
        #expect(fixture.engine.shrink(.all).freedBytes == ByteCount(44 * basePageSize))
        #expect(fixture.engine.shrinker.count(.background) == .empty)
        for object in objects { #expect(try fixture.mismatches(object, zeroEvery: 0) == []) }
    }

    /// A backup that fails every object is left alone after a few; pools with another one go on.
    @Test func aBackupThatFailsKeepsNothingFromOthers() throws {
        let tmpfs = try ScratchMemoryFileSystem(sizeBytes: 16 << 20)
        for name in ["broken", "sound"] { try Files.makeDirectory(tmpfs.path + "/" + name) }
        let broken = WatchedBackup(try BackupDirectory(path: tmpfs.path + "/broken"))
        var configuration = Engine.Configuration()
        configuration.copyWorkers = 1
        let engine = try Engine(backup: try BackupDirectory(path: tmpfs.path + "/sound"), configuration: configuration, logger: quiet)
        let first = try engine.createPool(name: "broken", owner: 0, size: .mebibytes(1), backup: broken).id
        for _ in 0..<40 { _ = try engine.makeFilledObject(in: first, pages: 1) }
        let second = try engine.createPool(name: "sound", owner: 0, size: .mebibytes(1)).id
        for _ in 0..<40 { _ = try engine.makeFilledObject(in: second, pages: 1) }
        broken.isBroken.store(true, ordering: .relaxed)
        let before = broken.opens.load(ordering: .relaxed)
        let result = engine.shrink(.all)
        #expect(result.failure?.code == .backupFailed)
        #expect(result.freedBytes == ByteCount(40 * basePageSize))
        let tries = broken.opens.load(ordering: .relaxed) - before
        #expect(tries < 40, "all were tried")
        broken.isBroken.store(false, ordering: .relaxed)
        #expect(engine.shrink(.all).freedBytes == ByteCount(40 * basePageSize))
    }

    /// Whatever the goal, no more than it is freed.
    @Test func smallGoalsDoNotOverReclaim() throws {
        let seed = testSeed("goals")
        var generator = SeededGenerator(seed: seed)
        let fixture = try EngineFixture(poolPages: 4096, seed: seed)
        for _ in 0..<10 { _ = try fixture.makeObject(pages: Int.random(in: 1...300, using: &generator), zeroEvery: 0) }
        #expect(fixture.engine.shrinker.batchPages > 0)
        var rest = try fixture.engine.pool(fixture.pool).pages.resident
        while rest > 0 {
            let goal = Int.random(in: 1...90, using: &generator)
            guard case .scanned(let result) = fixture.engine.shrinker.scan(goalPages: goal, .direct) else { break }
            #expect(result.freedBytes == ByteCount(min(goal, rest) * basePageSize), "seed \(seed)")
            rest -= result.freedBytes.rawValue / basePageSize
        }
        #expect(rest == 0)
    }

    /// A member of a bulk move that fails keeps its place before the walk, which sees it once (reference §4.2, trap 1).
    @Test func aFailingMemberOfABulkIsSeenOnce() throws {
        let attempts = Atomic(0)
        let fixture = try EngineFixture(poolPages: 256) { configuration in
            configuration.copyWorkers = 1
            configuration.faults = { point, _, _ in
                guard point == .beforeCopyOut else { return nil }
                attempts.add(1, ordering: .relaxed)
                return EngineError(.busy, "not this time")
            }
        }
        let bulk = try fixture.engine.createBulkMove()
        for _ in 0..<5 { try fixture.engine.setBulkMove(bulk, of: try fixture.makeObject(pages: 2, zeroEvery: 0).id) }
        #expect(fixture.engine.shrink(.bytes(.mebibytes(1))).freedBytes == .zero)
        #expect(attempts.load(ordering: .relaxed) == 5)
        #expect(fixture.engine.shrinker.count(.background) == .pages(10))
    }
}
