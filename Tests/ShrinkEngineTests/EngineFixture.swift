import Logging
import ShrinkEngine
import ShrinkLinux
import SystemPackage
import TestSupport

/// An engine over a backup in a scratch directory, with one pool mapped as a client would.
final class EngineFixture {
    let engine: Engine
    let backup: BackupDirectory
    let pool: PoolID
    let memory: MappedMemory
    let pattern: PagePattern
    private let scratch: AnyObject

    /// `storeBytes`: size of a tmpfs for the backup; nil puts it in a directory of the machine's disk.
    init(
        poolPages: Int = 4096, storeBytes: Int? = 64 << 20, seed: UInt64 = 1, configure: (inout Engine.Configuration) -> Void = { _ in }
    ) throws {
        let path: String
        if let storeBytes {
            let tmpfs = try ScratchMemoryFileSystem(sizeBytes: storeBytes)
            path = tmpfs.path
            scratch = tmpfs
        } else {
            let directory = try ScratchDirectory()
            path = directory.path
            scratch = directory
        }
        backup = try BackupDirectory(path: path)
        var configuration = Engine.Configuration()
        configure(&configuration)
        engine = try Engine(backup: backup, configuration: configuration, logger: quiet)
        pool = try engine.createPool(name: "test", owner: 0, size: ByteCount(poolPages * basePageSize)).id
        let file = try engine.poolDescriptor(pool)
        memory = try MappedMemory(sharing: file.number, count: poolPages * basePageSize)
        pattern = PagePattern(seed: seed)
    }

    /// A new object, filled with the pattern of its id and left unpinned.
    func makeObject(pages: Int, priority: Priority = .normal, zeroEvery: UInt64 = 5) throws -> ObjectInfo {
        let object = try engine.createObject(in: pool, name: "o", size: ByteCount(pages * basePageSize), priority: priority)
        fill(object, zeroEvery: zeroEvery)
        try engine.unpin(object.id)
        return object
    }

    func bytes(_ object: ObjectInfo, _ page: Int) -> UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(start: memory.base + object.offsetBytes.rawValue + page * basePageSize, count: basePageSize)
    }

    func fill(_ object: ObjectInfo, version: UInt64 = 0, zeroEvery: UInt64 = 5) {
        for page in 0..<object.pageCount {
            pattern.fill(bytes(object, page), index: Int(object.id.rawValue) << 20 | page, version: version, zeroEvery: zeroEvery)
        }
    }

    /// Pages that differ from the pattern, read without changing state.
    func mismatches(_ object: ObjectInfo, version: UInt64 = 0, zeroEvery: UInt64 = 5, in engine: Engine? = nil) throws -> [Int] {
        var page = [UInt8](repeating: 0xee, count: basePageSize)
        return try (0..<object.pageCount).filter { index in
            let n = try page.withUnsafeMutableBytes {
                try (engine ?? self.engine).read(object.id, at: ByteCount(index * basePageSize), into: $0)
            }
            return n != basePageSize
                || page != pattern.page(Int(object.id.rawValue) << 20 | index, version: version, zeroEvery: zeroEvery)
        }
    }

    func zeroPages(_ object: ObjectInfo) -> Int {
        (0..<object.pageCount).count { pattern.page(Int(object.id.rawValue) << 20 | $0).allSatisfy { $0 == 0 } }
    }
}

let quiet: Logger = {
    var logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
    logger.logLevel = .critical
    return logger
}()
