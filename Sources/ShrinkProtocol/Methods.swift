/// A method of the interface with the types it takes and gives.
public struct WireMethod<Parameters: Codable & Sendable, Reply: Codable & Sendable>: Sendable {
    /// Without the interface.
    public let member: String
    public var fullName: String { ShrinkInterface.name + "." + member }
}

/// Every method of `io.shrinkd`.
public enum Methods {
    public static let status = WireMethod<NoParameters, StatusReply>(member: "Status")
    public static let openSession = WireMethod<NoParameters, OpenSessionReply>(member: "OpenSession")
    public static let resumeSession = WireMethod<ResumeSessionParameters, ResumeSessionReply>(member: "ResumeSession")
    public static let listPins = WireMethod<ListPinsParameters, ListPinsReply>(member: "ListPins")
    public static let listUsers = WireMethod<ListUsersParameters, ListUsersReply>(member: "ListUsers")
    public static let createPool = WireMethod<CreatePoolParameters, PoolReply>(member: "CreatePool")
    public static let openPool = WireMethod<PoolAddress, PoolReply>(member: "OpenPool")
    public static let destroyPool = WireMethod<PoolAddress, NoReply>(member: "DestroyPool")
    public static let listPools = WireMethod<ListPoolsParameters, ListPoolsReply>(member: "ListPools")
    public static let createObject = WireMethod<CreateObjectParameters, ObjectReply>(member: "CreateObject")
    public static let destroyObject = WireMethod<ObjectAddress, NoReply>(member: "DestroyObject")
    public static let listObjects = WireMethod<ListObjectsParameters, ListObjectsReply>(member: "ListObjects")
    public static let getObject = WireMethod<ObjectAddress, ObjectReply>(member: "GetObject")
    public static let pin = WireMethod<ObjectAddress, PinReply>(member: "Pin")
    public static let unpin = WireMethod<ObjectAddress, NoReply>(member: "Unpin")
    public static let setPurgeable = WireMethod<SetPurgeableParameters, RetainedReply>(member: "SetPurgeable")
    public static let setLease = WireMethod<SetLeaseParameters, NoReply>(member: "SetLease")
    public static let mapGates = WireMethod<NoParameters, MapGatesReply>(member: "MapGates")
    public static let attachGate = WireMethod<ObjectAddress, AttachGateReply>(member: "AttachGate")
    public static let detachGate = WireMethod<ObjectAddress, NoReply>(member: "DetachGate")
    public static let pinGate = WireMethod<ObjectAddress, PinReply>(member: "PinGate")
    public static let listenForRevocations = WireMethod<GateClientAddress, NoReply>(member: "ListenForRevocations")
    public static let waitForRevocation = WireMethod<WaitForRevocationParameters, RevocationReply>(member: "WaitForRevocation")
    public static let getLeases = WireMethod<NoParameters, LeasesReply>(member: "GetLeases")
    public static let shrink = WireMethod<ShrinkParameters, ShrinkReply>(member: "Shrink")
    public static let recover = WireMethod<RecoverParameters, RecoverReply>(member: "Recover")
    public static let readObject = WireMethod<ReadObjectParameters, ReadObjectReply>(member: "ReadObject")
    public static let listPages = WireMethod<ListPagesParameters, ListPagesReply>(member: "ListPages")
    public static let setFault = WireMethod<SetFaultParameters, NoReply>(member: "SetFault")
    public static let listFaults = WireMethod<NoParameters, ListFaultsReply>(member: "ListFaults")
    public static let clearFaults = WireMethod<NoParameters, NoReply>(member: "ClearFaults")

    /// Entries of one reply of a list: 128 of the longest fit a message of 256 KiB.
    public static let listChunk = 128
    /// Runs of one reply of ListPages: each takes less than 100 bytes.
    public static let pageRunChunk = 1024
    /// Pins of one reply of ListPins: each takes less than 60 bytes.
    public static let pinChunk = 1024
}

/// The errors of the interface. Each carries a `message` that names cause and way out.
public enum WireErrorName: String, Sendable, CaseIterable {
    case noSuchPool = "NoSuchPool"
    case noSuchObject = "NoSuchObject"
    case nameTaken = "NameTaken"
    case invalidName = "InvalidName"
    case invalidSize = "InvalidSize"
    case outOfSpace = "OutOfSpace"
    case outOfMemory = "OutOfMemory"
    case backupFull = "BackupFull"
    case backupFailed = "BackupFailed"
    case busy = "Busy"
    case notPinned = "NotPinned"
    case damaged = "Damaged"
    case interrupted = "Interrupted"
    case shuttingDown = "ShuttingDown"
    case limitReached = "LimitReached"
    case faultsNotAllowed = "FaultsNotAllowed"
    case invalidFault = "InvalidFault"
    case unsuitableMapping = "UnsuitableMapping"
    case noSuchSession = "NoSuchSession"
    case systemFailure = "SystemFailure"

    public var fullName: String { ShrinkInterface.name + "." + rawValue }

    /// Nil for a name of another interface.
    public init?(fullName: String) {
        guard fullName.hasPrefix(ShrinkInterface.name + ".") else { return nil }
        self.init(rawValue: String(fullName.dropFirst(ShrinkInterface.name.count + 1)))
    }
}

/// The parameters of every error of the interface.
public struct WireErrorParameters: Codable, Sendable, Equatable {
    public var message: String

    public init(message: String) { self.message = message }
}
