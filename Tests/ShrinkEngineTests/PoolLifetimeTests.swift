import ShrinkEngine
import ShrinkLinux
import Synchronization
import SystemPackage
import TestSupport
import Testing

/// Pools that come and go while others work with them.
@Suite struct PoolLifetimeTests {
    /// An object that is just being made when its pool goes is not made: nothing of it stays in the tables or in the backup.
    @Test func anObjectIsNotMadeInAPoolThatGoesMeanwhile() throws {
        let phase = Monitor(0)
        let fixture = try EngineFixture(poolPages: 64) { configuration in
            configuration.faults = { point, _, _ in
                guard point == .afterBackupMade else { return nil }
                phase.withLock { $0 = 1 }
                phase.notifyAll()
                phase.wait { $0 == 2 ? () : nil }
                return nil
            }
        }
        let engine = fixture.engine
        let pool = fixture.pool
        let code = Monitor<EngineError.Code?>(nil)
        try withDedicatedThreads { threads in
            threads.start("create") {
                do { _ = try engine.createObject(in: pool, name: "o", size: ByteCount(8 * basePageSize)) } catch {
                    code.withLock { $0 = (error as? EngineError)?.code }
                }
            }
            phase.wait { $0 == 1 ? () : nil }
            defer {
                phase.withLock { $0 = 2 }
                phase.notifyAll()
            }
            try engine.destroyPool(pool)
        }
        #expect(code.withLock { $0 } == .noSuchPool)
        #expect(engine.status().objectCount == 0)
        #expect(try fixture.backup.objects() == [])
    }

    /// A new object's id is above those of every pool that was taken over, whichever backup counted them.
    @Test func idsAreUniqueAcrossBackupsAlsoAfterATakeover() throws {
        let tmpfs = try ScratchMemoryFileSystem(sizeBytes: 4 << 20)
        let engine = try Engine(backup: try BackupDirectory(path: tmpfs.path), logger: quiet)
        let swap = KernelSwap()
        let pool = try engine.createPool(name: "a", owner: 0, size: .mebibytes(1)).id
        let other = try engine.createPool(name: "b", owner: 0, size: .mebibytes(8), backup: swap).id
        _ = try engine.createObject(in: pool, name: "o", size: ByteCount(1))
        // More than the directory reserves ahead, so that its own count falls behind.
        var last = ObjectID(rawValue: 0)
        for _ in 0..<1100 { last = try engine.createObject(in: other, name: "o", size: ByteCount(1)).id }
        let next = try Engine(backup: try BackupDirectory(path: tmpfs.path), logger: quiet)
        for (id, backup) in [(pool, nil), (other, swap)] as [(PoolID, (any Backup)?)] {
            let persistent = try engine.persistentDescriptors(of: id)
            _ = try next.adoptPool(file: try persistent.file.duplicate(), ledger: try persistent.ledger.duplicate(), backup: backup)
        }
        for _ in 0..<100 { #expect(try next.createObject(in: pool, name: "o", size: ByteCount(1)).id > last) }
    }
}
