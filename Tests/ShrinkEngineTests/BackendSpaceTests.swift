import ShrinkEngine
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// Space is asked per backend (`ttm_backup_bytes_avail`), and what is counted can go where it would have to.
@Suite struct BackendSpaceTests {
    @Test func eachPoolsPagesCountAgainstItsOwnBackend() throws {
        let small = try ScratchMemoryFileSystem(sizeBytes: 1 << 20)
        let large = try ScratchMemoryFileSystem(sizeBytes: 16 << 20)
        let engine = try Engine(backup: try BackupDirectory(path: small.path), logger: quiet)
        let other = try engine.createPool(name: "large", owner: 0, size: .mebibytes(8), backup: try BackupDirectory(path: large.path)).id
        _ = try engine.makeFilledObject(in: other, pages: 1024)
        #expect(engine.shrinker.count(.background) == .pages(1024), "the engine's own backup has nothing to do with it")
        // A full one does not borrow from the other, and two pools on one share its room.
        for name in ["a", "b"] {
            let pool = try engine.createPool(name: name, owner: 0, size: .mebibytes(4)).id
            _ = try engine.makeFilledObject(in: pool, pages: 500)
        }
        guard case .pages(let pages) = engine.shrinker.count(.background) else { return #expect(Bool(false)) }
        #expect(pages > 1024 && pages < 1024 + 257)
        try engine.destroyPool(other)
        guard case .pages(let rest) = engine.shrinker.count(.background) else { return #expect(Bool(false)) }
        #expect(rest == pages - 1024)
    }

    /// A backup that was full has room again when pages leave it; a count that never learns that ends all reclaim.
    @Test(arguments: [false, true]) func roomThatComesBackCounts(_ byDestroying: Bool) throws {
        let tmpfs = try ScratchMemoryFileSystem(sizeBytes: 4 << 20)
        let engine = try Engine(backup: try BackupDirectory(path: tmpfs.path), logger: quiet)
        let pool = try engine.createPool(name: "p", owner: 0, size: .mebibytes(16)).id
        let first = try engine.makeFilledObject(in: pool, pages: 900)
        #expect(engine.shrink(.object(first.id)).backedUpPages == 900)
        _ = try engine.makeFilledObject(in: pool, pages: 800)
        // The rest does not fit.
        #expect(engine.shrink(.all).failure?.code == .backupFull)
        #expect(engine.shrinker.count(.background) == .pages(0))
        if byDestroying { try engine.destroyObject(first.id) } else { try engine.pin(first.id) }
        guard case .pages(let pages) = engine.shrinker.count(ReclaimContext(caller: .direct)) else { return #expect(Bool(false)) }
        // What a destroyed object leaves in the pool is ready to go too.
        #expect(pages >= 600, "\(pages)")
    }
}
