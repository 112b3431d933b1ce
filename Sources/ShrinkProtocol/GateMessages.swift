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
