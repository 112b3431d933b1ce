import Glibc
import Logging
import ShrinkEngine
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// Recovering in a small memory cgroup ends in an error, never in the OOM killer. The child is in the group, this process is not.
@Suite struct CgroupTests {
    @Test func recoverInASmallCgroupFailsTypedAndIsNotKilled() async throws {
        guard Machine.isRoot, let group = try? MemoryGroup.make() else {
            return Machine.lacks("a writable memory cgroup (version 1)", so: "recover under a cgroup limit is not tested")
        }
        group.remove()
        await #expect(processExitsWith: .success) {
            let group = try MemoryGroup.make()
            defer { group.remove() }
            // The store is on disk and written with O_DIRECT, so that it takes nothing of the group.
            let scratch = try ScratchDirectory()
            var configuration = Engine.Configuration()
            configuration.cgroupReserve = .mebibytes(12)
            let limit = 96 << 20
            // Entered before the engine looks which group it is in, limited when the pages are out.
            try group.enter()
            let engine = try Engine(backup: try BackupDirectory(path: scratch.path), configuration: configuration, logger: quiet)
            let pages = 160 << 8
            let pool = try engine.createPool(name: "large", owner: 0, size: ByteCount(2 * pages * basePageSize)).id
            let file = try engine.poolDescriptor(pool)
            let memory = try MappedMemory(sharing: file.number, count: 2 * pages * basePageSize)
            var ids: [ObjectID] = []
            for _ in 0..<16 {
                let object = try engine.createObject(in: pool, name: "o", size: ByteCount(pages / 16 * basePageSize))
                for page in 0..<pages / 16 {
                    let at = memory.base + object.offsetBytes.rawValue + page * basePageSize
                    at.storeBytes(of: UInt64(object.id.rawValue) << 32 | UInt64(page), as: UInt64.self)
                }
                ids.append(object.id)
                try engine.unpin(object.id)
                guard engine.shrink(.object(object.id)).failure == nil else { throw Errno.ioError }
            }
            do { try group.limit(limit) } catch { throw told(error, "limiting the group") }
            // All at once does not fit: others go out again, and in the end nobody was killed.
            var pinned: [ObjectID] = []
            var refusals = 0
            for id in ids {
                do {
                    try engine.pin(id)
                    pinned.append(id)
                } catch {
                    guard (error as? EngineError)?.code == .outOfMemory else { throw told(error) }
                    refusals += 1
                }
            }
            guard refusals > 0, pinned.count >= 3 else {
                print("refusals \(refusals), pinned \(pinned.count)")
                throw Errno.invalidArgument
            }
            // Unpinned ones give way: now any of them comes back.
            for id in pinned { try engine.unpin(id) }
            for id in ids {
                do { try engine.pin(id) } catch { throw told(error, "pinning \(id) again") }
                let object = try engine.object(id)
                for page in 0..<object.pageCount {
                    let at = memory.base + object.offsetBytes.rawValue + page * basePageSize
                    guard at.load(as: UInt64.self) == UInt64(id.rawValue) << 32 | UInt64(page) else { throw Errno.ioError }
                }
                try engine.unpin(id)
            }
            try engine.destroyPool(pool)
        }
        // A child that was killed leaves its group; an empty one can be removed.
        MemoryGroup.removeEmpty()
    }
}

/// The child's error, printed where it is thrown: of an exit test only the status is reported.
private func told(_ error: any Error, _ doing: String = "pinning") -> any Error {
    print("\(doing): \(error)")
    return error
}
