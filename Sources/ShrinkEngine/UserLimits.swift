import ShrinkLinux
import SystemPackage

/// What one uid may take of the daemon; nil is no limit. Root and the user who runs the daemon have none.
public struct UserLimits: Sendable, Equatable {
    /// Of the 1024 pools that there can be.
    public var pools: Int? = 64
    /// Buffer objects of all its pools.
    public var objects: Int? = 1 << 20
    /// The sizes of its pools together: what its objects may take in memory.
    public var poolBytes: ByteCount?
    /// Pages in the backup, as many bytes as they have in memory: what a codec saves is not credited, so that a limit means the same whatever the content.
    public var backedUpBytes: ByteCount?

    /// Clients with gates, each of which takes a descriptor of the daemon and of its starter.
    public var gateClients: Int? = 64

    public init() {}
}

/// What one pool may take, fixed when it is made; nil is no limit. Its bytes in memory are limited by its size, which is sealed.
public struct PoolLimits: Sendable, Equatable {
    public var objects: Int?
    /// Pages in the backup, as in `UserLimits`.
    public var backedUpBytes: ByteCount?

    public init(objects: Int? = nil, backedUpBytes: ByteCount? = nil) {
        self.objects = objects
        self.backedUpBytes = backedUpBytes
    }
}

/// What a uid takes now, and what it may.
public struct UserUsage: Sendable, Equatable {
    public var owner: UInt32
    public var pools = 0
    public var objects = 0
    public var poolBytes = ByteCount.zero
    public var backedUpBytes = ByteCount.zero
    /// Nil: none for this uid.
    public var limits: UserLimits?

    init(owner: UInt32) { self.owner = owner }
}

extension Engine {
    /// What each owner of pools takes, in ascending order of uid.
    public func userUsage() -> [UserUsage] {
        let owners = state.withLock { state in Set(state.pools.values.map(\.owner)) }
        return owners.sorted().map { userUsage(of: $0) }
    }

    /// What one uid takes.
    public func userUsage(of owner: UInt32) -> UserUsage {
        var usage = state.withLock { $0.usage(of: owner) }
        usage.limits = limits(of: owner)
        return usage
    }

    /// From now on each uid may take so much. What is there stays, also where it is more: nothing is added to it.
    public func changeUserLimits(_ limits: UserLimits) { userLimits.withLock { $0 = limits } }

    func limits(of owner: UInt32) -> UserLimits? {
        owner == 0 || owner == configuration.unlimitedUser ? nil : userLimits.withLock { $0 }
    }

    func checkRoomForPool(_ bytes: Int, _ owner: UInt32, _ state: borrowing EngineState) throws(EngineError) {
        guard let limits = limits(of: owner) else { return }
        let usage = state.usage(of: owner)
        if let limit = limits.pools, usage.pools >= limit {
            throw EngineError(
                .limitReached, "uid \(owner) has \(usage.pools) pools, which is its limit; destroy one, or have the limit raised")
        }
        if let limit = limits.poolBytes, bytes > limit.rawValue - usage.poolBytes.rawValue {
            throw EngineError(
                .limitReached,
                "the pools of uid \(owner) have \(usage.poolBytes.rawValue) of \(limit.rawValue) bytes that they may have together; \(bytes) more are too many"
            )
        }
    }

    func checkRoomForObject(in pool: Pool, _ state: borrowing EngineState) throws(EngineError) {
        if let limit = pool.limits.objects, pool.objectCount >= limit {
            throw EngineError(
                .limitReached, "\(pool.id) has \(pool.objectCount) objects, which is the limit it was made with; destroy some")
        }
        guard let limit = limits(of: pool.owner)?.objects else { return }
        let count = state.usage(of: pool.owner).objects
        if count >= limit {
            throw EngineError(
                .limitReached, "uid \(pool.owner) has \(count) objects, which is its limit; destroy some, or have the limit raised")
        }
    }

    /// How many base pages of a pool may yet go to its backup; those on their way count as there.
    func backupRoomPages(of pool: Pool, _ state: borrowing EngineState) -> Int {
        var room = Int.max
        if let limit = pool.limits.backedUpBytes {
            room = limit.rawValue / basePageSize - pool.backedUpBasePages - pool.pagesOnTheirWayOut
        }
        if let limit = limits(of: pool.owner)?.backedUpBytes {
            var taken = 0
            for other in state.pools.values where other.owner == pool.owner { taken += other.backedUpBasePages + other.pagesOnTheirWayOut }
            room = min(room, limit.rawValue / basePageSize - taken)
        }
        return max(0, room)
    }
}

extension EngineState {
    func usage(of owner: UInt32) -> UserUsage {
        var usage = UserUsage(owner: owner)
        for pool in pools.values where pool.owner == owner {
            usage.pools += 1
            usage.objects += pool.objectCount
            usage.poolBytes = usage.poolBytes + ByteCount(pool.sizeBytes)
            usage.backedUpBytes = usage.backedUpBytes + ByteCount(pool.backedUpPages * pool.unitBytes)
        }
        return usage
    }
}
