import ShrinkEngine
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// The kernel's tests of `ttm_bo`, `ttm_bo_validate` and xe's live tests that have a meaning here, under their names (docs/kernel-map.md).
@Suite struct KernelBufferTests {
    /// The order of reclaim, as ids.
    private func order(_ engine: Engine) -> [ObjectID] {
        var ids: [ObjectID] = []
        _ = engine.forEachReserved { view in
            ids.append(view.id)
            return .next
        }
        return ids
    }

    // MARK: ttm_bo

    @Test func unreserve_basic() throws {
        let fixture = try EngineFixture(poolPages: 64)
        let ids = try (0..<4).map { _ in try fixture.makeObject(pages: 1).id }
        #expect(order(fixture.engine) == ids)
        try fixture.engine.pin(ids[1])
        try fixture.engine.unpin(ids[1])
        #expect(order(fixture.engine) == [ids[0], ids[2], ids[3], ids[1]])
    }

    @Test func unreserve_pinned() throws {
        let fixture = try EngineFixture(poolPages: 64)
        let ids = try (0..<3).map { _ in try fixture.makeObject(pages: 1).id }
        try fixture.engine.pin(ids[0])
        _ = fixture.engine.withReserved([ids[0]]) {}
        #expect(order(fixture.engine) == [ids[1], ids[2]], "letting go of a pinned object does not list it")
    }

    @Test func unreserve_bulk() throws {
        let fixture = try EngineFixture(poolPages: 64)
        let ids = try (0..<5).map { _ in try fixture.makeObject(pages: 1).id }
        let bulk = try fixture.engine.createBulkMove()
        for id in [ids[0], ids[1], ids[2]] { try fixture.engine.setBulkMove(bulk, of: id) }
        #expect(order(fixture.engine) == [ids[3], ids[4], ids[0], ids[1], ids[2]])
        for id in [ids[3], ids[4]] {
            try fixture.engine.pin(id)
            try fixture.engine.unpin(id)
        }
        // Used alone: the last of its range, not of the list.
        try fixture.engine.pin(ids[0])
        try fixture.engine.unpin(ids[0])
        #expect(order(fixture.engine) == [ids[1], ids[2], ids[0], ids[3], ids[4]])
        fixture.engine.bump(bulk)
        #expect(order(fixture.engine) == [ids[3], ids[4], ids[1], ids[2], ids[0]])
    }

    @Test func put_basic() throws {
        let fixture = try EngineFixture(poolPages: 64)
        let object = try fixture.makeObject(pages: 4)
        try fixture.engine.destroyObject(object.id)
        #expect(throws: EngineError.self) { try fixture.engine.destroyObject(object.id) }
        #expect(throws: EngineError.self) { try fixture.engine.pin(object.id) }
        #expect(try fixture.engine.pool(fixture.pool).objectCount == 0)
    }

    @Test func pin_basic() throws {
        let fixture = try EngineFixture(poolPages: 64)
        let object = try fixture.makeObject(pages: 4)
        for pins in 1...3 {
            try fixture.engine.pin(object.id)
            #expect(try fixture.engine.object(object.id).pinCount == pins)
        }
        for _ in 0..<3 { try fixture.engine.unpin(object.id) }
        do {
            try fixture.engine.unpin(object.id)
            #expect(Bool(false), "unpinned more often than pinned")
        } catch { #expect(error.code == .notPinned) }
    }

    @Test func pin_unpin_resource() throws {
        let fixture = try EngineFixture(poolPages: 64)
        let ids = try (0..<4).map { _ in try fixture.makeObject(pages: 1).id }
        let bulk = try fixture.engine.createBulkMove()
        for id in ids.prefix(3) { try fixture.engine.setBulkMove(bulk, of: id) }
        // Pinned: out of the bulk's range; the last unpin puts it back there.
        try fixture.engine.pin(ids[1])
        #expect(order(fixture.engine) == [ids[3], ids[0], ids[2]])
        try fixture.engine.pin(ids[3])
        try fixture.engine.unpin(ids[3])
        #expect(order(fixture.engine) == [ids[0], ids[2], ids[3]])
        fixture.engine.bump(bulk)
        #expect(order(fixture.engine) == [ids[3], ids[0], ids[2]])
        try fixture.engine.unpin(ids[1])
        #expect(order(fixture.engine) == [ids[3], ids[0], ids[2], ids[1]])
    }

    @Test func multiple_pin_one_unpin() throws {
        let fixture = try EngineFixture(poolPages: 64)
        let object = try fixture.makeObject(pages: 4)
        try fixture.engine.pin(object.id)
        try fixture.engine.pin(object.id)
        try fixture.engine.unpin(object.id)
        #expect(order(fixture.engine) == [])
        #expect(fixture.engine.shrink(.all).freedBytes == .zero)
    }

    // MARK: ttm_bo_validate

    @Test func validate_pinned() throws {
        let fixture = try EngineFixture(poolPages: 64)
        let object = try fixture.makeObject(pages: 4)
        try fixture.engine.pin(object.id)
        #expect(fixture.engine.shrink(.object(object.id)).failure?.code == .busy)
        #expect(try fixture.mismatches(object) == [])
    }

    @Test func validate_same_placement() throws {
        let fixture = try EngineFixture(poolPages: 64)
        let object = try fixture.makeObject(pages: 4)
        let result = fixture.engine.recover(.object(object.id))
        #expect(result.recoveredPages == 0 && result.failure == nil)
    }

    /// Dropping the content is no move: no byte is copied.
    @Test func no_placement() throws {
        let fixture = try EngineFixture(poolPages: 64)
        let object = try fixture.makeObject(pages: 8, zeroEvery: 0)
        _ = fixture.engine.shrink(.bytes(ByteCount(3 * basePageSize)))
        try fixture.engine.discardContent(object.id)
        #expect(try fixture.engine.pin(object.id).retained == false)
        #expect(try fixture.engine.object(object.id).pages == PageCounts(empty: 8))
        #expect(fixture.backup.status().storedBytes == 0)
    }

    private func limited(pages: Int, storeBytes: Int = 64 << 20) throws -> EngineFixture {
        try EngineFixture(poolPages: 1024, storeBytes: storeBytes) { configuration in
            configuration.copyWorkers = 1
            configuration.maximumResident = ByteCount(pages * basePageSize)
        }
    }

    /// The first of the list makes room, the others stay.
    @Test func happy_evict() throws {
        let fixture = try limited(pages: 100)
        let small = try (0..<3).map { _ in try fixture.makeObject(pages: 30, zeroEvery: 0) }
        let new = try fixture.makeObject(pages: 30, zeroEvery: 0)
        #expect(try small.map { try fixture.engine.object($0.id).pages.backedUp } == [20, 0, 0])
        #expect(try fixture.engine.object(new.id).pages.resident == 30)
    }

    @Test func all_pinned_evict() throws {
        let fixture = try limited(pages: 100)
        for _ in 0..<3 { try fixture.engine.pin(try fixture.makeObject(pages: 30, zeroEvery: 0).id) }
        do {
            _ = try fixture.engine.createObject(in: fixture.pool, name: "o", size: ByteCount(30 * basePageSize))
            #expect(Bool(false), "room came out of nothing")
        } catch { #expect(error.code == .outOfMemory) }
    }

    @Test func allowed_only_evict() throws {
        let fixture = try limited(pages: 100)
        let objects = try (0..<3).map { _ in try fixture.makeObject(pages: 30, zeroEvery: 0) }
        try fixture.engine.pin(objects[0].id)
        _ = try fixture.makeObject(pages: 30, zeroEvery: 0)
        #expect(try objects.map { try fixture.engine.object($0.id).pages.backedUp } == [0, 20, 0])
    }

    /// What a destroyed object left makes room before anything is moved.
    @Test func deleted_evict() throws {
        let fixture = try limited(pages: 100)
        let dead = try fixture.makeObject(pages: 60, zeroEvery: 0)
        let kept = try fixture.makeObject(pages: 30, zeroEvery: 0)
        try fixture.engine.destroyObject(dead.id)
        let new = try fixture.engine.createObject(in: fixture.pool, name: "o", size: ByteCount(128 * basePageSize / 2))
        #expect(new.pageCount == 64)
        #expect(try fixture.engine.object(kept.id).pages.backedUp == 0)
    }

    /// Where the victim would go there is no room: an error, and the victim is whole.
    @Test func busy_domain_evict() throws {
        let fixture = try limited(pages: 600, storeBytes: 64 << 10)
        let victim = try fixture.makeObject(pages: 500, zeroEvery: 0)
        do {
            _ = try fixture.engine.createObject(in: fixture.pool, name: "o", size: ByteCount(500 * basePageSize))
            #expect(Bool(false), "500 pages fit into a store of 16")
        } catch { #expect(error.code == .outOfMemory) }
        #expect(try fixture.mismatches(victim, zeroEvery: 0) == [])
        try fixture.engine.pin(victim.id)
        #expect(try fixture.mismatches(victim, zeroEvery: 0) == [])
    }

    /// The victim loses its content where that is allowed.
    @Test func evict_gutting() throws {
        let fixture = try limited(pages: 100)
        let kept = try fixture.makeObject(pages: 40, zeroEvery: 0)
        let victim = try fixture.makeObject(pages: 50, zeroEvery: 0)
        try fixture.engine.setPurgeable(victim.id, true)
        _ = try fixture.makeObject(pages: 50, zeroEvery: 0)
        #expect(try fixture.engine.object(kept.id).pages.backedUp == 0)
        #expect(try fixture.engine.pin(victim.id).retained == false)
    }

    // MARK: xe live tests

    @Test func xe_bo_evict() throws {
        let fixture = try EngineFixture(poolPages: 512)
        let pinned = try fixture.makeObject(pages: 50)
        let normal = try fixture.makeObject(pages: 50)
        try fixture.engine.pin(pinned.id)
        _ = fixture.engine.evict()
        #expect(try fixture.engine.object(pinned.id).pages.backedUp == 0)
        let out = try fixture.engine.object(normal.id).pages
        #expect(out.resident == 0 && out.backedUp > 0)
        // The pinned one was never away; the normal one stays out until it is asked for.
        try fixture.engine.pin(normal.id)
        for object in [pinned, normal] { #expect(try fixture.mismatches(object) == []) }
    }

    /// Twice what fits, some of it purgeable: everything lands, interruptions are retried, every surviving page is verified.
    @Test func xe_bo_shrink() throws {
        let seed = testSeed("xe_bo_shrink")
        var generator = SeededGenerator(seed: seed)
        let limit = 2048
        let pages = 128
        let count = 2 * limit / pages
        let interruptions = InterruptionEvery(seed: seed, one: 5)
        let fixture = try EngineFixture(poolPages: 2 * limit, storeBytes: (limit + 512) * basePageSize, seed: seed) { configuration in
            configuration.maximumResident = ByteCount(limit * basePageSize)
            configuration.faults = { point, _, _ in interruptions.strikes(point) ? EngineError(.interrupted, "signal") : nil }
        }
        let engine = fixture.engine
        var objects: [(info: ObjectInfo, isPurgeable: Bool)] = []
        for index in 0..<count {
            // The first ones are purgeable, of the lowest priority.
            let isPurgeable = index < count / 4
            let object = try engine.createObject(
                in: fixture.pool, name: "o", size: ByteCount(pages * basePageSize), priority: isPurgeable ? .lowest : .normal)
            fixture.fill(object, zeroEvery: 0)
            if isPurgeable { try engine.setPurgeable(object.id, true) }
            try engine.unpin(object.id)
            objects.append((object, isPurgeable))
            #expect(try engine.pool(fixture.pool).allocatedBytes.rawValue <= limit * basePageSize)
        }
        var interrupted = 0
        var lost = 0
        for object in objects.shuffled(using: &generator) {
            var answer: PinAnswer?
            while answer == nil {
                do { answer = try engine.pin(object.info.id) } catch {
                    guard error.code == .interrupted else { throw error }
                    interrupted += 1
                    #expect(interrupted < 100_000)
                }
            }
            if answer?.retained == false {
                #expect(object.isPurgeable)
                lost += 1
                #expect(fixture.bytes(object.info, 0).allSatisfy { $0 == 0 })
            } else {
                for page in 0..<pages {
                    let expected = fixture.pattern.page(Int(object.info.id.rawValue) << 20 | page, zeroEvery: 0)
                    #expect(fixture.bytes(object.info, page).elementsEqual(expected), "seed \(seed)")
                }
            }
            try engine.unpin(object.info.id)
        }
        #expect(interrupted > 0 && lost > 0, "seed \(seed): \(interrupted) interruptions, \(lost) purged")
        try engine.destroyPool(fixture.pool)
        #expect(engine.shrinker.count(.background) == .empty)
        #expect(try fixture.backup.objects() == [])
    }
}
