// What calls about gates, purgeable content and leases carry. The meaning of each field is in the interface's text (InterfaceText.swift).

public struct SetPurgeableParameters: Codable, Sendable {
    public static let parameterNames = ["objectId", "purgeable"]
    public var objectId: Int
    public var purgeable: Bool

    public init(objectId: Int, purgeable: Bool) {
        self.objectId = objectId
        self.purgeable = purgeable
    }
}

public struct SetLeaseParameters: Codable, Sendable {
    public static let parameterNames = ["objectId", "leased"]
    public var objectId: Int
    public var leased: Bool

    public init(objectId: Int, leased: Bool) {
        self.objectId = objectId
        self.leased = leased
    }
}

public struct RetainedReply: Codable, Sendable, Equatable {
    public var retained: Bool

    public init(retained: Bool) { self.retained = retained }
}

/// A pin, made by Pin or PinGate.
public struct PinReply: Codable, Sendable, Equatable {
    public var bufferObject: WireObject
    public var retained: Bool
    public var purgeGeneration: Int

    /// A client whose reply was lost with the engine finds that its pin was made, and has the object's description alone. What its connection had seen
    /// died with that engine too, so content that was ever given up counts as given up now.
    public init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: CodingKeys.self)
        bufferObject = try container.decode(WireObject.self, forKey: .bufferObject)
        purgeGeneration = try container.decodeIfPresent(Int.self, forKey: .purgeGeneration) ?? bufferObject.purgeGeneration
        retained = try container.decodeIfPresent(Bool.self, forKey: .retained) ?? (purgeGeneration == 0)
    }

    public init(bufferObject: WireObject, retained: Bool, purgeGeneration: Int) {
        self.bufferObject = bufferObject
        self.retained = retained
        self.purgeGeneration = purgeGeneration
    }
}

public struct MapGatesReply: Codable, Sendable, Equatable {
    /// Index into the message's descriptors.
    public var gatesFileDescriptor: Int
    public var gateCount: Int
    public var gateClientId: Int

    public init(gatesFileDescriptor: Int, gateCount: Int, gateClientId: Int) {
        self.gatesFileDescriptor = gatesFileDescriptor
        self.gateCount = gateCount
        self.gateClientId = gateClientId
    }
}

public struct AttachGateReply: Codable, Sendable, Equatable {
    public var bufferObject: WireObject
    public var gateIndex: Int
    public var gateGeneration: Int
    public var purgeGeneration: Int

    public init(bufferObject: WireObject, gateIndex: Int, gateGeneration: Int, purgeGeneration: Int) {
        self.bufferObject = bufferObject
        self.gateIndex = gateIndex
        self.gateGeneration = gateGeneration
        self.purgeGeneration = purgeGeneration
    }
}
