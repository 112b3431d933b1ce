import ShrinkEngine
import ShrinkProtocol

// The engine's reports in the wire's types.

extension WirePageCounts {
    init(_ counts: PageCounts) {
        self.init(resident: counts.resident, zero: counts.zero, backedUp: counts.backedUp, empty: counts.empty)
    }
}

extension WirePool {
    init(_ pool: PoolInfo) {
        self.init(
            poolId: Int(pool.id.rawValue), poolName: pool.name, ownerUid: Int(pool.owner),
            pageBytes: pool.isHuge ? pool.pageBytes.rawValue : nil,
            sizeBytes: pool.sizeBytes.rawValue,
            freeBytes: pool.freeBytes.rawValue, allocatedBytes: pool.allocatedBytes.rawValue, objectCount: pool.objectCount,
            objectLimit: pool.limits.objects, backedUpLimitBytes: pool.limits.backedUpBytes?.rawValue, pages: WirePageCounts(pool.pages))
    }
}

extension WireObject {
    init(_ object: ObjectInfo, poolName: String) {
        self.init(
            objectId: Int(object.id.rawValue), objectName: object.name, poolId: Int(object.pool.rawValue), poolName: poolName,
            ownerUid: Int(object.owner), pageBytes: object.pageBytes.rawValue == 4096 ? nil : object.pageBytes.rawValue,
            sizeBytes: object.sizeBytes.rawValue,
            roundedBytes: object.pageCount * object.pageBytes.rawValue,
            offsetBytes: object.offsetBytes.rawValue, priority: Int(object.priority.rawValue), pinCount: object.pinCount,
            purgeable: object.isPurgeable, purged: object.isPurged, purgeGeneration: Int(object.purgeGeneration), leased: object.isLeased,
            pages: WirePageCounts(object.pages))
    }
}

extension StatusReply {
    init(_ status: EngineStatus, version: String) {
        self.init(
            version: version, pools: status.poolCount, objects: status.objectCount, pages: WirePageCounts(status.pages),
            backup: WireBackup(
                mount: status.backup.path, bytesStored: status.backup.storedBytes.map { Int(clamping: $0) },
                bytesAvailable: status.backup.availableBytes == .max ? nil : Int(clamping: status.backup.availableBytes),
                orphans: status.orphans),
            strayPages: status.strayPages, damagedPages: status.damagedPages,
            features: Dictionary(
                status.features.map { ($0.name, WireFeature(available: $0.isAvailable, reason: $0.reason)) },
                uniquingKeysWith: { first, _ in first }))
    }
}

extension ShrinkReply {
    init(_ result: ShrinkResult) {
        self.init()
        goalBytes = result.goalBytes?.rawValue
        add(result)
        durationNanoseconds = Int(clamping: result.durationNanoseconds)
    }

    /// Adds the figures of one target to those of several. The first failure is kept.
    mutating func add(_ result: ShrinkResult) {
        scannedPages += result.scannedPages
        backedUpPages += result.backedUpPages
        zeroPages += result.zeroPages
        freedBytes += result.freedBytes.rawValue
        storedBytes += result.storedBytes.rawValue
        netFreedBytes += result.netFreedBytes.rawValue
        skippedObjects += result.skippedObjects
        revokedLeases += result.revokedLeases
        unansweredLeases += result.unansweredLeases
        if let gained = result.kernelFreedBytes { kernelFreedBytes = (kernelFreedBytes ?? 0) + gained.rawValue }
        if result.hugePageBytes.rawValue > 0 { hugePageBytes = (hugePageBytes ?? 0) + result.hugePageBytes.rawValue }
        if let returned = result.returnedHugePageBytes { returnedHugePageBytes = (returnedHugePageBytes ?? 0) + returned.rawValue }
        failure = failure ?? result.failure.map { WireFailure($0) }
    }

    init(_ progress: ShrinkProgress) {
        self.init()
        scannedPages = progress.scannedPages
        freedBytes = progress.freedBytes.rawValue
    }
}

extension RecoverReply {
    mutating func add(_ result: RecoverResult) {
        recoveredPages += result.recoveredPages
        failedPages += result.failedPages
        failure = failure ?? result.failure.map { WireFailure($0) }
    }

    init(_ progress: RecoverProgress) {
        self.init()
        recoveredPages = progress.recoveredPages
        failedPages = progress.failedPages
    }
}
