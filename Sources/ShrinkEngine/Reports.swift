import ShrinkLinux

/// What a shrink or recover applies to.
public enum ReclaimTarget: Sendable, Equatable {
    /// As many bytes, from the longest unused objects of all pools.
    case bytes(ByteCount)
    case object(ObjectID)
    case pool(PoolID)
    case all
}

/// The answer of a progress callback.
public enum Continuation: Sendable {
    case proceed
    /// Stop at this run; what is done stays done.
    case stop
}

/// Pages are counted as base pages of 4096 bytes: a huge page of 2 MiB is 512 of them.
public struct ShrinkResult: Sendable, Equatable {
    /// Nil: everything the target has.
    public var goalBytes: ByteCount?
    public var scannedPages = 0
    public var backedUpPages = 0
    public var zeroPages = 0
    /// Freed without a copy: the content was expendable.
    public var purgedPages = 0
    /// Blocks the pool files lost, ready ones included.
    public var freedBytes = ByteCount.zero
    /// Growth of the store.
    public var storedBytes = ByteCount.zero
    /// Freed less the growth of stores in memory. Huge pages are not in it: they stay huge pages.
    public var netFreedBytes = ByteCount.zero
    /// Of `freedBytes`, what was huge pages.
    public var hugePageBytes = ByteCount.zero
    /// What the machine's free huge pages of 2 MiB grew by while some went; nil if none did. Others take and give them meanwhile, and surplus pages go
    /// back to the machine instead.
    public var returnedHugePageBytes: ByteCount?
    public var durationNanoseconds: UInt64 = 0
    /// Objects that were pinned or busy and left alone.
    public var skippedObjects = 0
    /// Objects passed over because their backup's device sleeps; it is being woken for the next time.
    public var deferredObjects = 0
    /// Leased objects whose users let go of them and whose pages went.
    public var revokedLeases = 0
    /// Leased objects that were left alone: their users did not answer in time, nobody listened, or one pinned again.
    public var unansweredLeases = 0
    /// What the machine's free memory grew by when leased pages went; nil if none did. Others take and give memory meanwhile.
    public var kernelFreedBytes: ByteCount?
    /// Why it stopped before the target was reached, if it did.
    public var failure: EngineError?

    public init() {}

    public static func == (a: ShrinkResult, b: ShrinkResult) -> Bool {
        a.goalBytes == b.goalBytes && a.scannedPages == b.scannedPages && a.backedUpPages == b.backedUpPages && a.zeroPages == b.zeroPages
            && a.freedBytes == b.freedBytes && a.storedBytes == b.storedBytes && a.failure?.code == b.failure?.code
    }
}

/// Pages are counted as base pages of 4096 bytes: a huge page of 2 MiB is 512 of them.
public struct RecoverResult: Sendable {
    public var recoveredPages = 0
    public var failedPages = 0
    public var durationNanoseconds: UInt64 = 0
    /// The first reason, if pages failed or it stopped early.
    public var failure: EngineError?

    public init() {}
}

/// How far a shrink is; figures are totals so far.
public struct ShrinkProgress: Sendable {
    public var scannedPages: Int
    public var freedBytes: ByteCount
    public var currentObject: ObjectID
}

/// How far a recover is.
public struct RecoverProgress: Sendable {
    public var recoveredPages: Int
    public var failedPages: Int
    public var currentObject: ObjectID
}

public struct PoolInfo: Sendable {
    public var id: PoolID
    public var name: String
    /// A uid.
    public var owner: UInt32
    /// Of one of its pages: 4096, or 2 MiB in a pool of huge pages.
    public var pageBytes: ByteCount
    public var sizeBytes: ByteCount
    /// Not in any object.
    public var freeBytes: ByteCount
    /// What the pool's memory file takes now (st_blocks), ready blocks included.
    public var allocatedBytes: ByteCount
    public var objectCount: Int
    public var limits: PoolLimits
    /// Of `pageBytes` each.
    public var pages: PageCounts

    public var isHuge: Bool { pageBytes.rawValue != basePageSize }
}

public struct ObjectInfo: Sendable {
    public var id: ObjectID
    public var pool: PoolID
    public var name: String
    public var owner: UInt32
    /// As asked for; the object's memory is this rounded up to pages.
    public var sizeBytes: ByteCount
    /// Of one of its pages: its pool's.
    public var pageBytes: ByteCount
    public var pageCount: Int
    /// Where the object starts in the pool's memory.
    public var offsetBytes: ByteCount
    public var priority: Priority
    public var pinCount: Int
    /// Its content may be given up when memory is short.
    public var isPurgeable: Bool
    /// Its content was given up; the next pin says so.
    public var isPurged: Bool
    /// How often its content was given up and made zeros, modulo 2^20.
    public var purgeGeneration: UInt32
    /// A device uses its memory while it is pinned.
    public var isLeased: Bool
    /// Of `pageBytes` each.
    public var pages: PageCounts
}

public struct EngineStatus: Sendable {
    public var poolCount: Int
    public var objectCount: Int
    /// Base pages of 4096 bytes: a huge page of 2 MiB counts as 512.
    public var pages: PageCounts
    public var backup: BackupStatus
    /// Objects in the backup that no ledger knows; kept until removed on request.
    public var orphans: Int
    /// Pages that clients wrote while the backup had them, since start.
    public var strayPages: Int
    /// Pages found missing or unreadable in the backup, since start.
    public var damagedPages: Int
    public var features: [Feature]
}
