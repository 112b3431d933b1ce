import ShrinkEngine
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// The engine over a packed store behind a real mount, where the store's own nature matters: a second tier, and zeros that become holes.
@Suite(.serialized) struct MountedBackupTests {
    private func withEngine(
        firstTierBytes: Int, _ body: (BackupFileSystemProcess, Engine, PoolID, borrowing MappedMemory) throws -> Void
    ) throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "the engine over a store of two tiers is not tested") }
        let memory = try ScratchMemoryFileSystem(sizeBytes: firstTierBytes)
        let disk = try ScratchDirectory()
        try Files.makeDirectory(disk.file("far"), mode: 0o700)
        try withExtendedLifetime((memory, disk)) {
            try withBackupFileSystem(
                store: memory.path, arguments: ["--store", disk.file("far"), "--layout", "packed", "--segment", "1M"]
            ) { server in
                let engine = try Engine(backup: try BackupDirectory(path: server.mountPoint), logger: quiet)
                let pool = try engine.createPool(name: "test", owner: 0, size: .mebibytes(64)).id
                let file = try engine.poolDescriptor(pool)
                let memory = try MappedMemory(sharing: file.number, count: 64 << 20)
                try body(server, engine, pool, memory)
                try engine.destroyPool(pool)
            }
        }
    }

    private func makeObject(_ engine: Engine, _ pool: PoolID, _ memory: borrowing MappedMemory, pages: Int) throws -> ObjectInfo {
        let object = try engine.createObject(in: pool, name: "o", size: ByteCount(pages * basePageSize))
        for page in 0..<pages { fill(bytes(object, page, memory), object, page) }
        try engine.unpin(object.id)
        return object
    }

    private func bytes(_ object: ObjectInfo, _ page: Int, _ memory: borrowing MappedMemory) -> UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(start: memory.base + object.offsetBytes.rawValue + page * basePageSize, count: basePageSize)
    }

    /// Nothing in it can be compressed.
    private func fill(_ page: UnsafeMutableRawBufferPointer, _ object: ObjectInfo, _ index: Int) {
        var random = SeededGenerator(seed: UInt64(object.id.rawValue) << 32 | UInt64(index))
        for word in 0..<basePageSize / 8 { page.storeBytes(of: random.next(), toByteOffset: word * 8, as: UInt64.self) }
    }

    private func mismatches(_ engine: Engine, _ object: ObjectInfo) throws -> [Int] {
        var expected = [UInt8](repeating: 0, count: basePageSize)
        var page = expected
        return try (0..<object.pageCount).filter { index in
            expected.withUnsafeMutableBytes { fill($0, object, index) }
            let n = try page.withUnsafeMutableBytes { try engine.read(object.id, at: ByteCount(index * basePageSize), into: $0) }
            return n != basePageSize || page != expected
        }
    }

    private func tierPages(_ server: BackupFileSystemProcess) throws -> [Int] {
        try #require(try server.statistic("pages_by_tier")).split(separator: " ").compactMap { Int($0) }
    }

    /// Each thread that shrinks has a run in memory twice, so there are three; one that brings back through a window waits for the server, so there are four.
    @Test func threeThreadsShrinkAndFourBringBackThroughWindows() throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "threads over a mount are not tested") }
        let memory = try ScratchMemoryFileSystem(sizeBytes: 128 << 20)
        let seen = Monitor<[FaultPoint: Set<Int32>]>([:])
        try withBackupFileSystem(store: memory.path, arguments: ["--layout", "packed"]) { server in
            guard try server.statistic("windows") == "yes" else {
                return Machine.lacks("FUSE passthrough", so: "threads that bring back through windows are not counted")
            }
            var configuration = Engine.Configuration()
            configuration.faults = { point, _, _ in
                let wanted = [.beforeCopyOut: 3, .beforeCopyIn: 4][point] ?? 0
                guard wanted > 0 else { return nil }
                seen.withLock { _ = $0[point, default: []].insert(currentThreadID()) }
                seen.notifyAll()
                // Nobody goes on before as many are there as there should be.
                let limit = MonotonicTime.now().advanced(milliseconds: 20_000)
                _ = seen.wait(deadline: limit) { ($0[point] ?? []).count >= wanted ? true : nil }
                return nil
            }
            let engine = try Engine(backup: try BackupDirectory(path: server.mountPoint), configuration: configuration, logger: quiet)
            let pool = try engine.createPool(name: "test", owner: 0, size: .mebibytes(64)).id
            let file = try engine.poolDescriptor(pool)
            let mapped = try MappedMemory(sharing: file.number, count: 64 << 20)
            let objects = try (0..<16).map { _ in try makeObject(engine, pool, mapped, pages: 1024) }
            #expect(engine.shrink(.all).failure == nil)
            #expect(engine.recover(.all).failure == nil)
            let threads = seen.withLock { $0.mapValues(\.count) }
            #expect(threads == [.beforeCopyOut: 3, .beforeCopyIn: 4], "\(threads)")
            for object in objects { #expect(try mismatches(engine, object) == []) }
            try engine.destroyPool(pool)
        }
    }

    /// Reference §6, last line: writeback comes last, and only for a caller that may start it. The first tier holds a fraction of what goes out.
    @Test func onlyACallerThatMayStartWritebackUsesTheNextTier() throws {
        try withEngine(firstTierBytes: 12 << 20) { server, engine, pool, memory in
            let objects = try (0..<8).map { _ in try makeObject(engine, pool, memory, pages: 1024) }
            // No writeback allowed: what fits the first tier goes, the rest stays, and the second tier gets nothing.
            _ = engine.shrinker.scan(goalPages: 8 * 1024, .direct)
            let before = try tierPages(server)
            let backedUp = engine.status().pages.backedUp
            #expect(backedUp > 0 && backedUp < 3 * 1024, "\(backedUp) pages in a first tier of 12 MiB")
            #expect(before.count == 2 && before[1] == 0, "\(before)")
            guard case .scanned(let result) = engine.shrinker.scan(goalPages: 8 * 1024, .background) else {
                return #expect(Bool(false), "a background caller frees nothing")
            }
            #expect(result.backedUpPages > 0)
            #expect(engine.status().pages.backedUp == 8 * 1024 && engine.status().pages.resident == 0)
            let after = try tierPages(server)
            #expect(after[1] >= 5 * 1024 && after[0] + after[1] == 8 * 1024, "\(after)")
            for object in objects { #expect(try mismatches(engine, object) == []) }
            #expect(engine.recover(.all).failure == nil)
            for object in objects { #expect(try mismatches(engine, object) == []) }
        }
    }

    /// A run is written over short gaps of zeros where the backup makes holes of them; a stray page of zeros is no such gap: the backup has its content.
    @Test func aStrayPageOfZerosIsNotWrittenOver() throws {
        try withEngine(firstTierBytes: 64 << 20) { server, engine, pool, memory in
            #expect(try server.statistic("zero_pages") == "holes")
            let object = try makeObject(engine, pool, memory, pages: 40)
            #expect(engine.shrink(.all).failure == nil)
            for range in [8..<10, 11..<13] {
                let pages = PageIndex(rawValue: range.lowerBound)..<PageIndex(rawValue: range.upperBound)
                #expect(engine.recover(object.id, pages: pages).recoveredPages == 2)
            }
            bytes(object, 10, memory).initializeMemory(as: UInt8.self, repeating: 0)
            #expect(engine.shrink(.all).failure == nil)
            #expect(engine.status().strayPages == 1)
            #expect(try mismatches(engine, object) == [])
            #expect(engine.recover(.all).recoveredPages == 40)
            #expect(try mismatches(engine, object) == [])
        }
    }

    /// Where the kernel passes reads and writes through to the file behind, the drop takes the same way: no request of a whole round trip is made.
    @Test func whatIsPassedThroughIsDroppedWithoutTheServer() throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "drops on a mount that is passed through are not tested") }
        let store = try ScratchMemoryFileSystem(sizeBytes: 32 << 20)
        try withExtendedLifetime(store) {
            try withBackupFileSystem(store: store.path, arguments: []) { server in
                guard try server.statistic("passthrough") == "yes" else {
                    return Machine.lacks("FUSE passthrough", so: "drops go to the server")
                }
                let engine = try Engine(backup: try BackupDirectory(path: server.mountPoint), logger: quiet)
                let pool = try engine.createPool(name: "test", owner: 0, size: .mebibytes(16)).id
                let file = try engine.poolDescriptor(pool)
                let memory = try MappedMemory(sharing: file.number, count: 16 << 20)
                let object = try makeObject(engine, pool, memory, pages: 1000)
                let stored = store.path + "/objects/\(object.id.rawValue)"
                let before = try server.statistic("requests.fallocate")
                for _ in 0..<2 {
                    #expect(engine.shrink(.all).backedUpPages == 1000)
                    #expect(engine.recover(.all).recoveredPages == 1000)
                    #expect(try Files.status(of: stored).allocatedBytes == 0, "dropped is gone")
                }
                #expect(try server.statistic("requests.fallocate") == before)
                // And a part: the pages around it stay.
                #expect(engine.shrink(.all).backedUpPages == 1000)
                let part = PageIndex(rawValue: 100)..<PageIndex(rawValue: 101)
                #expect(engine.recover(object.id, pages: part).recoveredPages == 1)
                #expect(try Files.status(of: stored).allocatedBytes == 999 * basePageSize)
                #expect(try mismatches(engine, object) == [])
                try engine.destroyPool(pool)
            }
        }
    }
}
