// What replies describe. The meaning of each field is documented once, in the interface's text (InterfaceText.swift).

/// Pages by state; together they are all pages of what is described.
public struct WirePageCounts: Codable, Sendable, Equatable {
    public var resident: Int
    public var zero: Int
    public var backedUp: Int
    public var empty: Int

    public init(resident: Int, zero: Int, backedUp: Int, empty: Int) {
        (self.resident, self.zero, self.backedUp, self.empty) = (resident, zero, backedUp, empty)
    }
}

/// The backup as a whole.
public struct WireBackup: Codable, Sendable, Equatable {
    public var mount: String
    /// Nil where the backup does not tell.
    public var bytesStored: Int?
    /// Nil without a limit.
    public var bytesAvailable: Int?
    public var orphans: Int
    /// Not nil: the backup does not answer, and has been asked for so long.
    public var silentMilliseconds: Int?

    public init(mount: String, bytesStored: Int?, bytesAvailable: Int?, orphans: Int) {
        self.mount = mount
        self.bytesStored = bytesStored
        self.bytesAvailable = bytesAvailable
        self.orphans = orphans
    }
}

/// Something a machine may lack.
public struct WireFeature: Codable, Sendable, Equatable {
    public var available: Bool
    public var reason: String?

    public init(available: Bool, reason: String?) {
        self.available = available
        self.reason = reason
    }
}

/// A pool.
public struct WirePool: Codable, Sendable, Equatable {
    public var poolId: Int
    public var poolName: String
    public var ownerUid: Int
    /// Of one of its pages; nil is 4096, so that who knows no others is told nothing new of them.
    public var pageBytes: Int?
    public var sizeBytes: Int
    public var freeBytes: Int
    public var allocatedBytes: Int
    public var objectCount: Int
    public var objectLimit: Int?
    public var backedUpLimitBytes: Int?
    public var pages: WirePageCounts

    public init(
        poolId: Int, poolName: String, ownerUid: Int, pageBytes: Int? = nil, sizeBytes: Int, freeBytes: Int, allocatedBytes: Int,
        objectCount: Int,
        objectLimit: Int? = nil, backedUpLimitBytes: Int? = nil, pages: WirePageCounts
    ) {
        self.poolId = poolId
        self.poolName = poolName
        self.ownerUid = ownerUid
        self.pageBytes = pageBytes
        self.sizeBytes = sizeBytes
        self.freeBytes = freeBytes
        self.allocatedBytes = allocatedBytes
        self.objectCount = objectCount
        self.objectLimit = objectLimit
        self.backedUpLimitBytes = backedUpLimitBytes
        self.pages = pages
    }
}

/// A buffer object.
public struct WireObject: Codable, Sendable, Equatable {
    public var objectId: Int
    public var objectName: String
    public var poolId: Int
    public var poolName: String
    public var ownerUid: Int
    /// As its pool's.
    public var pageBytes: Int?
    /// As asked for.
    public var sizeBytes: Int
    /// In whole pages.
    public var roundedBytes: Int
    /// Where it starts in the pool's memory.
    public var offsetBytes: Int
    public var priority: Int
    public var pinCount: Int
    public var purgeable: Bool
    public var purged: Bool
    public var purgeGeneration: Int
    public var leased: Bool
    public var pages: WirePageCounts

    public init(
        objectId: Int, objectName: String, poolId: Int, poolName: String, ownerUid: Int, pageBytes: Int? = nil, sizeBytes: Int,
        roundedBytes: Int,
        offsetBytes: Int, priority: Int, pinCount: Int, purgeable: Bool = false, purged: Bool = false, purgeGeneration: Int = 0,
        leased: Bool = false,
        pages: WirePageCounts
    ) {
        self.objectId = objectId
        self.objectName = objectName
        self.poolId = poolId
        self.poolName = poolName
        self.ownerUid = ownerUid
        self.pageBytes = pageBytes
        self.sizeBytes = sizeBytes
        self.roundedBytes = roundedBytes
        self.offsetBytes = offsetBytes
        self.priority = priority
        self.pinCount = pinCount
        self.purgeable = purgeable
        self.purged = purged
        self.purgeGeneration = purgeGeneration
        self.leased = leased
        self.pages = pages
    }
}

/// What an operation that did part of its work met with.
public struct WireFailure: Codable, Sendable, Equatable {
    /// The full name of an error of the interface.
    public var errorName: String
    public var message: String

    public init(errorName: String, message: String) {
        self.errorName = errorName
        self.message = message
    }
}

/// Neighbouring pages of an object in the same state.
public struct WirePageRun: Codable, Sendable, Equatable {
    public var firstPage: Int
    public var count: Int
    /// `empty`, `resident`, `zero`, `backedUp` or `purged`.
    public var state: String
    /// Of backed-up pages, where the backup tells.
    public var tier: Int?

    public init(firstPage: Int, count: Int, state: String, tier: Int?) {
        self.firstPage = firstPage
        self.count = count
        self.state = state
        self.tier = tier
    }
}

/// A fault that is set on the store.
public struct WireFault: Codable, Sendable, Equatable {
    public var operation: String
    public var errno: String?
    public var delayMilliseconds: Int?
    public var probability: Double?
    public var every: Int?
    public var count: Int?
    public var objectId: Int?
    public var seenCalls: Int
    public var hits: Int

    public init(
        operation: String, errno: String?, delayMilliseconds: Int?, probability: Double?, every: Int?, count: Int?, objectId: Int?,
        seenCalls: Int, hits: Int
    ) {
        self.operation = operation
        self.errno = errno
        self.delayMilliseconds = delayMilliseconds
        self.probability = probability
        self.every = every
        self.count = count
        self.objectId = objectId
        self.seenCalls = seenCalls
        self.hits = hits
    }
}
