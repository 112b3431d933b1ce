public import Logging
public import ShrinkLinux
import SystemPackage

/// Pools of buffer objects whose pages go out to a backup and come back.
///
/// Caveats first:
/// - Memory of an object may be used only while it is pinned. What is written to an unpinned object may be lost to the backup's version.
/// - Every call may block on the backup. Call from a thread of your own, never from Swift's cooperative pool.
/// - Never give it a mount that the same process serves: such a process can't be killed in the middle of a call.
///
/// All methods may be called from several threads at once. What is waited for, outer to inner: a staging buffer, an object's reservation (both
/// held across I/O), the state's lock (never held across I/O).
public final class Engine: Sendable {
    public struct Configuration: Sendable {
        /// Threads that copy at once, the caller's included.
        public var copyWorkers = 2
        /// Operations that copy at once; the next waits for a buffer.
        public var concurrentOperations = 4
        /// Recover leaves at least this much of MemAvailable (/proc/meminfo); nil: the larger of 64 MiB and 1/64 of the machine.
        public var memoryFloor: ByteCount?
        /// Stops or fails at fault points, for tests.
        public var faults: FaultHook?

        public init() {}
    }

    struct State {
        var pools: [PoolID: Pool] = [:]
        var objects = ObjectTable()
        var lru = LRU()
        var nextPool: UInt32 = 1
        var strayPages = 0
        var damagedPages = 0
        var isShuttingDown = false
    }

    let backup: any Backup
    let configuration: Configuration
    let logger: Logger
    let state = Monitor(State())
    let staging: StagingPool
    let team: CopyTeam
    let floorBytes: UInt64

    /// An engine without pools over a backup.
    public init(backup: any Backup, configuration: Configuration = Configuration(), logger: Logger) throws(EngineError) {
        self.backup = backup
        self.configuration = configuration
        self.logger = logger
        staging = try StagingPool(count: max(1, configuration.concurrentOperations))
        team = try CopyTeam(helpers: max(0, configuration.copyWorkers - 1))
        if let floor = configuration.memoryFloor {
            floorBytes = UInt64(max(0, floor.rawValue))
        } else {
            let total: UInt64
            do throws(Errno) { total = try MemoryInfo().total } catch {
                throw EngineError(.system, "/proc/meminfo can't be read", errno: error)
            }
            floorBytes = max(64 << 20, total / 64)
        }
    }

    // MARK: Pools

    /// A new pool. Names are unique per owner (a uid). The size is a whole number of pages.
    public func createPool(name: String, owner: UInt32, size: ByteCount) throws(EngineError) -> PoolInfo {
        try Self.checkName(name)
        guard size.rawValue > 0, size.rawValue % basePageSize == 0, size.rawValue / basePageSize <= EngineLimits.pagesPerPool else {
            throw EngineError(.invalidSize, "a pool of \(size) is not possible; give a positive multiple of \(basePageSize) up to 16 TiB")
        }
        let id = try state.withLock { state throws(EngineError) -> PoolID in
            try state.checkRunning()
            guard state.pools.count < EngineLimits.pools else {
                throw EngineError(.limitReached, "there are \(EngineLimits.pools) pools already; destroy one first")
            }
            try state.checkFree(name, owner)
            defer { state.nextPool += 1 }
            return PoolID(rawValue: state.nextPool)
        }
        // Made outside the lock; the name is checked once more when it goes in.
        let pool = try Pool(id: id, name: name, owner: owner, pageCount: size.rawValue / basePageSize)
        try state.withLock { state throws(EngineError) in
            try state.checkFree(name, owner)
            state.pools[id] = pool
        }
        logger.info(
            "pool made", metadata: ["pool": "\(id.rawValue)", "name": "\(name)", "owner": "\(owner)", "size_bytes": "\(size.rawValue)"])
        return try self.pool(id)
    }

    /// Destroys a pool and its objects. Busy while one of them is pinned.
    public func destroyPool(_ id: PoolID) throws(EngineError) {
        let ids = try state.withLock { state throws(EngineError) -> [ObjectID] in
            _ = try state.pool(id)
            let ids = state.objectIDs(in: id)
            for object in ids {
                if let slot = state.objects.slot(of: object), state.objects[slot].pinCount > 0 {
                    throw EngineError(.busy, "\(id) has pinned objects (\(object) is one); unpin them first")
                }
            }
            state.pools[id]?.isDying = true
            return ids
        }
        do throws(EngineError) {
            for object in ids { try destroyObject(object) }
        } catch {
            state.withLock { $0.pools[id]?.isDying = false }
            throw error
        }
        state.withLock { $0.pools[id] = nil }
        logger.info("pool destroyed", metadata: ["pool": "\(id.rawValue)"])
    }

    public func pools() -> [PoolInfo] {
        state.withLock { state in state.pools.keys.sorted() }.compactMap { try? pool($0) }
    }

    public func pool(_ id: PoolID) throws(EngineError) -> PoolInfo {
        let pool = try state.withLock { state throws(EngineError) in try state.pool(id) }
        let allocated = pool.allocatedPages
        return PoolInfo(
            id: id, name: pool.name, owner: pool.owner, sizeBytes: ByteCount(pool.sizeBytes),
            freeBytes: ByteCount(pool.allocator.freePages * basePageSize), allocatedBytes: ByteCount(allocated * basePageSize),
            objectCount: pool.objectCount, pages: pool.counts(allocatedPages: allocated))
    }

    public func pool(named name: String, owner: UInt32) throws(EngineError) -> PoolInfo {
        let id = state.withLock { state in state.pools.values.first { $0.name == name && $0.owner == owner && !$0.isDying }?.id }
        guard let id else { throw EngineError(.noSuchPool, "uid \(owner) has no pool named \(name)") }
        return try pool(id)
    }

    /// A duplicate of the pool's memory file, to pass to a client. It is for mmap only; its size is sealed.
    public func poolDescriptor(_ id: PoolID) throws(EngineError) -> OwnedDescriptor {
        let file = try state.withLock { state throws(EngineError) in try state.pool(id).file }
        do throws(Errno) { return try file.duplicate() } catch {
            throw EngineError(.limitReached, "no descriptor left to pass \(id) on; raise LimitNOFILE", errno: error)
        }
    }

    // MARK: Status

    public func status() -> EngineStatus {
        let pools = self.pools()
        let (objects, known, stray, damaged) = state.withLock { state in
            (state.objects.count, Set(state.objects.ids), state.strayPages, state.damagedPages)
        }
        var orphans = 0
        do throws(EngineError) { orphans = try backup.objects().count { !known.contains($0.rawValue) } } catch {
            logger.warning("the backup can't be listed", metadata: ["error": "\(error)"])
        }
        let backupStatus = backup.status()
        return EngineStatus(
            poolCount: pools.count, objectCount: objects, pages: pools.reduce(PageCounts()) { $0 + $1.pages }, backup: backupStatus,
            orphans: orphans, strayPages: stray, damagedPages: damaged, features: backupStatus.features)
    }

    static func checkName(_ name: String) throws(EngineError) {
        guard !name.isEmpty, name.utf8.count <= EngineLimits.nameBytes, !name.contains("/"),
            name.utf8.allSatisfy({ $0 >= 0x20 && $0 != 0x7f })
        else {
            throw EngineError(
                .invalidName, "a name has 1 to \(EngineLimits.nameBytes) bytes of UTF-8 without slash or control characters")
        }
    }
}

extension Pool {
    /// What is known without looking at each object: the memory file's blocks, and the words counted as they change.
    func counts(allocatedPages: Int) -> PageCounts {
        let resident = max(0, min(allocatedPages - readyPages, objectPages))
        return PageCounts(
            resident: resident, zero: zeroPages, backedUp: backedUpPages, empty: max(0, objectPages - resident - zeroPages - backedUpPages))
    }
}

extension Engine.State {
    func checkRunning() throws(EngineError) {
        if isShuttingDown { throw EngineError(.shuttingDown, "the daemon is stopping; try again when it is back") }
    }

    func checkFree(_ name: String, _ owner: UInt32) throws(EngineError) {
        if pools.values.contains(where: { $0.name == name && $0.owner == owner }) {
            throw EngineError(.nameTaken, "uid \(owner) has a pool named \(name) already; choose another name or destroy it")
        }
    }

    func pool(_ id: PoolID) throws(EngineError) -> Pool {
        guard let pool = pools[id], !pool.isDying else { throw EngineError(.noSuchPool, "there is no \(id)") }
        return pool
    }

    func objectIDs(in pool: PoolID?) -> [ObjectID] {
        objects.slots.lazy.filter { $0.id != 0 && (pool == nil || $0.pool == pool?.rawValue) }.map { ObjectID(rawValue: $0.id) }.sorted()
    }
}
