import Glibc
import ShrinkEngine
import ShrinkLinux
import SystemPackage
import TestSupport

let unitBytes = HugePages.pageBytes
let unitPages = unitBytes / basePageSize

/// An engine with one pool of huge pages, mapped as a client would.
final class HugeFixture {
    let engine: Engine
    let backup: BackupDirectory
    let pool: PoolID
    let memory: MappedMemory
    private let seed: UInt64
    let units: Int
    private let store: ScratchMemoryFileSystem

    init(units: Int = 16, seed: UInt64 = 1, configure: (inout Engine.Configuration) -> Void = { _ in }) throws {
        store = try ScratchMemoryFileSystem(sizeBytes: 2 * units * unitBytes + (16 << 20))
        backup = try BackupDirectory(path: store.path)
        var configuration = Engine.Configuration()
        configure(&configuration)
        engine = try Engine(backup: backup, configuration: configuration, logger: quiet)
        pool = try engine.createPool(name: "huge", owner: 0, size: ByteCount(units * unitBytes), of: .huge).id
        let file = try engine.poolDescriptor(pool)
        memory = try MappedMemory(sharing: file.number, count: units * unitBytes)
        self.seed = seed
        self.units = units
    }

    /// A new object with the pattern of its id, a base page of zeros here and there, left unpinned.
    func makeObject(units: Int, priority: Priority = .normal) throws -> ObjectInfo {
        let object = try engine.createObject(in: pool, name: "o", size: ByteCount(units * unitBytes), priority: priority)
        fill(object)
        try engine.unpin(object.id)
        return object
    }

    func page(_ object: ObjectInfo, _ basePage: Int) -> UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(start: memory.base + object.offsetBytes.rawValue + basePage * basePageSize, count: basePageSize)
    }

    /// What a base page of an object has: one word, then one byte throughout; one in five is all zeros. Cheap, for there are many.
    private func expected(_ object: ObjectInfo, _ basePage: Int) -> (word: UInt64, byte: UInt8) {
        var generator = SeededGenerator(seed: seed ^ UInt64(object.id.rawValue) << 32 ^ UInt64(basePage))
        let word = generator.next()
        return word % 5 == 0 ? (0, 0) : (word | 1, UInt8(truncatingIfNeeded: word >> 8) | 1)
    }

    func isExpectedZero(_ object: ObjectInfo, _ basePage: Int) -> Bool { expected(object, basePage).word == 0 }

    func matches(_ bytes: UnsafeRawBufferPointer, _ object: ObjectInfo, _ basePage: Int) -> Bool {
        guard let base = bytes.baseAddress else { return false }
        let (word, byte) = expected(object, basePage)
        return base.loadUnaligned(as: UInt64.self) == word && bytes[8] == byte && memcmp(base + 8, base + 9, basePageSize - 9) == 0
    }

    func fill(_ object: ObjectInfo) {
        for basePage in 0..<object.pageCount * unitPages {
            let (word, byte) = expected(object, basePage)
            let page = page(object, basePage)
            memset(page.baseAddress!, CInt(byte), basePageSize)
            page.storeBytes(of: word, as: UInt64.self)
        }
    }

    func basePagesOfZeros(_ object: ObjectInfo) -> Int { (0..<object.pageCount * unitPages).count { isExpectedZero(object, $0) } }

    /// Base pages that differ from the pattern, read without changing state.
    func mismatches(_ object: ObjectInfo, in engine: Engine? = nil) throws -> [Int] {
        var unit = [UInt8](repeating: 0xee, count: unitBytes)
        var wrong: [Int] = []
        for index in 0..<object.pageCount {
            let n = try unit.withUnsafeMutableBytes {
                try (engine ?? self.engine).read(object.id, at: ByteCount(index * unitBytes), into: $0)
            }
            if n != unitBytes { wrong.append(index * unitPages) }
            unit.withUnsafeBytes { bytes in
                for basePage in 0..<unitPages {
                    let page = UnsafeRawBufferPointer(rebasing: bytes[basePage * basePageSize..<(basePage + 1) * basePageSize])
                    if !matches(page, object, index * unitPages + basePage) { wrong.append(index * unitPages + basePage) }
                }
            }
        }
        return wrong
    }

    /// The same through the mapping, as a client that has it pinned sees it.
    func isWholeInMapping(_ object: ObjectInfo) -> Bool {
        (0..<object.pageCount * unitPages).allSatisfy { matches(UnsafeRawBufferPointer(page(object, $0)), object, $0) }
    }

    func dataFile(_ object: ObjectInfo) throws -> OwnedDescriptor {
        try Files.open("\(store.path)/objects/\(object.id.rawValue)/data", .readWrite)
    }
}
