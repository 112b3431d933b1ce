// Memory pressure on the wire. The meaning of each field is documented once, in the interface's text (InterfaceText.swift).

extension Methods {
    public static let getPressure = WireMethod<NoParameters, PressureReply>(member: "GetPressure")
    public static let watchPressure = WireMethod<NoParameters, WatchPressureReply>(member: "WatchPressure")
    public static let tellPressure = WireMethod<NoParameters, TellPressureReply>(member: "TellPressure")
}

/// What one whole has left.
public struct WireHeadroom: Codable, Sendable, Equatable {
    public var scope: String
    public var totalBytes: Int
    public var availableBytes: Int
    public var lowBytes: Int
    public var highBytes: Int

    public init(scope: String, totalBytes: Int, availableBytes: Int, lowBytes: Int, highBytes: Int) {
        self.scope = scope
        self.totalBytes = totalBytes
        self.availableBytes = availableBytes
        self.lowBytes = lowBytes
        self.highBytes = highBytes
    }
}

/// One decision, and what came of it.
public struct WirePressureDecision: Codable, Sendable, Equatable {
    public var number: Int
    public var time: Int
    public var action: String
    public var reason: String
    public var text: String
    public var goalBytes: Int
    public var urgent: Bool
    public var freedBytes: Int?
    public var storedBytes: Int?
    public var netFreedBytes: Int?
    public var durationNanoseconds: Int?
    public var failure: String?

    public init(number: Int, time: Int, action: String, reason: String, text: String, goalBytes: Int, urgent: Bool) {
        self.number = number
        self.time = time
        self.action = action
        self.reason = reason
        self.text = text
        self.goalBytes = goalBytes
        self.urgent = urgent
    }
}

public struct PressureReply: Codable, Sendable, Equatable {
    public var mode: String
    public var headrooms: [WireHeadroom]
    public var memoryStallPercent: Double?
    public var ioStallPercent: Double?
    public var steps: Int
    public var freedBytes: Int
    public var storedBytes: Int
    public var listeners: Int
    public var decisions: [WirePressureDecision]

    public init(
        mode: String, headrooms: [WireHeadroom], memoryStallPercent: Double?, ioStallPercent: Double?, steps: Int, freedBytes: Int,
        storedBytes: Int, listeners: Int, decisions: [WirePressureDecision]
    ) {
        self.mode = mode
        self.headrooms = headrooms
        self.memoryStallPercent = memoryStallPercent
        self.ioStallPercent = ioStallPercent
        self.steps = steps
        self.freedBytes = freedBytes
        self.storedBytes = storedBytes
        self.listeners = listeners
        self.decisions = decisions
    }
}

public struct WatchPressureReply: Codable, Sendable, Equatable {
    public var decision: WirePressureDecision

    public init(decision: WirePressureDecision) { self.decision = decision }
}

public struct TellPressureReply: Codable, Sendable, Equatable {
    public var listeners: Int

    public init(listeners: Int) { self.listeners = listeners }
}
