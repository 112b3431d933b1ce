import ShrinkEngine
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// The kernel's tests of `ttm_device`, `ttm_pool`, `ttm_resource` and `ttm_tt` that have a meaning here, under their names (docs/kernel-map.md).
@Suite struct KernelObjectTests {
    // MARK: ttm_device

    @Test func device_init_basic() throws {
        let tmpfs = try ScratchMemoryFileSystem(sizeBytes: 1 << 20)
        let engine = try Engine(backup: try BackupDirectory(path: tmpfs.path), logger: quiet)
        let status = engine.status()
        #expect(status.poolCount == 0 && status.objectCount == 0 && status.orphans == 0 && status.pages == PageCounts())
        #expect(engine.shrinker.count(.background) == .empty && engine.shrinker.scan(goalPages: 1, .background) == .stop)
    }

    @Test func device_init_multiple() throws {
        let fixtures = try (0..<3).map { _ in try EngineFixture(poolPages: 64) }
        for (index, fixture) in fixtures.enumerated() { for _ in 0...index { _ = try fixture.makeObject(pages: 2) } }
        #expect(fixtures.map { $0.engine.status().objectCount } == [1, 2, 3])
        #expect(Set(fixtures.map { $0.backup.path }).count == 3)
    }

    @Test func device_fini_basic() throws {
        let fixture = try EngineFixture(poolPages: 64)
        for _ in 0..<3 { _ = try fixture.makeObject(pages: 4) }
        _ = fixture.engine.shrink(.bytes(ByteCount(6 * basePageSize)))
        try fixture.engine.destroyPool(fixture.pool)
        #expect(fixture.engine.shrinker.count(.background) == .empty)
        #expect(try fixture.backup.objects() == [] && fixture.engine.pools().isEmpty)
    }

    @Test func device_init_no_backup() throws {
        do {
            _ = try BackupDirectory(path: "/proc/no/such/directory")
            #expect(Bool(false), "a missing directory was taken")
        } catch { #expect(error.code == .unsuitableDirectory) }
    }

    // MARK: ttm_pool

    @Test(arguments: [1, 4, 1025]) func pool_alloc_basic(_ pages: Int) throws {
        let fixture = try EngineFixture(poolPages: 2048)
        let free = try fixture.engine.pool(fixture.pool).freeBytes.rawValue
        let object = try fixture.makeObject(pages: pages, zeroEvery: 0)
        #expect(object.pageCount == pages)
        #expect(try fixture.engine.pool(fixture.pool).freeBytes.rawValue == free - pages * basePageSize, "exact, not rounded to an order")
        #expect(try fixture.engine.object(object.id).pages == PageCounts(resident: pages))
    }

    @Test func pool_alloc_order_match() throws {
        let fixture = try EngineFixture(poolPages: 256)
        let first = try fixture.makeObject(pages: 16, zeroEvery: 0)
        try fixture.engine.destroyObject(first.id)
        #expect(fixture.engine.shrinker.count(.direct) == .pages(16), "the freed block is ready")
        let second = try fixture.engine.createObject(in: fixture.pool, name: "o", size: ByteCount(16 * basePageSize))
        #expect(second.offsetBytes == first.offsetBytes)
        #expect(fixture.engine.shrinker.count(.direct) == .empty, "and is used again")
    }

    /// What another pool has ready is not touched; after freeing both hold blocks.
    @Test func pool_alloc_mismatch() throws {
        let fixture = try EngineFixture(poolPages: 64)
        let mine = try fixture.makeObject(pages: 8, zeroEvery: 0)
        try fixture.engine.destroyObject(mine.id)
        let other = try fixture.engine.createPool(name: "other", owner: 0, size: .mebibytes(1)).id
        let object = try fixture.engine.createObject(in: other, name: "o", size: ByteCount(8 * basePageSize))
        #expect(fixture.engine.shrinker.count(.direct) == .pages(8))
        let file = try fixture.engine.poolDescriptor(other)
        let memory = try MappedMemory(sharing: file.number, count: 1 << 20)
        for page in 0..<8 { memory.base.storeBytes(of: 1, toByteOffset: object.offsetBytes.rawValue + page * basePageSize, as: UInt8.self) }
        try fixture.engine.destroyObject(object.id, ownPins: 1)
        #expect(fixture.engine.shrinker.count(.direct) == .pages(16))
        #expect(fixture.engine.shrink(.pool(other)).freedBytes == ByteCount(8 * basePageSize))
        #expect(fixture.engine.shrinker.count(.direct) == .pages(8))
    }

    @Test func pool_fini_basic() throws {
        let fixture = try EngineFixture(poolPages: 64)
        let object = try fixture.makeObject(pages: 8, zeroEvery: 0)
        try fixture.engine.destroyObject(object.id)
        try fixture.engine.destroyPool(fixture.pool)
        #expect(fixture.engine.shrinker.count(.direct) == .empty)
    }

    // MARK: ttm_resource

    @Test func resource_init_basic() throws {
        let fixture = try EngineFixture(poolPages: 64)
        let object = try fixture.engine.createObject(in: fixture.pool, name: "named", size: ByteCount(5000), priority: .high)
        #expect(object.offsetBytes == .zero && object.sizeBytes == ByteCount(5000) && object.pageCount == 2)
        #expect(object.priority == .high && object.name == "named" && object.pool == fixture.pool && object.pinCount == 1)
        #expect(object.pages == PageCounts(empty: 2) && !object.isPurgeable && !object.isPurged)
    }

    @Test func resource_init_pinned() throws {
        let fixture = try EngineFixture(poolPages: 64)
        let object = try fixture.engine.createObject(in: fixture.pool, name: "o", size: ByteCount(4 * basePageSize))
        #expect(fixture.engine.shrinker.count(.background) == .empty)
        #expect(fixture.engine.forEachReserved { _ in .next } == .finished(busy: 0))
        try fixture.engine.unpin(object.id)
        #expect(fixture.engine.shrinker.count(.background) == .pages(4))
    }

    @Test func resource_fini_basic() throws {
        let fixture = try EngineFixture(poolPages: 64)
        let object = try fixture.makeObject(pages: 4)
        try fixture.engine.destroyObject(object.id)
        var visits = 0
        _ = fixture.engine.forEachReserved { _ in
            visits += 1
            return .next
        }
        #expect(visits == 0)
        let pool = try fixture.engine.pool(fixture.pool)
        #expect(pool.objectCount == 0 && pool.pages == PageCounts() && pool.freeBytes == pool.sizeBytes)
    }

    @Test func resource_manager_usage_basic() throws {
        let fixture = try EngineFixture(poolPages: 64)
        let empty = try fixture.engine.pool(fixture.pool)
        #expect(empty.freeBytes == empty.sizeBytes && empty.allocatedBytes == .zero && empty.objectCount == 0)
        _ = try fixture.makeObject(pages: 7, zeroEvery: 0)
        let used = try fixture.engine.pool(fixture.pool)
        #expect(used.allocatedBytes == ByteCount(7 * basePageSize) && used.freeBytes == ByteCount(57 * basePageSize))
    }

    @Test func resource_manager_set_used_basic() throws {
        let fixture = try EngineFixture(poolPages: 64)
        fixture.engine.beginShutdown()
        do {
            _ = try fixture.engine.createObject(in: fixture.pool, name: "o", size: ByteCount(1))
            #expect(Bool(false), "an object was made while stopping")
        } catch { #expect(error.code == .shuttingDown) }
    }

    // MARK: ttm_tt

    @Test func tt_init_misaligned() throws {
        let fixture = try EngineFixture(poolPages: 64)
        for (bytes, pages) in [(1, 1), (4095, 1), (4096, 1), (4097, 2)] {
            #expect(try fixture.engine.createObject(in: fixture.pool, name: "o", size: ByteCount(bytes)).pageCount == pages)
        }
    }

    @Test func tt_fini_shmem() throws {
        let fixture = try EngineFixture(poolPages: 64)
        let object = try fixture.makeObject(pages: 8, zeroEvery: 0)
        _ = fixture.engine.shrink(.all)
        #expect(try fixture.backup.objects() == [object.id])
        try fixture.engine.destroyObject(object.id)
        #expect(try fixture.backup.objects() == [])
        #expect(fixture.backup.status().storedBytes == 0)
    }

    /// The backup can't make room: an error, and nothing is taken.
    @Test func tt_create_failed() throws {
        let fixture = try EngineFixture(poolPages: 64, storeBytes: 1 << 20)
        let next = try fixture.makeObject(pages: 1).id.rawValue + 1
        try Files.makeDirectory("\(fixture.backup.path)/objects/\(next)")
        let free = try fixture.engine.pool(fixture.pool).freeBytes
        do {
            _ = try fixture.engine.createObject(in: fixture.pool, name: "o", size: ByteCount(1))
            #expect(Bool(false), "an id was used twice")
        } catch { #expect(error.code == .backupFailed) }
        #expect(try fixture.engine.pool(fixture.pool).freeBytes == free)
        _ = try fixture.makeObject(pages: 1)
    }

    @Test func tt_populate_populated_ttm() throws {
        let fixture = try EngineFixture(poolPages: 64)
        let object = try fixture.makeObject(pages: 8)
        for _ in 0..<3 { #expect(try fixture.engine.pin(object.id).retained) }
        #expect(try fixture.engine.object(object.id).pinCount == 3)
        #expect(try fixture.mismatches(object) == [])
    }

    @Test func tt_unpopulate_basic() throws {
        let fixture = try EngineFixture(poolPages: 64)
        let object = try fixture.makeObject(pages: 8, zeroEvery: 0)
        #expect(fixture.engine.shrink(.object(object.id)).freedBytes == ByteCount(8 * basePageSize))
        #expect(try fixture.engine.object(object.id).pages == PageCounts(backedUp: 8))
    }

    @Test func tt_unpopulate_empty_ttm() throws {
        let fixture = try EngineFixture(poolPages: 64)
        let object = try fixture.engine.createObject(in: fixture.pool, name: "o", size: ByteCount(8 * basePageSize))
        try fixture.engine.unpin(object.id)
        for _ in 0..<2 {
            let result = fixture.engine.shrink(.object(object.id))
            #expect(result.failure == nil && result.freedBytes == .zero && result.scannedPages == 0)
        }
        #expect(try fixture.engine.object(object.id).pages == PageCounts(empty: 8))
    }

    @Test func tt_swapin_basic() throws {
        let fixture = try EngineFixture(poolPages: 64)
        let object = try fixture.makeObject(pages: 8, zeroEvery: 0)
        #expect(fixture.engine.shrink(.object(object.id)).backedUpPages == 8)
        #expect(fixture.engine.recover(.object(object.id)).recoveredPages == 8)
        #expect(try fixture.engine.object(object.id).pages == PageCounts(resident: 8))
        #expect(try fixture.mismatches(object, zeroEvery: 0) == [])
    }
}
