// What calls about leased memory carry. The meaning of each field is in the interface's text (InterfaceText.swift).

public struct GateClientAddress: Codable, Sendable {
    public static let parameterNames = ["gateClientId"]
    public var gateClientId: Int

    public init(gateClientId: Int) { self.gateClientId = gateClientId }
}

public struct WaitForRevocationParameters: Codable, Sendable {
    public static let parameterNames = ["gateClientId", "acknowledgedRevocationId"]
    public var gateClientId: Int
    public var acknowledgedRevocationId: Int?

    public init(gateClientId: Int, acknowledgedRevocationId: Int? = nil) {
        self.gateClientId = gateClientId
        self.acknowledgedRevocationId = acknowledgedRevocationId
    }
}

public struct RevocationReply: Codable, Sendable, Equatable {
    public var objectId: Int
    public var revocationId: Int
    public var deadlineMilliseconds: Int

    public init(objectId: Int, revocationId: Int, deadlineMilliseconds: Int) {
        self.objectId = objectId
        self.revocationId = revocationId
        self.deadlineMilliseconds = deadlineMilliseconds
    }
}

public struct LeasesReply: Codable, Sendable, Equatable {
    public var leasedObjects: Int
    public var revocations: Int
    public var answered: Int
    public var unanswered: Int

    public init(leasedObjects: Int, revocations: Int, answered: Int, unanswered: Int) {
        self.leasedObjects = leasedObjects
        self.revocations = revocations
        self.answered = answered
        self.unanswered = unanswered
    }
}
