// What calls carry. Each type lists the names it knows: a server refuses every other, and a test holds the lists against the types.

/// No parameters.
public struct NoParameters: Codable, Sendable {
    public static let parameterNames: [String] = []
    public init() {}
}

/// Which pool: by id, or by name within a uid.
public struct PoolAddress: Codable, Sendable {
    public static let parameterNames = ["poolId", "poolName", "ownerUid"]
    public var poolId: Int?
    public var poolName: String?
    public var ownerUid: Int?

    public init(id: Int) { poolId = id }

    /// `ownerUid` nil: the caller's own.
    public init(name: String, ownerUid: Int? = nil) {
        poolName = name
        self.ownerUid = ownerUid
    }

    init(poolId: Int?, poolName: String?, ownerUid: Int?) {
        self.poolId = poolId
        self.poolName = poolName
        self.ownerUid = ownerUid
    }

    /// No field is set.
    public var isEmpty: Bool { poolId == nil && poolName == nil && ownerUid == nil }
}

public struct CreatePoolParameters: Codable, Sendable {
    public static let parameterNames = ["poolName", "sizeBytes", "huge", "objectLimit", "backedUpLimitBytes"]
    public var poolName: String
    public var sizeBytes: Int
    public var huge: Bool?
    public var objectLimit: Int?
    public var backedUpLimitBytes: Int?

    /// `huge`: of huge pages of 2 MiB.
    public init(
        poolName: String, sizeBytes: Int, huge: Bool? = nil, objectLimit: Int? = nil, backedUpLimitBytes: Int? = nil
    ) {
        self.poolName = poolName
        self.sizeBytes = sizeBytes
        self.huge = huge
        self.objectLimit = objectLimit
        self.backedUpLimitBytes = backedUpLimitBytes
    }
}

public struct ListPoolsParameters: Codable, Sendable {
    public static let parameterNames = ["afterPoolId"]
    public var afterPoolId: Int?

    public init(afterPoolId: Int? = nil) { self.afterPoolId = afterPoolId }
}

public struct CreateObjectParameters: Codable, Sendable {
    public static let parameterNames = PoolAddress.parameterNames + ["objectName", "sizeBytes", "priority", "purgeable", "leased"]
    public var poolId: Int?
    public var poolName: String?
    public var ownerUid: Int?
    public var objectName: String
    public var sizeBytes: Int
    public var priority: Int?
    public var purgeable: Bool?
    public var leased: Bool?

    public init(
        pool: PoolAddress, objectName: String, sizeBytes: Int, priority: Int? = nil, purgeable: Bool? = nil, leased: Bool? = nil
    ) {
        (poolId, poolName, ownerUid) = (pool.poolId, pool.poolName, pool.ownerUid)
        self.objectName = objectName
        self.sizeBytes = sizeBytes
        self.priority = priority
        self.purgeable = purgeable
        self.leased = leased
    }

    public var pool: PoolAddress { PoolAddress(poolId: poolId, poolName: poolName, ownerUid: ownerUid) }
}

/// One object.
public struct ObjectAddress: Codable, Sendable {
    public static let parameterNames = ["objectId"]
    public var objectId: Int

    public init(objectId: Int) { self.objectId = objectId }
}

public struct ListObjectsParameters: Codable, Sendable {
    public static let parameterNames = PoolAddress.parameterNames + ["afterObjectId"]
    public var poolId: Int?
    public var poolName: String?
    public var ownerUid: Int?
    public var afterObjectId: Int?

    /// `pool` nil: the objects of all pools.
    public init(pool: PoolAddress?, afterObjectId: Int? = nil) {
        (poolId, poolName, ownerUid) = (pool?.poolId, pool?.poolName, pool?.ownerUid)
        self.afterObjectId = afterObjectId
    }

    public var pool: PoolAddress { PoolAddress(poolId: poolId, poolName: poolName, ownerUid: ownerUid) }
}

/// What a shrink or recover applies to.
public enum WireTarget: Sendable {
    /// So much, of the longest unused objects. Not for recover.
    case goalBytes(Int)
    case object(Int)
    case pool(PoolAddress)
    case everything
}

public struct ShrinkParameters: Codable, Sendable {
    public static let parameterNames = ["goalBytes"] + RecoverParameters.parameterNames
    public var goalBytes: Int?
    public var objectId: Int?
    public var poolId: Int?
    public var poolName: String?
    public var ownerUid: Int?
    public var everything: Bool?

    public init(_ target: WireTarget) {
        switch target {
        case .goalBytes(let bytes): goalBytes = bytes
        case .object(let id): objectId = id
        case .pool(let pool): (poolId, poolName, ownerUid) = (pool.poolId, pool.poolName, pool.ownerUid)
        case .everything: everything = true
        }
    }

    public var pool: PoolAddress { PoolAddress(poolId: poolId, poolName: poolName, ownerUid: ownerUid) }

    /// The one target, or nil if there is none or more than one.
    public var target: WireTarget? { onlyTarget(goalBytes, objectId, pool, everything) }
}

public struct RecoverParameters: Codable, Sendable {
    public static let parameterNames = ["objectId"] + PoolAddress.parameterNames + ["everything"]
    public var objectId: Int?
    public var poolId: Int?
    public var poolName: String?
    public var ownerUid: Int?
    public var everything: Bool?

    /// Nil for `goalBytes`, which recover does not know.
    public init?(_ target: WireTarget) {
        switch target {
        case .goalBytes: return nil
        case .object(let id): objectId = id
        case .pool(let pool): (poolId, poolName, ownerUid) = (pool.poolId, pool.poolName, pool.ownerUid)
        case .everything: everything = true
        }
    }

    public var pool: PoolAddress { PoolAddress(poolId: poolId, poolName: poolName, ownerUid: ownerUid) }

    /// The one target, or nil if there is none or more than one.
    public var target: WireTarget? { onlyTarget(nil, objectId, pool, everything) }
}

private func onlyTarget(_ goalBytes: Int?, _ objectId: Int?, _ pool: PoolAddress, _ everything: Bool?) -> WireTarget? {
    var targets: [WireTarget] = []
    if let goalBytes { targets.append(.goalBytes(goalBytes)) }
    if let objectId { targets.append(.object(objectId)) }
    if !pool.isEmpty { targets.append(.pool(pool)) }
    if everything == true { targets.append(.everything) }
    return targets.count == 1 ? targets[0] : nil
}

public struct ReadObjectParameters: Codable, Sendable {
    public static let parameterNames = ["objectId", "offsetBytes", "lengthBytes"]
    /// Bytes of one call.
    public static let lengthLimit = 4 << 20
    public var objectId: Int
    public var offsetBytes: Int
    public var lengthBytes: Int

    public init(objectId: Int, offsetBytes: Int, lengthBytes: Int) {
        self.objectId = objectId
        self.offsetBytes = offsetBytes
        self.lengthBytes = lengthBytes
    }
}

public struct ListPagesParameters: Codable, Sendable {
    public static let parameterNames = ["objectId", "firstPage"]
    public var objectId: Int
    public var firstPage: Int?

    public init(objectId: Int, firstPage: Int? = nil) {
        self.objectId = objectId
        self.firstPage = firstPage
    }
}

/// A fault to be set.
public struct SetFaultParameters: Codable, Sendable {
    public static let parameterNames = ["operation", "errno", "delayMilliseconds", "probability", "every", "count", "objectId"]
    public var operation: String
    public var errno: String?
    public var delayMilliseconds: Int?
    public var probability: Double?
    public var every: Int?
    public var count: Int?
    public var objectId: Int?

    public init(
        operation: String, errno: String? = nil, delayMilliseconds: Int? = nil, probability: Double? = nil, every: Int? = nil,
        count: Int? = nil, objectId: Int? = nil
    ) {
        self.operation = operation
        self.errno = errno
        self.delayMilliseconds = delayMilliseconds
        self.probability = probability
        self.every = every
        self.count = count
        self.objectId = objectId
    }
}
