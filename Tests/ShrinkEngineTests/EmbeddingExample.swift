import Logging
import ShrinkEngine
import ShrinkLinux

/// A cache of rendered tiles in memory of its own, which gives way when memory is short.
final class TileCache {
    static let tileBytes = 256 << 10

    private let engine: Engine
    private let pool: PoolID
    private let memory: MappedMemory
    private let recent: BulkMoveID
    private var tiles: [Int: ObjectID] = [:]

    /// `directory` takes what goes out: a tmpfs, a disk, a mounted backupfs.
    init(directory: String, capacityBytes: Int, residentBytes: Int) throws {
        var configuration = Engine.Configuration()
        configuration.maximumResident = ByteCount(residentBytes)
        engine = try Engine(backup: try BackupDirectory(path: directory), configuration: configuration, logger: Logger(label: "tiles"))
        pool = try engine.createPool(name: "tiles", owner: ThisProcess.userID, size: ByteCount(capacityBytes)).id
        let file = try engine.poolDescriptor(pool)
        memory = try MappedMemory(sharing: file.number, count: capacityBytes)
        recent = try engine.createBulkMove()
    }

    /// Draws a tile, or draws it again if its memory was taken for something better.
    func withTile(_ number: Int, draw: (UnsafeMutableRawBufferPointer) -> Void, use: (UnsafeRawBufferPointer) -> Void) throws {
        let id = try tiles[number] ?? make(number)
        // From here to the unpin nobody takes the memory. What had gone out is back.
        let answer = try engine.pin(id)
        defer { try? engine.unpin(id) }
        let object = try engine.object(id)
        let start = memory.base + object.offsetBytes.rawValue
        let bytes = UnsafeMutableRawBufferPointer(start: start, count: Self.tileBytes)
        if !answer.retained || bytes[0] == 0 { draw(bytes) }
        use(UnsafeRawBufferPointer(bytes))
    }

    private func make(_ number: Int) throws -> ObjectID {
        // A new object is pinned once, and all zeros.
        let id = try engine.createObject(in: pool, name: "tile \(number)", size: ByteCount(Self.tileBytes)).id
        try engine.setBulkMove(recent, of: id)
        try engine.unpin(id)
        tiles[number] = id
        return id
    }

    /// Can be drawn again: purged instead of stored.
    func isCheap(_ number: Int) throws { if let id = tiles[number] { try engine.setPurgeable(id, true) } }

    /// The visible tiles were used together.
    func frameDone() { engine.bump(recent) }

    /// What a source of pressure calls: how much there is, and to free some of it.
    var shrinker: Shrinker { engine.shrinker }

    /// A policy of one's own: what has gone out of the given tiles, in the order of reclaim, until `stop` says so.
    func evict(until stop: (ByteCount) -> Bool) -> ByteCount {
        var freed = ByteCount.zero
        _ = engine.forEachReserved(in: pool) { object in
            freed = freed + object.shrink().freedBytes
            return stop(freed) ? .stop : .next
        }
        return freed
    }

    func close() throws { try engine.destroyPool(pool) }
}
