import ShrinkEngine
import ShrinkLinux
import Synchronization
import SystemPackage
import TestSupport
import Testing

/// Who may touch the backup and its device: also an object whose content is given up may have a part of it there.
@Suite struct PurgePassTests {
    private struct Setting {
        let engine: Engine
        let backup: WatchedBackup
        let pool: PoolID
        /// 8 of its 16 pages are out.
        let object: ObjectInfo

        init(_ gate: WatchedGate? = nil) throws {
            let tmpfs = try ScratchMemoryFileSystem(sizeBytes: 16 << 20)
            backup = WatchedBackup(try BackupDirectory(path: tmpfs.path), gate)
            engine = try Engine(backup: backup, logger: quiet)
            pool = try engine.createPool(name: "p", owner: 0, size: .mebibytes(1)).id
            object = try engine.makeFilledObject(in: pool, pages: 16)
            _ = engine.shrinker.scan(goalPages: 8, .background)
            scratch = tmpfs
        }

        private let scratch: ScratchMemoryFileSystem

        func expectAllGone() throws {
            #expect(backup.status().storedBytes == 0)
            #expect(try engine.pool(pool).allocatedBytes == .zero)
            #expect(engine.shrinker.count(.background) == .empty)
            #expect(try engine.pin(object.id).retained == false)
        }
    }

    @Test func withoutTheFileSystemTheBackupIsNotTouched() throws {
        let setting = try Setting()
        let engine = setting.engine
        try engine.setPurgeable(setting.object.id, true)
        let before = setting.backup.opens.load(ordering: .relaxed)
        let purgeOnly = ReclaimContext(caller: .direct, mayUseFileSystem: false)
        guard case .scanned(let result) = engine.shrinker.scan(goalPages: 100, purgeOnly) else { return #expect(Bool(false)) }
        #expect(result.purgedPages == 8 && result.failure == nil)
        #expect(setting.backup.opens.load(ordering: .relaxed) == before)
        #expect(engine.shrinker.scan(goalPages: 100, purgeOnly) == .stop)
        // Who may use the file system takes the rest.
        _ = engine.shrinker.scan(goalPages: 100, .direct)
        try setting.expectAllGone()
    }

    @Test func aDirectCallerLeavesTheSleepingDeviceOfAPurgeableObjectAlone() throws {
        let gate = WatchedGate()
        let setting = try Setting(gate)
        let engine = setting.engine
        try engine.setPurgeable(setting.object.id, true)
        gate.sleep()
        guard case .scanned(let direct) = engine.shrinker.scan(goalPages: 100, .direct) else { return #expect(Bool(false)) }
        #expect(direct.purgedPages == 8 && direct.deferredObjects == 1)
        #expect(setting.backup.opensAsleep.load(ordering: .relaxed) == 0)
        _ = engine.shrinker.scan(goalPages: 100, .background)
        #expect(setting.backup.opensAsleep.load(ordering: .relaxed) == 0 && gate.holds == 0)
        try setting.expectAllGone()
    }

    /// Whoever shrinks by name, in a loop of its own, or evicts holds the device too.
    @Test func everyWayToShrinkHoldsTheDevice() throws {
        let gate = WatchedGate()
        let setting = try Setting(gate)
        let engine = setting.engine
        func settle() {
            gate.sleep()
            _ = engine.recover(.all)
            setting.backup.opensAsleep.store(0, ordering: .relaxed)
        }
        settle()
        #expect(engine.evict(goalPages: 8).freedBytes == ByteCount(8 * basePageSize))
        #expect(engine.shrink(.object(setting.object.id)).freedBytes == ByteCount(8 * basePageSize))
        #expect(setting.backup.opensAsleep.load(ordering: .relaxed) == 0 && gate.holds == 0)
        settle()
        gate.breakDown()
        let evicted = engine.evict()
        #expect(evicted.freedBytes == .zero && evicted.deferredObjects == 1)
        let shrunk = engine.shrink(.object(setting.object.id))
        #expect(shrunk.freedBytes == .zero && shrunk.deferredObjects == 1 && shrunk.failure?.code == .busy)
        #expect(setting.backup.opensAsleep.load(ordering: .relaxed) == 0)
    }

    /// What is in the pool needs no backup to go.
    @Test func aBackupThatFailsKeepsNoGivenUpPageInMemory() throws {
        let setting = try Setting()
        let engine = setting.engine
        try engine.setPurgeable(setting.object.id, true)
        setting.backup.isBroken.store(true, ordering: .relaxed)
        let result = engine.shrink(.all)
        #expect(result.purgedPages == 8 && result.failure?.code == .backupFailed)
        #expect(try engine.pool(setting.pool).allocatedBytes == .zero)
        setting.backup.isBroken.store(false, ordering: .relaxed)
        _ = engine.shrink(.all)
        try setting.expectAllGone()
    }

    @Test func askingForNoPagesGivesUpNothing() throws {
        let setting = try Setting()
        try setting.engine.setPurgeable(setting.object.id, true)
        _ = setting.engine.forEachReserved { view in
            _ = view.shrink(pages: 0)
            return .next
        }
        #expect(setting.engine.evict(goalPages: 0).purgedPages == 0)
        #expect(try setting.engine.pin(setting.object.id).retained)
    }
}
