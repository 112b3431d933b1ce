import Glibc
import Logging
import ShrinkEngine
import ShrinkLinux

/// An engine over a directory whose pool is mapped for touch.
final class TouchedPool {
    private let engine: Engine
    private let pool: PoolID
    private let memory: MappedMemory
    private let userfaults: OwnedDescriptor
    private let data: RealPages
    private let objectBytes: Int
    private(set) var objectIDs: [ObjectID] = []
    /// Where each object lies in the pool.
    private var places: [Int] = []

    init(directory: String, data: RealPages, objectBytes: Int) throws {
        self.data = data
        self.objectBytes = objectBytes
        var logger = Logger(label: "shrinkbench") { StreamLogHandler.standardError(label: $0) }
        logger.logLevel = .warning
        engine = try Engine(backup: try BackupDirectory(path: directory), logger: logger)
        pool = try engine.createPool(name: "touch", owner: ThisProcess.userID, size: ByteCount(data.count)).id
        let file = try engine.poolDescriptor(pool)
        memory = try MappedMemory(sharing: file.number, count: data.count)
        userfaults = try Userfaults.open(.userMode)
        for source in stride(from: 0, to: data.count, by: objectBytes) {
            let count = min(objectBytes, data.count - source)
            let object = try engine.createObject(in: pool, name: "data", size: ByteCount(count))
            let place = object.offsetBytes.rawValue
            UnsafeMutableRawBufferPointer(rebasing: memory.bytes[place..<place + count]).copyMemory(
                from: UnsafeRawBufferPointer(rebasing: data.bytes[source..<source + count]))
            try engine.unpin(object.id)
            objectIDs.append(object.id)
            places.append(place)
        }
        _ = try engine.registerMapping(
            pool, userfaults: try userfaults.duplicate(),
            at: MappingPlace(address: UInt(bitPattern: memory.base), offset: .zero, length: ByteCount(memory.count)))
    }

    deinit {
        // A mapping with nobody to read its events waits for ever to be unmapped.
        let start = UInt(bitPattern: memory.base)
        try? Userfaults.unregister(userfaults.number, start..<start + UInt(memory.count))
    }

    var faults: Int { engine.touchCounts.faults }

    func moveOut() throws {
        engine.waitForTouchDrops()
        if let failure = engine.shrink(.all).failure { throw BenchError("shrinking failed: \(failure)") }
        guard try engine.pool(pool).allocatedBytes == .zero else { throw BenchError("the pool kept pages after shrinking everything") }
    }

    /// Every page in order; nanoseconds.
    func touchAll() -> UInt64 {
        let started = MonotonicTime.now()
        for (i, place) in places.enumerated() {
            for offset in stride(from: place, to: place + count(of: i), by: basePageSize) { readByte(memory.base + offset) }
        }
        return MonotonicTime.now().nanoseconds(since: started)
    }

    private func count(of object: Int) -> Int { min(objectBytes, data.count - object * objectBytes) }

    /// A page of the data.
    func touch(_ page: Int) -> UInt64 {
        let address = memory.base + places[page * basePageSize / objectBytes] + page * basePageSize % objectBytes
        let started = MonotonicTime.now()
        readByte(address)
        return MonotonicTime.now().nanoseconds(since: started)
    }

    func compare() throws {
        for (i, place) in places.enumerated() {
            guard memcmpEqual(memory.base + place, data.bytes.baseAddress! + i * objectBytes, count(of: i)) else {
                throw BenchError("content differs after touching")
            }
        }
    }

    func end() throws { try engine.destroyPool(pool) }
}

/// Anonymous memory with the data, pushed out to zram page by page.
final class PagedOutMemory {
    private static let pageOut: CInt = 21
    private let memory: MappedMemory
    private let data: RealPages

    init(_ data: RealPages) throws {
        self.data = data
        memory = try MappedMemory(anonymous: data.count, populated: false)
        memory.bytes.copyMemory(from: data.bytes)
    }

    func moveOut(_ zram: Zram) throws {
        for offset in stride(from: 0, to: data.count, by: basePageSize) { dirtyByte(memory.base + offset) }
        for offset in stride(from: 0, to: data.count, by: 4 << 20) {
            _ = madvise(memory.base + offset, min(4 << 20, data.count - offset), Self.pageOut)
        }
        guard try zram.stored().originalBytes >= (data.pageCount - data.zeroPages) * basePageSize * 95 / 100 else {
            throw BenchError("zram did not take the pages: another swap device did; turn it off")
        }
    }

    func touchAll() -> UInt64 {
        let started = MonotonicTime.now()
        for offset in stride(from: 0, to: data.count, by: basePageSize) { readByte(memory.base + offset) }
        return MonotonicTime.now().nanoseconds(since: started)
    }

    func touch(_ page: Int) -> UInt64 {
        let started = MonotonicTime.now()
        readByte(memory.base + page * basePageSize)
        return MonotonicTime.now().nanoseconds(since: started)
    }
}
