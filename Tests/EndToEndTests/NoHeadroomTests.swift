import ShrinkClient
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import TestSupport
import Testing

/// Shrinking is for when there is no memory left, so it must need none.
@Suite(.serialized) struct NoHeadroomTests {
    private static let poolBytes = 64 << 20
    /// The pool, the store on tmpfs and both daemons are in a memory cgroup whose limit is exactly what they have. The client is not: nothing but the daemons
    /// can notice, decide, shrink, or be killed.
    ///
    /// `hugeSegments`: the store has large pages to begin with, and must do without.
    @Test(arguments: [(1, false), (4, false), (1, true)])
    func shrinkingInAFullCgroupKillsNobody(_ incompressible: Int, hugeSegments: Bool) async throws {
        guard Machine.isRoot, let group = try? MemoryGroup.make("-full"), group.killed != nil else {
            return Machine.lacks("a writable memory cgroup (version 1)", so: "shrinking without headroom is not tested")
        }
        defer { group.remove() }
        let scratch = try ScratchDirectory()
        let (path, seenPath) = (group.path, scratch.file("seen"))
        await #expect(processExitsWith: .success) {
            [
                path = path as String, seenPath = seenPath as String, incompressible = incompressible as Int,
                hugeSegments = hugeSegments as Bool
            ] in
            func tell(_ text: String) { try? Files.replaceContents(of: seenPath, with: Array(text.utf8)) }
            let group = MemoryGroup(path: path)
            try group.enter()
            let tmpfs = try ScratchMemoryFileSystem(sizeBytes: 128 << 20, options: hugeSegments ? "huge=within_size" : nil)
            let daemon = try DaemonProcess(
                store: tmpfs.path,
                arguments: ["--segment", hugeSegments ? "4M" : "1M", "--low-watermark", "10%", "--high-watermark", "20%"],
                environment: ["SHRINKD_PRESSURE=on"])
            if hugeSegments {
                let stats = String(decoding: try Files.contents(of: daemon.mountPoint + "/stats"), as: UTF8.self)
                guard stats.contains("huge_segments: yes\n") else { throw Errno.notSupported }
            }
            let client = try ShrinkdClient(path: daemon.socket)
            let memory = try client.createPool("pool", sizeBytes: Self.poolBytes)
            var objects: [WireObject] = []
            for _ in 0..<Self.poolBytes >> 22 {
                let object = try client.call(
                    Methods.createObject,
                    CreateObjectParameters(pool: PoolAddress(id: memory.pool.poolId), objectName: "o", sizeBytes: 4 << 20)
                ).bufferObject
                guard let bytes = memory.bytes(of: object) else { throw Errno.ioError }
                PartlyRandom.fill(bytes, seed: UInt64(object.objectId), one: incompressible)
                _ = try client.call(Methods.unpin, ObjectAddress(objectId: object.objectId))
                objects.append(object)
            }
            let parts = ["keeper", "engine", "backupfs"].map { daemon.process(of: $0) }
            try group.leave()
            // Nothing to drop must be left, or there is headroom after all.
            for _ in 0..<3 { try? group.dropCaches() }
            let cache = (try group.statistic("total_cache") ?? 0) - (try group.statistic("total_shmem") ?? 0)
            let used = try group.usageBytes
            try group.limit(used)
            // Nobody asks the daemon anything meanwhile, for an answer takes memory of the kernel's: its store tells how far it is.
            let store = try Files.open(tmpfs.path, [.readOnly, .directory])
            let free = try FileSystem(of: store.number).availableBytes
            try daemon.waitFor("a tenth of the pool to go out", seconds: 90) {
                let stored = Int(free) - Int(try FileSystem(of: store.number).availableBytes)
                tell(
                    "\(stored >> 10) KiB stored, \(try group.usageBytes >> 10) of \(used >> 10) KiB used, \(cache >> 10) KiB of it droppable at first\n\(daemon.said)"
                )
                // Three quarters of a page that is not all random compress to next to nothing.
                return stored > Self.poolBytes / 10 / incompressible
            }
            let status = try client.call(Methods.status, NoParameters())
            guard status.pages.backedUp * 4096 > Self.poolBytes / 20 else { throw Errno.noSpace }
            let after = ["keeper", "engine", "backupfs"].map { daemon.process(of: $0) }
            guard group.killed == 0, after == parts else { throw Errno.noMemory }
            try group.limit(1 << 30)
            for object in objects {
                _ = try client.call(Methods.pin, ObjectAddress(objectId: object.objectId))
                guard let bytes = memory.bytes(of: object), PartlyRandom.isIntact(bytes, seed: UInt64(object.objectId), one: incompressible)
                else { throw Errno.ioError }
                _ = try client.call(Methods.unpin, ObjectAddress(objectId: object.objectId))
            }
            client.close()
            guard try daemon.stop() == .exited(0) else { throw Errno.interrupted }
        }
        #expect(group.killed == 0)
        print((try? Files.contents(of: seenPath)).map { String(decoding: $0, as: UTF8.self) } ?? "it saw nothing")
    }
}

/// Pages of which one word in so many is random; no two alike.
enum PartlyRandom {
    static func fill(_ bytes: UnsafeMutableRawBufferPointer, seed: UInt64, one part: Int) {
        var generator = SeededGenerator(seed: seed)
        let words = bytes.bindMemory(to: UInt64.self)
        for index in words.indices { words[index] = index % part == 0 ? generator.next() : seed }
    }

    static func isIntact(_ bytes: UnsafeMutableRawBufferPointer, seed: UInt64, one part: Int) -> Bool {
        var generator = SeededGenerator(seed: seed)
        let words = bytes.bindMemory(to: UInt64.self)
        for index in words.indices where words[index] != (index % part == 0 ? generator.next() : seed) { return false }
        return true
    }
}
