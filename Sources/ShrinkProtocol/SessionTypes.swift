// Sessions: what a connection holds, and how a client has it back after the daemon's engine died.

public struct OpenSessionReply: Codable, Sendable, Equatable {
    /// 32 hexadecimal digits.
    public var sessionToken: String
    public var graceMilliseconds: Int

    public init(sessionToken: String, graceMilliseconds: Int) {
        self.sessionToken = sessionToken
        self.graceMilliseconds = graceMilliseconds
    }
}

public struct ResumeSessionParameters: Codable, Sendable {
    public static let parameterNames = ["sessionToken"]
    public var sessionToken: String

    public init(sessionToken: String) { self.sessionToken = sessionToken }
}

public struct ResumeSessionReply: Codable, Sendable, Equatable {
    /// Pools whose memory the session was given.
    public var poolIds: [Int]

    public init(poolIds: [Int]) { self.poolIds = poolIds }
}

public struct ListPinsParameters: Codable, Sendable {
    public static let parameterNames = ["afterObjectId"]
    public var afterObjectId: Int?

    public init(afterObjectId: Int? = nil) { self.afterObjectId = afterObjectId }
}

/// Pins that one connection has of one object.
public struct WirePin: Codable, Sendable, Equatable {
    public var objectId: Int
    public var count: Int

    public init(objectId: Int, count: Int) {
        self.objectId = objectId
        self.count = count
    }
}

public struct ListPinsReply: Codable, Sendable, Equatable {
    public var pins: [WirePin]
    /// Nil: the list is complete.
    public var nextAfterObjectId: Int?

    public init(pins: [WirePin], nextAfterObjectId: Int?) {
        self.pins = pins
        self.nextAfterObjectId = nextAfterObjectId
    }
}

/// What the daemon went through and goes on from.
public struct WireSurvival: Codable, Sendable, Equatable {
    /// Engines that have worked with the pools of now.
    public var starts: Int
    public var healedPages: Int
    public var lostPages: Int
    public var waitingSessions: Int
    /// Descriptors that the starter keeps.
    public var descriptors: Int
    /// Nil: it keeps none.
    public var descriptorLimit: Int?

    public init(starts: Int, healedPages: Int, lostPages: Int, waitingSessions: Int, descriptors: Int, descriptorLimit: Int?) {
        self.starts = starts
        self.healedPages = healedPages
        self.lostPages = lostPages
        self.waitingSessions = waitingSessions
        self.descriptors = descriptors
        self.descriptorLimit = descriptorLimit
    }
}
