import ShrinkEngine
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@Suite struct PurgeableTests {
    @Test func purgedContentIsToldOnceAndZeroOnlyAfterwards() throws {
        let fixture = try EngineFixture(poolPages: 256)
        let engine = fixture.engine
        let object = try fixture.makeObject(pages: 64, zeroEvery: 0)
        #expect(try engine.setPurgeable(object.id, true).retained)
        let result = engine.shrink(.all)
        #expect(result.purgedPages == 64 && result.backedUpPages == 0 && result.freedBytes == ByteCount(64 * basePageSize))
        #expect(fixture.backup.status().storedBytes == 0)
        // Not zeros before the answer: there is nothing to read.
        var byte: [UInt8] = [1]
        do {
            _ = try byte.withUnsafeMutableBytes { try engine.read(object.id, at: .zero, into: $0) }
            #expect(Bool(false), "purged content was read")
        } catch { #expect((error as? EngineError)?.code == .purged) }
        // Unsetting does not bring it back and does not hide it.
        #expect(try engine.setPurgeable(object.id, false).retained == false)
        #expect(try engine.object(object.id).isPurged)
        #expect(try engine.pin(object.id).retained == false)
        for page in 0..<64 { #expect(fixture.bytes(object, page).allSatisfy { $0 == 0 }) }
        fixture.fill(object, zeroEvery: 0)
        #expect(try engine.pin(object.id).retained, "said twice")
        try engine.unpin(object.id)
        try engine.unpin(object.id)
        #expect(engine.shrink(.all).backedUpPages == 64)
        #expect(try fixture.mismatches(object, zeroEvery: 0) == [])
    }

    @Test func whatIsPinnedInTimeIsRetained() throws {
        let fixture = try EngineFixture(poolPages: 256)
        let object = try fixture.makeObject(pages: 8)
        try fixture.engine.setPurgeable(object.id, true)
        #expect(try fixture.engine.pin(object.id).retained)
        #expect(fixture.engine.shrink(.all).purgedPages == 0)
        #expect(try fixture.mismatches(object) == [])
        try fixture.engine.setPurgeable(object.id, false)
        try fixture.engine.unpin(object.id)
        #expect(fixture.engine.shrink(.all).purgedPages == 0)
        #expect(try fixture.mismatches(object) == [])
    }

    /// What is left of given-up content in the backup does not come back by a range either.
    @Test func aRangeOfGivenUpContentDoesNotComeBack() throws {
        let fixture = try EngineFixture(poolPages: 256)
        let engine = fixture.engine
        let object = try fixture.makeObject(pages: 8, zeroEvery: 0)
        #expect(engine.shrink(.object(object.id)).backedUpPages == 8)
        let (first, all) = (PageIndex(rawValue: 0)..<PageIndex(rawValue: 4), PageIndex(rawValue: 0)..<PageIndex(rawValue: 8))
        #expect(engine.recover(object.id, pages: first).recoveredPages == 4)
        try engine.setPurgeable(object.id, true)
        _ = engine.shrinker.scan(goalPages: 8, ReclaimContext(caller: .direct, mayUseFileSystem: false))
        #expect(try engine.object(object.id).pages.backedUp == 4, "without the file system the backup is left alone")
        let result = engine.recover(object.id, pages: all)
        #expect(result.recoveredPages == 0 && result.failure == nil)
        #expect(try engine.pin(object.id).retained == false)
        for page in 0..<8 { #expect(fixture.bytes(object, page).allSatisfy { $0 == 0 }) }
    }

    /// Given up, and its backup removed by somebody: there is nothing to drop, and the pin has its zeros.
    @Test func givenUpContentWhoseBackupIsGoneIsZeros() throws {
        let fixture = try EngineFixture(poolPages: 256)
        let engine = fixture.engine
        for isPurged in [false, true] {
            let object = try fixture.makeObject(pages: 8, zeroEvery: 0)
            #expect(engine.shrink(.object(object.id)).backedUpPages == 8)
            if isPurged { try engine.setPurgeable(object.id, true) } else { try engine.discardContent(object.id) }
            try fixture.backup.remove(object.id)
            if isPurged {
                try engine.pin(object.id, expecting: .backupFailed)
                try engine.discardContent(object.id)
            }
            #expect(try engine.pin(object.id).retained == false)
            for page in 0..<8 { #expect(fixture.bytes(object, page).allSatisfy { $0 == 0 }) }
            #expect(try engine.object(object.id).pages.backedUp == 0)
            try engine.unpin(object.id)
        }
    }

    /// Purgeable objects go before others, whatever was used last.
    @Test func purgeableContentGoesBeforeIdleObjects() throws {
        let fixture = try EngineFixture(poolPages: 256, configure: { $0.copyWorkers = 1 })
        let kept = try fixture.makeObject(pages: 32, priority: .lowest, zeroEvery: 0)
        let given = try fixture.makeObject(pages: 32, priority: .high, zeroEvery: 0)
        try fixture.engine.setPurgeable(given.id, true)
        let result = fixture.engine.shrink(.bytes(ByteCount(40 * basePageSize)))
        #expect(result.purgedPages == 32 && result.backedUpPages == 8)
        #expect(try fixture.mismatches(kept, zeroEvery: 0) == [])
    }

    /// Purging a part gives up the whole, and the goal is kept to a run.
    @Test func aSmallGoalPurgesNoMoreThanItNeeds() throws {
        let fixture = try EngineFixture(poolPages: 2048)
        let object = try fixture.makeObject(pages: 1024, zeroEvery: 0)
        try fixture.engine.setPurgeable(object.id, true)
        let result = fixture.engine.shrink(.bytes(ByteCount(10 * basePageSize)))
        #expect(result.freedBytes == ByteCount(10 * basePageSize))
        #expect(try fixture.engine.pin(object.id).retained == false)
        for page in [0, 300, 1023] { #expect(fixture.bytes(object, page).allSatisfy { $0 == 0 }) }
    }

    @Test func aBackedUpObjectThatIsPurgedLeavesTheBackup() throws {
        let fixture = try EngineFixture(poolPages: 1024)
        let object = try fixture.makeObject(pages: 512, zeroEvery: 0)
        _ = fixture.engine.shrink(.bytes(.mebibytes(1)))
        try fixture.engine.setPurgeable(object.id, true)
        _ = fixture.engine.shrink(.all)
        #expect(fixture.backup.status().storedBytes == 0)
        #expect(try fixture.engine.object(object.id).pages.backedUp == 0)
        #expect(try fixture.engine.pin(object.id).retained == false)
        #expect(try fixture.engine.pool(fixture.pool).allocatedBytes == .zero)
    }

    /// The kernel's ghost: content that is being replaced is never copied.
    @Test func contentThatIsBeingReplacedIsNeverBackedUp() throws {
        let fixture = try EngineFixture(poolPages: 512)
        let object = try fixture.makeObject(pages: 300, zeroEvery: 0)
        _ = fixture.engine.shrink(.bytes(.mebibytes(1)))
        try fixture.engine.discardContent(object.id)
        let result = fixture.engine.shrink(.all)
        #expect(result.backedUpPages == 0 && result.purgedPages == 44)
        #expect(try fixture.engine.pin(object.id).retained == false)
        #expect(fixture.bytes(object, 7).allSatisfy { $0 == 0 })
    }

    /// Set and unset while others shrink, pin and count: the counters come back to zero (reference §1.5, invariant 8).
    @Test func countersReturnToZero() throws {
        let seed = testSeed("counters")
        let fixture = try EngineFixture(poolPages: 1024, seed: seed)
        let engine = fixture.engine
        let objects = try (0..<10).map { try fixture.makeObject(pages: 10 + $0).id }
        try withDedicatedThreads { threads in
            for worker in 0..<4 {
                threads.start("worker-\(worker)") {
                    var generator = SeededGenerator(seed: seed &+ UInt64(worker))
                    for _ in 0..<400 {
                        guard let id = objects.randomElement(using: &generator) else { return }
                        switch Int.random(in: 0..<6, using: &generator) {
                        case 0: _ = try? engine.setPurgeable(id, true)
                        case 1: _ = try? engine.setPurgeable(id, false)
                        case 2: _ = engine.shrink(.bytes(ByteCount(8 * basePageSize)))
                        case 3: _ = engine.shrinker.count(.background)
                        case 4: _ = engine.recover(.object(id))
                        default: if (try? engine.pin(id)) != nil { try? engine.unpin(id) }
                        }
                    }
                }
            }
        }
        for id in objects { try engine.destroyObject(id) }
        #expect(engine.shrink(.all).failure == nil)
        #expect(engine.shrinker.count(.background) == .empty, "seed \(seed)")
        #expect(try engine.pool(fixture.pool).pages == PageCounts())
        #expect(fixture.backup.status().storedBytes == 0)
    }
}

extension Engine {
    /// A pin that is to fail.
    fileprivate func pin(_ id: ObjectID, expecting code: EngineError.Code) throws {
        do throws(EngineError) {
            try pin(id)
            #expect(Bool(false), "\(id) was pinned")
        } catch { #expect(error.code == code) }
    }
}
