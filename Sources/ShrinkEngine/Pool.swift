import ShrinkLinux
import SystemPackage

/// A sealed memory file that clients map, its ledger, and which of its ranges are taken.
///
/// The kernel's counterparts are `ttm_device` and `ttm_pool`. A freed range keeps its memory, ready for reuse, until the pool's own shrinker
/// drops it.
final class Pool: @unchecked Sendable {
    // Sendable: what is mutable is touched under the engine's lock only. A class, so that looking at a pool never copies its bitmaps.
    let id: PoolID
    let name: String
    let owner: UInt32
    let file: PoolFile
    /// Held while pages are written into the file, which the kernel lets one thread do at a time: others would wait spinning on its inode
    /// lock, and keep a core from whoever reads the next run for them.
    let placing = Monitor<UInt8>(0)
    let ledger: Ledger
    let touch: PoolTouch
    /// Which object has a page; kept once a mapping is registered.
    var places: PagePlaces?
    /// Where the pages of its objects go.
    let backup: any Backup
    var allocator: BlockAllocator
    /// Free slots of the record table: those given back, then those above `nextRecord`.
    private var freeRecords: [UInt32] = []
    private var nextRecord: UInt32 = 0
    var ids = OrderedIDs()
    var objectCount = 0
    var pinnedObjects = 0
    /// Its place among the engine's backends.
    var backend = 0
    /// Pages in words of its objects.
    var backedUpPages = 0
    var backedUpBasePages: Int { backedUpPages * unitPages }
    var zeroPages = 0
    var objectPages = 0
    /// Pages of freed ranges that still take memory.
    var readyPages = 0
    /// Base pages that shrinks at work may yet put into the backup.
    var pagesOnTheirWayOut = 0
    let limits: PoolLimits
    /// Free blocks that lose their memory just now and come back.
    var blocksOut = 0
    /// Being destroyed: nothing new in it.
    var isDying = false

    var sizeBytes: Int { ledger.geometry.pageCount * unitBytes }
    /// Bytes of one of its pages.
    var unitBytes: Int { ledger.geometry.pageSize }
    /// Base pages of one of its pages.
    var unitPages: Int { ledger.geometry.unitPages }
    var isHuge: Bool { unitBytes != basePageSize }

    init(
        id: PoolID, name: String, owner: UInt32, pageCount: Int, limits: PoolLimits = PoolLimits(), backup: any Backup, isGuarded: Bool,
        huge: HugeBuffers? = nil
    ) throws(EngineError) {
        self.id = id
        self.limits = limits
        self.backup = backup
        self.name = name
        self.owner = owner
        let unitBytes = huge == nil ? basePageSize : HugeMemory.unitBytes
        do throws(Errno) {
            if let huge {
                let memory = try MemoryFile.makeSealedOfHugePages("shrinkd-pool", size: pageCount * unitBytes)
                let units = try HugeMemory(memory.number, bytes: pageCount * unitBytes, buffers: huge)
                file = PoolFile(memory, isGuarded: isGuarded, huge: units)
            } else {
                file = PoolFile(try MemoryFile.makeSealed("shrinkd-pool", size: pageCount * unitBytes), isGuarded: isGuarded)
            }
        } catch {
            throw EngineError(.outOfMemory, "a pool of \(pageCount * unitBytes) bytes can't be made; make a smaller one", errno: error)
        }
        touch = PoolTouch(unitBytes: unitBytes)
        ledger = try Ledger(geometry: Ledger.Geometry(pageSize: unitBytes, pageCount: pageCount), pool: id, owner: owner, name: name)
        ledger.limits = limits
        allocator = BlockAllocator(pageCount: pageCount)
    }

    /// The pool of an engine that is gone. Its objects are entered by the caller.
    init(
        id: PoolID, file: consuming OwnedDescriptor, ledger: Ledger, backup: any Backup, isGuarded: Bool, huge buffers: HugeBuffers? = nil
    ) throws(EngineError) {
        self.id = id
        self.backup = backup
        name = ledger.name
        owner = ledger.owner
        limits = ledger.limits
        self.ledger = ledger
        touch = PoolTouch(unitBytes: ledger.geometry.pageSize)
        let huge: HugeMemory?
        do throws(Errno) {
            let bytes = ledger.geometry.pageCount * ledger.geometry.pageSize
            guard try Files.status(file.number).sizeBytes == bytes else { throw Errno.invalidArgument }
            huge = try buffers.map { (buffers) throws(Errno) in try HugeMemory(file.number, bytes: bytes, buffers: buffers) }
        } catch {
            throw EngineError(.foreignLedger, "the pool's size is not what its ledger says; they do not belong together", errno: error)
        }
        self.file = PoolFile(file, isGuarded: isGuarded, huge: huge)
        allocator = BlockAllocator(pageCount: ledger.geometry.pageCount)
    }

    func takeRecord() -> UInt32? {
        if let free = freeRecords.popLast() { return free }
        guard nextRecord < ledger.geometry.recordCapacity else { return nil }
        defer { nextRecord += 1 }
        return nextRecord
    }

    func giveBackRecord(_ record: UInt32) { freeRecords.append(record) }

    /// Records found in use when a ledger is reopened: everything below is either live or free for reuse.
    func adoptRecords(live: Set<UInt32>, highest: UInt32) {
        nextRecord = highest
        freeRecords = (0..<highest).filter { !live.contains($0) }
    }

    /// Pages of the pool file that take memory.
    var allocatedPages: Int {
        do throws(Errno) { return try Files.status(file.number).allocatedBytes / unitBytes } catch { return 0 }
    }
}
