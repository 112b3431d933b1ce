import ShrinkClient
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@testable import ShrinkEngine

/// Pools of huge pages, on real ones.
@Suite(.serialized) struct HugePageTests {
    private static let untried = "pools of huge pages are not tried"

    @Test func unitsGoOutAndComeBackWhole() async throws {
        guard let reserve = try await HugePageReserve.take(32, so: Self.untried) else { return }
        defer { reserve.release() }
        let fixture = try HugeFixture()
        let engine = fixture.engine
        let made = try engine.createObject(in: fixture.pool, name: "odd", size: ByteCount(3 * unitBytes + 5))
        #expect(made.pageCount == 4 && made.pageBytes.rawValue == unitBytes && made.offsetBytes.rawValue % unitBytes == 0)
        #expect(made.pages == PageCounts(resident: 4), "a pinned object has all its pages")
        #expect(try engine.pool(fixture.pool).allocatedBytes.rawValue == 4 * unitBytes)
        try engine.unpin(made.id)
        try engine.destroyObject(made.id)
        let object = try fixture.makeObject(units: 4)
        let freeBefore = try HugePages().free
        let result = engine.shrink(.object(object.id))
        #expect(result.failure == nil && result.freedBytes.rawValue == 4 * unitBytes && result.backedUpPages == 4 * unitPages)
        #expect(result.hugePageBytes.rawValue == 4 * unitBytes && result.returnedHugePageBytes?.rawValue == 4 * unitBytes)
        #expect(try HugePages().free == freeBefore + 4)
        #expect(result.netFreedBytes.rawValue == -result.storedBytes.rawValue, "the machine has no more memory than before")
        #expect(result.storedBytes.rawValue == (4 * unitPages - fixture.basePagesOfZeros(object)) * basePageSize)
        #expect(try engine.object(object.id).pages == PageCounts(backedUp: 4))
        #expect(try engine.pageRuns(object.id, from: 0).runs == [PageRun(first: 0, count: 4, state: .backedUp)])
        #expect(engine.status().pages.backedUp == 4 * unitPages)
        #expect(try fixture.mismatches(object) == [])
        #expect(try engine.object(object.id).pages.backedUp == 4, "looking changes nothing")
        #expect(try engine.pin(object.id).retained)
        #expect(fixture.isWholeInMapping(object))
        #expect(try HugePages().free == freeBefore)
        let data = try fixture.dataFile(object)
        #expect(try Files.nextData(data.number, from: 0) == nil, "what came back is dropped")
        #expect(engine.brokenInvariants() == [])
    }

    @Test func holesAreZerosAndAreFilledForAPin() async throws {
        guard let reserve = try await HugePageReserve.take(32, so: Self.untried) else { return }
        defer { reserve.release() }
        let fixture = try HugeFixture()
        let engine = fixture.engine
        let object = try engine.createObject(in: fixture.pool, name: "zeros", size: ByteCount(3 * unitBytes))
        fixture.page(object, unitPages)[7] = 1
        try engine.unpin(object.id)
        let result = engine.shrink(.all)
        #expect(result.backedUpPages == unitPages && result.zeroPages == 2 * unitPages && result.storedBytes.rawValue == basePageSize)
        #expect(try engine.object(object.id).pages == PageCounts(zero: 2, backedUp: 1))
        #expect(engine.recover(.all).recoveredPages == unitPages)
        #expect(try engine.object(object.id).pages == PageCounts(resident: 1, zero: 2))
        try engine.pin(object.id)
        #expect(try engine.object(object.id).pages == PageCounts(resident: 3))
        #expect(fixture.page(object, unitPages)[7] == 1 && fixture.page(object, 0)[0] == 0)
        try engine.unpin(object.id)
        #expect(engine.brokenInvariants() == [])
        // A recycled range reads as zeros.
        fixture.page(object, 5)[5] = 5
        try engine.destroyObject(object.id)
        let next = try engine.createObject(in: fixture.pool, name: "next", size: ByteCount(3 * unitBytes))
        #expect((0..<3 * unitPages).allSatisfy { isZero(fixture.page(next, $0).baseAddress!, basePageSize) })
    }

    /// A base page that became zeros after its copy could not be dropped must not come back as it was.
    @Test func aCopyThatStayedBehindIsNeverTakenForContent() async throws {
        guard let reserve = try await HugePageReserve.take(32, so: Self.untried) else { return }
        defer { reserve.release() }
        let isStopped = Monitor(false)
        let fixture = try HugeFixture { configuration in
            configuration.faults = { at, _, _ in
                at == .beforeDrop && isStopped.withLock { $0 } ? EngineError(.interrupted, "stopped") : nil
            }
        }
        let engine = fixture.engine
        let object = try fixture.makeObject(units: 1)
        _ = engine.shrink(.all)
        isStopped.withLock { $0 = true }
        #expect(engine.recover(.all).failure?.message == "stopped")
        isStopped.withLock { $0 = false }
        try engine.pin(object.id)
        let wasSet = try #require((0..<unitPages).first { !fixture.isExpectedZero(object, $0) })
        for i in 0..<basePageSize { fixture.page(object, wasSet)[i] = 0 }
        try engine.unpin(object.id)
        #expect(engine.shrink(.all).failure == nil)
        #expect(try fixture.mismatches(object) == [wasSet])
        try engine.pin(object.id)
        #expect(isZero(fixture.page(object, wasSet).baseAddress!, basePageSize))
    }

    @Test func aLostBasePageIsTold() async throws {
        guard let reserve = try await HugePageReserve.take(32, so: Self.untried) else { return }
        defer { reserve.release() }
        let fixture = try HugeFixture()
        let engine = fixture.engine
        let object = try fixture.makeObject(units: 2)
        #expect(engine.shrink(.all).failure == nil)
        let lost = try #require((unitPages..<2 * unitPages).first { !fixture.isExpectedZero(object, $0) })
        let data = try fixture.dataFile(object)
        try Files.punch(data.number, at: lost * basePageSize, length: basePageSize)
        let result = engine.recover(.all)
        #expect(result.recoveredPages == unitPages && result.failedPages == unitPages && result.failure?.code == .damaged)
        #expect(throws: EngineError.self) { try engine.pin(object.id) }
        #expect(throws: EngineError.self) { _ = try fixture.mismatches(object) }
        // The next engine says so, and keeps what is left.
        let persistent = try engine.persistentDescriptors(of: fixture.pool)
        let next = try Engine(backup: try BackupDirectory(path: fixture.backup.path), logger: quiet)
        let (_, healing) = try next.adoptPool(file: try persistent.file.duplicate(), ledger: try persistent.ledger.duplicate())
        #expect(healing.lost == 1)
        #expect(throws: EngineError.self) { try next.pin(object.id) }
    }

    @Test func withoutAFreeHugePageNothingChanges() async throws {
        guard let reserve = try await HugePageReserve.take(12, so: Self.untried) else { return }
        defer { reserve.release() }
        let fixture = try HugeFixture()
        let engine = fixture.engine
        let object = try fixture.makeObject(units: 4)
        #expect(engine.shrink(.all).failure == nil)
        let hoard = try HugePageHoard()
        #expect(try HugePages().available == 0)
        let recovered = engine.recover(.object(object.id))
        #expect(recovered.failure?.code == .outOfMemory && recovered.recoveredPages == 0)
        #expect(recovered.failure?.message.contains("vm.nr_hugepages") == true)
        do throws(EngineError) {
            try engine.pin(object.id)
            Issue.record("there is no page for it")
        } catch { #expect(error.code == .outOfMemory) }
        #expect(try engine.object(object.id).pages == PageCounts(backedUp: 4) && engine.object(object.id).pinCount == 0)
        #expect(try fixture.mismatches(object) == [])
        // A new one is not made either, and leaves nothing.
        let free = try engine.pool(fixture.pool).freeBytes
        do throws(EngineError) {
            _ = try engine.createObject(in: fixture.pool, name: "none", size: ByteCount(2 * unitBytes))
            Issue.record("there is no page for it")
        } catch { #expect(error.code == .outOfMemory && error.message.contains("vm.nr_hugepages")) }
        #expect(try engine.pool(fixture.pool).freeBytes == free && engine.pool(fixture.pool).allocatedBytes == .zero)
        hoard.letGo()
        #expect(try engine.pin(object.id).retained)
        #expect(fixture.isWholeInMapping(object))
        #expect(engine.brokenInvariants() == [])
    }

    /// Room for one is made of others of its kind, and what is pinned stays.
    @Test func othersGiveWay() async throws {
        guard let reserve = try await HugePageReserve.take(12, so: Self.untried) else { return }
        defer { reserve.release() }
        let fixture = try HugeFixture()
        let engine = fixture.engine
        let first = try fixture.makeObject(units: 4)
        #expect(engine.shrink(.object(first.id)).failure == nil)
        let second = try fixture.makeObject(units: 4)
        let pinned = try fixture.makeObject(units: 2)
        try engine.pin(pinned.id)
        let hoard = try HugePageHoard()
        #expect(try engine.pin(first.id).retained)
        #expect(try engine.object(second.id).pages.backedUp == 4 && engine.object(pinned.id).pages.resident == 2)
        for object in [first, second, pinned] { #expect(try fixture.mismatches(object) == []) }
        // Nobody is left who could.
        #expect(throws: EngineError.self) { try engine.pin(second.id) }
        hoard.letGo()
        #expect(engine.brokenInvariants() == [])
    }

    /// Who wants the machine's memory gets none of huge pages.
    @Test func pressureLeavesHugePagesAlone() async throws {
        guard let reserve = try await HugePageReserve.take(32, so: Self.untried) else { return }
        defer { reserve.release() }
        let fixture = try HugeFixture()
        let engine = fixture.engine
        let object = try fixture.makeObject(units: 4)
        #expect(engine.shrinker.count(ReclaimContext.background) == .empty)
        #expect(engine.shrink(.bytes(.mebibytes(2))).freedBytes == .zero)
        let base = try engine.createPool(name: "base", owner: 0, size: .mebibytes(4)).id
        let plain = try engine.createObject(in: base, name: "plain", size: .mebibytes(2))
        let file = try engine.poolDescriptor(base)
        let memory = try MappedMemory(sharing: file.number, count: 4 << 20)
        for page in 0..<512 { memory.bytes[page * basePageSize] = 1 }
        try engine.unpin(plain.id)
        let result = engine.shrink(.bytes(.mebibytes(2)))
        #expect(result.freedBytes == .mebibytes(2) && result.hugePageBytes == .zero && result.returnedHugePageBytes == nil)
        #expect(try engine.object(object.id).pages.resident == 4)
        let pool = engine.shrink(.pool(fixture.pool))
        #expect(pool.freedBytes.rawValue == 4 * unitBytes && pool.returnedHugePageBytes?.rawValue == 4 * unitBytes)
        #expect(engine.brokenInvariants() == [])
    }

    @Test func limitsCountBytes() async throws {
        guard let reserve = try await HugePageReserve.take(32, so: Self.untried) else { return }
        defer { reserve.release() }
        let fixture = try HugeFixture { $0.userLimits.backedUpBytes = ByteCount(3 * unitBytes) }
        let engine = fixture.engine
        let pool = try engine.createPool(name: "limited", owner: 1000, size: ByteCount(8 * unitBytes), of: .huge).id
        let object = try engine.createObject(in: pool, name: "o", size: ByteCount(5 * unitBytes))
        let file = try engine.poolDescriptor(pool)
        let memory = try MappedMemory(sharing: file.number, count: 8 * unitBytes)
        for unit in 0..<5 { memory.bytes[object.offsetBytes.rawValue + unit * unitBytes] = 1 }
        try engine.unpin(object.id)
        let result = engine.shrink(.pool(pool))
        #expect(result.failure?.code == .limitReached && result.freedBytes.rawValue == 3 * unitBytes)
        #expect(engine.userUsage(of: 1000).backedUpBytes.rawValue == 3 * unitBytes)
        #expect(engine.brokenInvariants() == [])
    }

    @Test func givenUpContentIsZerosAndSaidOnce() async throws {
        guard let reserve = try await HugePageReserve.take(32, so: Self.untried) else { return }
        defer { reserve.release() }
        let fixture = try HugeFixture()
        let engine = fixture.engine
        let object = try fixture.makeObject(units: 3)
        try engine.setPurgeable(object.id, true)
        let result = engine.shrink(.all)
        #expect(result.purgedPages == 3 * unitPages && result.storedBytes == .zero && result.freedBytes.rawValue == 3 * unitBytes)
        let hoard = try HugePageHoard(leaving: 1)
        #expect(throws: EngineError.self) { try engine.pin(object.id) }
        hoard.letGo()
        #expect(try engine.pin(object.id).retained == false, "a pin that failed for want of pages has not told it")
        #expect((0..<3 * unitPages).allSatisfy { isZero(fixture.page(object, $0).baseAddress!, basePageSize) })
        #expect(try engine.pin(object.id).retained)
        #expect(engine.brokenInvariants() == [])
    }

    @Test func gatesAndLeases() async throws {
        guard let reserve = try await HugePageReserve.take(32, so: Self.untried) else { return }
        defer { reserve.release() }
        let fixture = try HugeFixture()
        let engine = fixture.engine
        let object = try fixture.makeObject(units: 2)
        let user = try GateUser(engine)
        let gate = user.gate(try engine.attachGate(object.id, client: user.id))
        #expect(gate.pin() != nil, "whole in its pool")
        #expect(engine.shrink(.object(object.id)).failure?.code == .busy)
        #expect(gate.unpin())
        #expect(engine.shrink(.object(object.id)).freedBytes.rawValue == 2 * unitBytes)
        #expect(gate.pin() == nil)
        #expect(try engine.pinGate(object.id, client: user.id).retained)
        #expect(fixture.isWholeInMapping(object))
        #expect(gate.unpin() && gate.pin() != nil)
        // A recover without a pin leaves holes of zeros: then nobody pins without a call.
        try engine.setLease(object.id, true)
        let listener = Listener(engine, user.id) { _ in gate.unpin() }
        let asked = engine.shrink(.object(object.id))
        #expect(asked.revokedLeases == 1 && asked.returnedHugePageBytes?.rawValue == 2 * unitBytes && asked.kernelFreedBytes == nil)
        withExtendedLifetime(listener) {}
        #expect(engine.brokenInvariants() == [])
    }

    @Test func withoutHugePagesThePoolIsRefused() async throws {
        guard let reserve = try await HugePageReserve.take(0, so: "a machine without huge pages is not tried") else { return }
        defer { reserve.release() }
        guard try !HugePages().isAny else { return Machine.lacks("a machine without surplus huge pages", so: "the refusal is not tried") }
        let fixture = try EngineFixture(poolPages: 16)
        do throws(EngineError) {
            _ = try fixture.engine.createPool(name: "huge", owner: 0, size: .mebibytes(4), of: .huge)
            Issue.record("there is none")
        } catch { #expect(error.code == .outOfMemory && error.message.contains("vm.nr_hugepages"), "\(error)") }
        #expect(Engine.hugePageSupport().isAvailable == false)
        do throws(EngineError) {
            _ = try fixture.engine.createPool(name: "huge", owner: 0, size: ByteCount(unitBytes + basePageSize), of: .huge)
            Issue.record("no whole number of units")
        } catch { #expect(error.code == .invalidSize) }
    }

    /// The engine stops dead between two steps; the next one has every unit whole.
    @Test(arguments: [
        FaultPoint.cancel, .afterProtect, .beforeCopyOut, .afterCopyOut, .afterWords, .afterFree, .room, .beforeCopyIn, .afterCopyIn,
        .beforeUnprotect, .afterRecoverWords, .beforeDrop, .afterDrop,
    ]) func whereverAnEngineDiesTheNextOneHasEveryUnit(_ point: FaultPoint) async throws {
        guard let reserve = try await HugePageReserve.take(24, so: Self.untried) else { return }
        defer { reserve.release() }
        let isRecover = [FaultPoint.room, .beforeCopyIn, .afterCopyIn, .beforeUnprotect, .afterRecoverWords, .beforeDrop, .afterDrop]
            .contains(point)
        let death = Death(at: point, hit: 2)
        let fixture = try HugeFixture(units: 12) { configuration in
            configuration.copyWorkers = 1
            configuration.faults = { at, _, _ in death.strikes(at) ? EngineError(.interrupted, "died at \(at)") : nil }
        }
        let objects = try [4, 1].map { try fixture.makeObject(units: $0) }
        if isRecover { #expect(fixture.engine.shrink(.all).failure == nil) }
        death.arm()
        let failure = isRecover ? fixture.engine.recover(.all).failure : fixture.engine.shrink(.all).failure
        #expect(failure?.message == "died at \(point)", "the point was not reached")
        let persistent = try fixture.engine.persistentDescriptors(of: fixture.pool)
        let next = try Engine(backup: try BackupDirectory(path: fixture.backup.path), logger: quiet)
        let (pool, healing) = try next.adoptPool(file: try persistent.file.duplicate(), ledger: try persistent.ledger.duplicate())
        switch point {
        case .afterCopyOut, .beforeUnprotect, .afterRecoverWords, .beforeDrop:
            #expect(healing.punchedInStore > 0 && healing.punchedInPool == 0 && healing.lost == 0)
        case .afterWords, .afterCopyIn: #expect(healing.punchedInPool > 0 && healing.punchedInStore == 0 && healing.lost == 0)
        default: #expect(healing == HealingReport())
        }
        for object in objects { #expect(try fixture.mismatches(object, in: next) == []) }
        #expect(next.shrink(.all).failure == nil)
        #expect(try next.pool(pool).allocatedBytes == .zero && next.pool(pool).isHuge)
        for object in objects {
            #expect(try next.pin(object.id).retained)
            #expect(fixture.isWholeInMapping(object))
        }
        #expect(next.brokenInvariants() == [])
    }
}
