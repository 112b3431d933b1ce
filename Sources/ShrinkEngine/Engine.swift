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
        /// Threads that copy at once, the caller's included. Three keep two cores busy: one of them mostly waits, for the file server or for
        /// its turn at the pool file. A fourth would have another run in memory twice. Only where pages come back through windows, and there are two or more,
        /// recover takes one more: then it waits for the file server longer than it copies (docs/performance.md).
        public var copyWorkers = 3
        /// Operations that copy at once; the next waits for a buffer.
        public var concurrentOperations = 4
        /// Recover leaves at least this much of MemAvailable (/proc/meminfo); nil: the larger of 64 MiB and 1/64 of the machine.
        public var memoryFloor: ByteCount?
        /// What the pools of this engine may have in memory together; nil: what the machine gives. Together they may be larger than that.
        public var maximumResident: ByteCount?
        /// What recover leaves of this process's memory cgroup.
        public var cgroupReserve = ByteCount.mebibytes(4)
        /// The memory cgroup whose limits, and whose ancestors', count; nil: the one this process is in when the engine is made.
        public var cgroup: MemoryCgroup?
        /// How long the users of leased memory may take to let go of it.
        public var revocationMilliseconds: UInt64 = 5_000
        /// What each uid may take, but root and `unlimitedUser`, until `changeUserLimits`.
        public var userLimits = UserLimits()
        /// The user who runs the daemon.
        public var unlimitedUser = ThisProcess.userID
        /// Stops or fails at fault points, for tests.
        public var faults: FaultHook?
        /// Clients have the pools' memory files and may do with them what they like: calls that such a client can make wait for ever are made on threads of
        /// each pool's own. It costs two switches of threads a run.
        public var clientsAreStrangers = false

        public init() {}
    }

    let backup: any Backup
    let configuration: Configuration
    let logger: Logger
    let state = Monitor(EngineState())
    let staging: StagingPool
    let team: CopyTeam
    let room: Room
    let ahead: RecoverAhead
    let faultServer: FaultServer
    let leases = LeaseBroker()
    /// Taken inside the state's lock as well.
    let userLimits: Monitor<UserLimits>
    /// Made with the first pool of huge pages.
    let hugeBuffers = Monitor<HugeBuffers?>(nil)
    private let highestID = Monitor<UInt32>(0)

    /// An engine without pools over a backup.
    public init(backup: any Backup, configuration: Configuration = Configuration(), logger: Logger) throws(EngineError) {
        self.backup = backup
        self.configuration = configuration
        userLimits = Monitor(configuration.userLimits)
        self.logger = logger
        let helpers = max(0, Self.recoverWorkers(configuration, backup) - 1)
        var buffers = try Staging.make(max(1, configuration.concurrentOperations) + helpers)
        // Now, and not when memory is short.
        if let windows = backup.windows { for buffer in buffers { _ = buffer.windowBlock(of: windows) } }
        team = try CopyTeam(Array(buffers.suffix(helpers)))
        buffers.removeLast(helpers)
        staging = StagingPool(buffers)
        room = try Room(configuration)
        ahead = RecoverAhead()
        faultServer = try FaultServer(faults: configuration.faults)
    }

    deinit {
        ahead.end()
        faultServer.end()
    }

    private static func recoverWorkers(_ configuration: Configuration, _ backup: any Backup) -> Int {
        configuration.copyWorkers > 1 && backup.windows != nil ? configuration.copyWorkers + 1 : configuration.copyWorkers
    }

    /// Threads that bring pages back at once.
    var recoverWorkers: Int { Self.recoverWorkers(configuration, backup) }

    // MARK: Pools

    /// A new pool. Names are unique per owner (a uid). The size is a whole number of pages of its kind.
    ///
    /// `backup`: where its pages go, if not to the engine's own backup. `kind`: huge pages come from the machine's pool of them (vm.nr_hugepages); such
    /// a pool may be larger than that.
    public func createPool(
        name: String, owner: UInt32, size: ByteCount, limits: PoolLimits = PoolLimits(), backup: (any Backup)? = nil,
        of kind: PoolPages = .base
    ) throws(EngineError) -> PoolInfo {
        try Self.checkName(name)
        let unitBytes = kind.bytes
        guard size.rawValue > 0, size.rawValue % unitBytes == 0, size.rawValue / basePageSize <= EngineLimits.pagesPerPool else {
            throw EngineError(.invalidSize, "a pool of \(size) is not possible; give a positive multiple of \(unitBytes) below 16 TiB")
        }
        let buffers = kind == .huge ? try hugeBuffers(backup ?? self.backup) : nil
        let id = try state.withLock { state throws(EngineError) -> PoolID in
            try state.checkRunning()
            try state.checkPoolLimit()
            try state.checkFree(name, owner)
            try checkRoomForPool(size.rawValue, owner, state)
            defer { state.nextPool += 1 }
            return PoolID(rawValue: state.nextPool)
        }
        // Made outside the lock; everything is checked once more when it goes in.
        let pool = try Pool(
            id: id, name: name, owner: owner, pageCount: size.rawValue / unitBytes, limits: limits, backup: backup ?? self.backup,
            isGuarded: configuration.clientsAreStrangers, huge: buffers)
        let available = pool.backup.availableBytes
        try state.withLock { state throws(EngineError) in
            try state.checkRunning()
            try state.checkPoolLimit()
            try state.checkFree(name, owner)
            try checkRoomForPool(size.rawValue, owner, state)
            state.enter(pool, availableBytes: available)
        }
        logger.info(
            "pool made", metadata: ["pool": "\(id.rawValue)", "name": "\(name)", "owner": "\(owner)", "size_bytes": "\(size.rawValue)"])
        return try self.pool(id)
    }

    public func pools() -> [PoolInfo] {
        state.withLock { state in state.pools.keys.sorted() }.compactMap { try? pool($0) }
    }

    public func pool(_ id: PoolID) throws(EngineError) -> PoolInfo {
        let (pool, snapshot) = try state.withLock { state throws(EngineError) in
            let pool = try state.pool(id)
            return (pool, (free: pool.allocator.freePages, objects: pool.objectCount, counts: pool.countsWithoutResident))
        }
        let allocated = pool.allocatedPages
        var counts = snapshot.counts
        counts.resident = max(0, min(allocated - counts.resident, counts.empty))
        counts.empty -= counts.resident
        return PoolInfo(
            id: id, name: pool.name, owner: pool.owner, pageBytes: ByteCount(pool.unitBytes), sizeBytes: ByteCount(pool.sizeBytes),
            freeBytes: ByteCount(snapshot.free * pool.unitBytes), allocatedBytes: ByteCount(allocated * pool.unitBytes),
            objectCount: snapshot.objects, limits: pool.limits, pages: counts)
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

    public func status() -> EngineStatus { status(backup: backupStatus(), orphans: countOrphans()) }

    static func checkName(_ name: String) throws(EngineError) {
        guard !name.isEmpty, name.utf8.count <= EngineLimits.nameBytes, !name.contains("/"),
            name.utf8.allSatisfy({ $0 >= 0x20 && $0 != 0x7f })
        else {
            throw EngineError(
                .invalidName, "a name has 1 to \(EngineLimits.nameBytes) bytes of UTF-8 without slash or control characters")
        }
    }
}

extension Engine {
    /// An id above every id that any backup of this engine ever used.
    func nextID(from backup: any Backup) throws(EngineError) -> ObjectID {
        let floor = highestID.withLock { $0 }
        let id = try backup.nextID(above: ObjectID(rawValue: backup === self.backup && floor == 0 ? 0 : floor))
        noteUsed(id)
        return id
    }

    /// Ids of one backup say nothing of another's: what is taken over counts too.
    func noteUsed(_ id: ObjectID) { highestID.withLock { $0 = max($0, id.rawValue) } }
}

extension Pool {
    /// What is known without looking at each object. `resident` holds the ready pages here, to be taken off what the file has.
    var countsWithoutResident: PageCounts {
        PageCounts(resident: readyPages, zero: zeroPages, backedUp: backedUpPages, empty: max(0, objectPages - zeroPages - backedUpPages))
    }
}
