import ShrinkEngine
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// What must hold with a million objects, tried with fewer; `shrinkbench engine` has the figures of the million.
@Suite struct ManyObjectsTests {
    @Test func anObjectTakesLittleMemoryAndAllOfItComesBack() throws {
        let tmpfs = try ScratchMemoryFileSystem(sizeBytes: 1 << 20)
        let engine = try Engine(backup: try BackupDirectory(path: tmpfs.path), logger: quiet)
        let count = 60_000
        let pool = try engine.createPool(name: "many", owner: 0, size: ByteCount(count * basePageSize), backup: KernelSwap()).id
        var ids: [ObjectID] = []
        for _ in 0..<count {
            ids.append(try engine.createObject(in: pool, name: "o", size: ByteCount(1)).id)
            try engine.unpin(ids[ids.count - 1])
        }
        let full = engine.memoryBytes
        #expect(full / count <= 256, "\(full / count) bytes an object")
        var visits = 0
        #expect(
            engine.forEachReserved { _ in
                visits += 1; return .next
            } == .finished(busy: 0))
        #expect(visits == count)
        for id in ids { try engine.destroyObject(id) }
        // As many again need no more.
        for _ in 0..<count { try engine.unpin(try engine.createObject(in: pool, name: "o", size: ByteCount(1)).id) }
        #expect(engine.memoryBytes <= full + full / 8)
    }
}
