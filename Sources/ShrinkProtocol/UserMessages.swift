// What a uid takes and may take. The meaning of each field is in the interface's text (InterfaceText.swift).

public struct ListUsersParameters: Codable, Sendable {
    public static let parameterNames = ["afterUid"]
    public var afterUid: Int?

    public init(afterUid: Int? = nil) { self.afterUid = afterUid }
}

public struct WireUserUsage: Codable, Sendable, Equatable {
    public var uid: Int
    public var pools: Int
    public var poolLimit: Int?
    public var objects: Int
    public var objectLimit: Int?
    public var poolBytes: Int
    public var poolBytesLimit: Int?
    public var residentBytes: Int
    public var backedUpBytes: Int
    public var backedUpLimitBytes: Int?

    public init(
        uid: Int, pools: Int, poolLimit: Int?, objects: Int, objectLimit: Int?, poolBytes: Int, poolBytesLimit: Int?, residentBytes: Int,
        backedUpBytes: Int, backedUpLimitBytes: Int?
    ) {
        self.uid = uid
        self.pools = pools
        self.poolLimit = poolLimit
        self.objects = objects
        self.objectLimit = objectLimit
        self.poolBytes = poolBytes
        self.poolBytesLimit = poolBytesLimit
        self.residentBytes = residentBytes
        self.backedUpBytes = backedUpBytes
        self.backedUpLimitBytes = backedUpLimitBytes
    }
}

public struct ListUsersReply: Codable, Sendable, Equatable {
    public var users: [WireUserUsage]
    /// Nil: the list is complete, or goes on in the next reply of the series.
    public var nextAfterUid: Int?

    public init(users: [WireUserUsage], nextAfterUid: Int?) {
        self.users = users
        self.nextAfterUid = nextAfterUid
    }
}
