import ShrinkProtocol

// What --json prints; members become snake_case. docs/control-protocol.md lists them.

/// A member that is `null` rather than missing.
struct Nullable<Value: Encodable>: Encodable {
    var value: Value?

    func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        if let value { try container.encode(value) } else { try container.encodeNil() }
    }
}

struct StatusDocument: Encodable {
    struct Backup: Encodable {
        var mount: String
        var bytesStored: Nullable<Int>
        var bytesAvailable: Nullable<Int>
        var orphans: Int
        var silentMs: Nullable<Int>
    }
    struct Survival: Encodable {
        var starts: Int
        var healedPages: Int
        var lostPages: Int
        var waitingSessions: Int
        var descriptors: Int
        var descriptorLimit: Nullable<Int>
    }
    struct Feature: Encodable {
        var available: Bool
        var reason: Nullable<String>
    }
    var version: String
    var pools: Int
    var objects: Int
    var pages: WirePageCounts
    var backup: Backup
    var strayPages: Int
    var damagedPages: Int
    var features: [String: Feature]
    var survival: Nullable<Survival>
    var pressure: Nullable<PressureDocument>
    var users: [UserDocument]
    var leases: LeasesReply

    init(_ status: StatusReply, _ pressure: PressureReply?, _ usage: [WireUserUsage], _ leases: LeasesReply) {
        self.pressure = Nullable(value: pressure.map { PressureDocument($0) })
        users = usage.map { UserDocument($0) }
        self.leases = leases
        version = status.version
        pools = status.pools
        objects = status.objects
        pages = status.pages
        backup = Backup(
            mount: status.backup.mount, bytesStored: Nullable(value: status.backup.bytesStored),
            bytesAvailable: Nullable(value: status.backup.bytesAvailable), orphans: status.backup.orphans,
            silentMs: Nullable(value: status.backup.silentMilliseconds))
        strayPages = status.strayPages
        damagedPages = status.damagedPages
        survival = Nullable(
            value: status.survival.map {
                Survival(
                    starts: $0.starts, healedPages: $0.healedPages, lostPages: $0.lostPages, waitingSessions: $0.waitingSessions,
                    descriptors: $0.descriptors, descriptorLimit: Nullable(value: $0.descriptorLimit))
            })
        features = status.features.mapValues { Feature(available: $0.available, reason: Nullable(value: $0.reason)) }
    }
}

/// What a uid takes, and what it may take.
struct UserDocument: Encodable {
    var uid: Int
    var pools: Int
    var poolLimit: Nullable<Int>
    var objects: Int
    var objectLimit: Nullable<Int>
    var poolBytes: Int
    var poolBytesLimit: Nullable<Int>
    var residentBytes: Int
    var backedUpBytes: Int
    var backedUpLimitBytes: Nullable<Int>

    init(_ usage: WireUserUsage) {
        uid = usage.uid
        pools = usage.pools
        poolLimit = Nullable(value: usage.poolLimit)
        objects = usage.objects
        objectLimit = Nullable(value: usage.objectLimit)
        poolBytes = usage.poolBytes
        poolBytesLimit = Nullable(value: usage.poolBytesLimit)
        residentBytes = usage.residentBytes
        backedUpBytes = usage.backedUpBytes
        backedUpLimitBytes = Nullable(value: usage.backedUpLimitBytes)
    }
}

struct PoolDocument: Encodable {
    var id: Int
    var name: String
    var ownerUid: Int
    var pageBytes: Int
    var huge: Bool
    var sizeBytes: Int
    var freeBytes: Int
    var allocatedBytes: Int
    var objectCount: Int
    var objectLimit: Nullable<Int>
    var backedUpLimitBytes: Nullable<Int>
    var pages: WirePageCounts

    init(_ pool: WirePool) {
        id = pool.poolId
        name = pool.poolName
        ownerUid = pool.ownerUid
        pageBytes = pool.pageBytes ?? 4096
        huge = pageBytes > 4096
        sizeBytes = pool.sizeBytes
        freeBytes = pool.freeBytes
        allocatedBytes = pool.allocatedBytes
        objectCount = pool.objectCount
        objectLimit = Nullable(value: pool.objectLimit)
        backedUpLimitBytes = Nullable(value: pool.backedUpLimitBytes)
        pages = pool.pages
    }
}

struct PoolListDocument: Encodable {
    var pools: [PoolDocument]
}

struct ObjectDocument: Encodable {
    var id: Int
    var name: String
    /// The pool's name.
    var pool: String
    var poolId: Int
    var ownerUid: Int
    var pageBytes: Int
    var sizeBytes: Int
    var roundedBytes: Int
    var offsetBytes: Int
    var priority: Int
    var pinCount: Int
    var purgeable: Bool
    var purged: Bool
    var leased: Bool
    var pages: WirePageCounts

    init(_ object: WireObject) {
        id = object.objectId
        name = object.objectName
        pool = object.poolName
        poolId = object.poolId
        ownerUid = object.ownerUid
        pageBytes = object.pageBytes ?? 4096
        sizeBytes = object.sizeBytes
        roundedBytes = object.roundedBytes
        offsetBytes = object.offsetBytes
        priority = object.priority
        pinCount = object.pinCount
        purgeable = object.purgeable
        purged = object.purged
        leased = object.leased
        pages = object.pages
    }
}

struct ObjectListDocument: Encodable {
    var objects: [ObjectDocument]
}

/// The end of a pool or an object.
struct DestroyedDocument: Encodable {
    var destroyed: String
    var id: Int
}

/// Content that went in or out of an object.
struct TransferDocument: Encodable {
    var id: Int
    var bytes: Int
    /// The file.
    var file: String
}

struct FailureDocument: Encodable {
    var errorName: String
    var message: String

    init(_ failure: WireFailure) {
        errorName = failure.errorName
        message = failure.message
    }
}

struct ShrinkDocument: Encodable {
    var goalBytes: Nullable<Int>
    var scannedPages: Int
    var backedUpPages: Int
    var zeroPages: Int
    var freedBytes: Int
    var storedBytes: Int
    var netFreedBytes: Int
    var durationNs: Int
    var skippedObjects: Int
    var revokedLeases: Int
    var unansweredLeases: Int
    var kernelFreedBytes: Nullable<Int>
    var hugePageBytes: Int
    var returnedHugePageBytes: Nullable<Int>
    var failure: Nullable<FailureDocument>

    init(_ reply: ShrinkReply) {
        goalBytes = Nullable(value: reply.goalBytes)
        scannedPages = reply.scannedPages
        backedUpPages = reply.backedUpPages
        zeroPages = reply.zeroPages
        freedBytes = reply.freedBytes
        storedBytes = reply.storedBytes
        netFreedBytes = reply.netFreedBytes
        durationNs = reply.durationNanoseconds
        skippedObjects = reply.skippedObjects
        revokedLeases = reply.revokedLeases
        unansweredLeases = reply.unansweredLeases
        kernelFreedBytes = Nullable(value: reply.kernelFreedBytes)
        hugePageBytes = reply.hugePageBytes ?? 0
        returnedHugePageBytes = Nullable(value: reply.returnedHugePageBytes)
        failure = Nullable(value: reply.failure.map { FailureDocument($0) })
    }
}

struct RecoverDocument: Encodable {
    var recoveredPages: Int
    var failedPages: Int
    var durationNs: Int
    var failure: Nullable<FailureDocument>

    init(_ reply: RecoverReply) {
        recoveredPages = reply.recoveredPages
        failedPages = reply.failedPages
        durationNs = reply.durationNanoseconds
        failure = Nullable(value: reply.failure.map { FailureDocument($0) })
    }
}

/// Instead of any of the above, if there is nothing to tell but the failure.
struct ErrorDocument: Encodable {
    struct Failure: Encodable {
        var name: String
        var message: String
        var exitStatus: Int32
    }
    var error: Failure

    init(_ failure: CommandFailure) {
        error = Failure(name: failure.name, message: failure.message, exitStatus: failure.exitCode)
    }
}
