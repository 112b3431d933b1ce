// Recover on touch: a client hands the faults of its own mapping over.

extension Methods {
    public static let registerMapping = WireMethod<RegisterMappingParameters, RegisterMappingReply>(member: "RegisterMapping")
    public static let unregisterMapping = WireMethod<UnregisterMappingParameters, NoReply>(member: "UnregisterMapping")
    public static let openUserfaultDevice = WireMethod<NoParameters, UserfaultDeviceReply>(member: "OpenUserfaultDevice")

    /// Registered mappings of one connection.
    public static let mappingsPerConnection = 64
}

public struct RegisterMappingParameters: Codable, Sendable {
    public static let parameterNames = [
        "poolId", "poolName", "ownerUid", "userfaultFileDescriptor", "address", "offsetBytes", "lengthBytes",
    ]
    public var poolId: Int?
    public var poolName: String?
    public var ownerUid: Int?
    /// Index into the message's descriptors.
    public var userfaultFileDescriptor: Int
    public var address: Int
    public var offsetBytes: Int
    public var lengthBytes: Int

    public init(pool: PoolAddress, userfaultFileDescriptor: Int, address: Int, offsetBytes: Int, lengthBytes: Int) {
        poolId = pool.poolId
        poolName = pool.poolName
        ownerUid = pool.ownerUid
        self.userfaultFileDescriptor = userfaultFileDescriptor
        self.address = address
        self.offsetBytes = offsetBytes
        self.lengthBytes = lengthBytes
    }

    public var pool: PoolAddress { PoolAddress(poolId: poolId, poolName: poolName, ownerUid: ownerUid) }
}

public struct RegisterMappingReply: Codable, Sendable, Equatable {
    public var mappingId: Int

    public init(mappingId: Int) { self.mappingId = mappingId }
}

public struct UnregisterMappingParameters: Codable, Sendable {
    public static let parameterNames = ["mappingId"]
    public var mappingId: Int

    public init(mappingId: Int) { self.mappingId = mappingId }
}

public struct UserfaultDeviceReply: Codable, Sendable, Equatable {
    /// Index into the message's descriptors.
    public var deviceFileDescriptor: Int

    public init(deviceFileDescriptor: Int) { self.deviceFileDescriptor = deviceFileDescriptor }
}
