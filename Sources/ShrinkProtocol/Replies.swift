// What replies carry.

/// Nothing.
public struct NoReply: Codable, Sendable, Equatable {
    public init() {}
}

public struct StatusReply: Codable, Sendable, Equatable {
    public var version: String
    public var pools: Int
    public var objects: Int
    public var pages: WirePageCounts
    public var backup: WireBackup
    public var strayPages: Int
    public var damagedPages: Int
    public var features: [String: WireFeature]
    /// A daemon of an older version does not tell.
    public var survival: WireSurvival?

    public init(
        version: String, pools: Int, objects: Int, pages: WirePageCounts, backup: WireBackup, strayPages: Int, damagedPages: Int,
        features: [String: WireFeature]
    ) {
        self.version = version
        self.pools = pools
        self.objects = objects
        self.pages = pages
        self.backup = backup
        self.strayPages = strayPages
        self.damagedPages = damagedPages
        self.features = features
    }
}

/// A pool and its memory.
public struct PoolReply: Codable, Sendable, Equatable {
    public var pool: WirePool
    /// Index into the message's descriptors.
    public var poolFileDescriptor: Int

    public init(pool: WirePool, poolFileDescriptor: Int) {
        self.pool = pool
        self.poolFileDescriptor = poolFileDescriptor
    }
}

public struct ListPoolsReply: Codable, Sendable, Equatable {
    public var pools: [WirePool]
    /// Nil: the list is complete, or goes on in the next reply of the series.
    public var nextAfterPoolId: Int?

    public init(pools: [WirePool], nextAfterPoolId: Int?) {
        self.pools = pools
        self.nextAfterPoolId = nextAfterPoolId
    }
}

public struct ObjectReply: Codable, Sendable, Equatable {
    public var bufferObject: WireObject

    public init(bufferObject: WireObject) { self.bufferObject = bufferObject }
}

public struct ListObjectsReply: Codable, Sendable, Equatable {
    public var bufferObjects: [WireObject]
    /// Nil: the list is complete, or goes on in the next reply of the series.
    public var nextAfterObjectId: Int?

    public init(bufferObjects: [WireObject], nextAfterObjectId: Int?) {
        self.bufferObjects = bufferObjects
        self.nextAfterObjectId = nextAfterObjectId
    }
}

public struct ShrinkReply: Codable, Sendable, Equatable {
    public var goalBytes: Int?
    public var scannedPages = 0
    public var backedUpPages = 0
    public var zeroPages = 0
    public var freedBytes = 0
    public var storedBytes = 0
    public var netFreedBytes = 0
    public var durationNanoseconds = 0
    public var skippedObjects = 0
    public var revokedLeases = 0
    public var unansweredLeases = 0
    public var kernelFreedBytes: Int?
    public var hugePageBytes: Int?
    public var returnedHugePageBytes: Int?
    public var failure: WireFailure?

    public init() {}
}

public struct RecoverReply: Codable, Sendable, Equatable {
    public var recoveredPages = 0
    public var failedPages = 0
    public var durationNanoseconds = 0
    public var failure: WireFailure?

    public init() {}
}

public struct ReadObjectReply: Codable, Sendable, Equatable {
    /// Index into the message's descriptors.
    public var contentFileDescriptor: Int
    public var lengthBytes: Int

    public init(contentFileDescriptor: Int, lengthBytes: Int) {
        self.contentFileDescriptor = contentFileDescriptor
        self.lengthBytes = lengthBytes
    }
}

public struct ListPagesReply: Codable, Sendable, Equatable {
    /// Without gaps and in order.
    public var runs: [WirePageRun]
    /// Nil: that was the object's end, or the list goes on in the next reply of the series.
    public var nextFirstPage: Int?

    public init(runs: [WirePageRun], nextFirstPage: Int?) {
        self.runs = runs
        self.nextFirstPage = nextFirstPage
    }
}

public struct ListFaultsReply: Codable, Sendable, Equatable {
    public var faults: [WireFault]

    public init(faults: [WireFault]) { self.faults = faults }
}
