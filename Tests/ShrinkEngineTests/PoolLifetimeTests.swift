import ShrinkClient
import ShrinkLinux
import Synchronization
import SystemPackage
import TestSupport
import Testing

@testable import ShrinkEngine

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

    /// While a pool goes, nobody pins what is still there: it goes as a whole.
    @Test func whatGoesWithItsPoolCanNoLongerBePinned() throws {
        let pin = Monitor<@Sendable () -> Void>({})
        let fixture = try EngineFixture(poolPages: 64) { configuration in
            configuration.faults = { point, _, _ in
                guard point == .afterBackupRemoved else { return nil }
                pin.withLock { $0 }()
                return nil
            }
        }
        let engine = fixture.engine
        let objects = try (0..<3).map { _ in try fixture.makeObject(pages: 4) }
        let user = try GateUser(engine)
        let attachment = try engine.attachGate(objects[2].id, client: user.id)
        let gate = user.gate(attachment)
        #expect(gate.pin() != nil && gate.unpin())
        let attempts = Atomic(0)
        let pins = Atomic(0)
        pin.withLock {
            $0 = {
                attempts.add(1, ordering: .relaxed)
                if gate.pin() != nil { pins.add(1, ordering: .relaxed) }
                if (try? engine.pin(objects[2].id)) != nil { pins.add(1, ordering: .relaxed) }
                if (try? engine.pinGate(objects[2].id, client: user.id)) != nil { pins.add(1, ordering: .relaxed) }
            }
        }
        // Ascending by id: the first is gone when the last is asked for. In the last one's own turn a pin would wait for this thread.
        let turns = Atomic(0)
        pin.withLock { once in
            let body = once
            once = { if turns.add(1, ordering: .relaxed).newValue < 3 { body() } }
        }
        try engine.destroyPool(fixture.pool)
        let (tried, pinned) = (attempts.load(ordering: .relaxed), pins.load(ordering: .relaxed))
        #expect(tried == 2)
        #expect(pinned == 0)
        #expect(engine.status().objectCount == 0 && engine.pools().isEmpty)
        #expect(try fixture.backup.objects() == [])
        pin.withLock { $0 = {} }
    }

    /// Pinned through a gate, the last of many: everything stays as it was, gates too.
    @Test func aPoolWithAPinnedObjectStaysWhole() throws {
        let fixture = try EngineFixture(poolPages: 64)
        let engine = fixture.engine
        let user = try GateUser(engine)
        let objects = try (0..<3).map { _ in try fixture.makeObject(pages: 4) }
        let gates = try objects.map { user.gate(try engine.attachGate($0.id, client: user.id)) }
        #expect(gates[2].pin() != nil)
        do throws(EngineError) {
            try engine.destroyPool(fixture.pool)
            #expect(Bool(false), "a pool with a pinned object was destroyed")
        } catch { #expect(error.code == .busy) }
        for (object, gate) in zip(objects, gates) {
            #expect(gate.pin() != nil, "the gates are open as before")
            #expect(gate.unpin())
            #expect(try fixture.mismatches(object) == [])
        }
        #expect(gates[2].unpin())
        try engine.destroyPool(fixture.pool)
    }

    /// Somebody destroys one of the objects just then: the pool is there until that is done.
    @Test func aPoolWaitsForObjectsThatOthersAreDestroying() throws {
        let phase = Monitor(0)
        let hasReturned = Atomic(false)
        let fixture = try EngineFixture(poolPages: 64) { configuration in
            configuration.faults = { point, _, _ in
                guard point == .afterBackupRemoved, phase.withLock({ $0 == 0 }) else { return nil }
                phase.withLock { $0 = 1 }
                phase.notifyAll()
                // Time enough for one that does not wait.
                let deadline = MonotonicTime.now().advanced(milliseconds: 300)
                while MonotonicTime.now() < deadline, !hasReturned.load(ordering: .relaxed) { DedicatedThread.pause(milliseconds: 1) }
                return nil
            }
        }
        let engine = fixture.engine
        let object = try fixture.makeObject(pages: 4)
        let isEarly = Atomic(false)
        try withDedicatedThreads { threads in
            threads.start("destroy") {
                try? engine.destroyObject(object.id)
                phase.withLock { $0 = 2 }
            }
            phase.wait { $0 == 1 ? () : nil }
            try engine.destroyPool(fixture.pool)
            hasReturned.store(true, ordering: .relaxed)
            isEarly.store(engine.status().objectCount != 0, ordering: .relaxed)
        }
        let wasEarly = isEarly.load(ordering: .relaxed)
        #expect(!wasEarly, "the pool was gone before its last object")
        #expect(engine.pools().isEmpty && engine.status().objectCount == 0)
    }

    /// Its reservation came first, but the end was decided before the pin: no pin of what is about to go.
    @Test func aPinThatMeetsAnEndIsRefused() throws {
        let phase = Monitor(0)
        let fixture = try EngineFixture(poolPages: 64) { configuration in
            configuration.faults = { point, _, _ in
                guard point == .afterClearFree else { return nil }
                phase.withLock { $0 = 1 }
                phase.notifyAll()
                phase.wait { $0 == 2 ? () : nil }
                return nil
            }
        }
        let engine = fixture.engine
        let object = try fixture.makeObject(pages: 4)
        try engine.discardContent(object.id)
        let code = Monitor<EngineError.Code?>(nil)
        try withDedicatedThreads { threads in
            threads.start("pin") {
                do throws(EngineError) { try engine.pin(object.id) } catch { code.withLock { $0 = error.code } }
            }
            phase.wait { $0 == 1 ? () : nil }
            threads.start("destroy") { try? engine.destroyObject(object.id) }
            while (try? engine.object(object.id)) != nil { DedicatedThread.pause(milliseconds: 1) }
            phase.withLock { $0 = 2 }
            phase.notifyAll()
        }
        #expect(code.withLock { $0 } == .noSuchObject)
        #expect(engine.status().objectCount == 0)
        #expect(engine.brokenInvariants() == [])
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
