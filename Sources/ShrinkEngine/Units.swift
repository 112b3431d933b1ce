import ShrinkLinux

/// A number of bytes.
public struct ByteCount: RawRepresentable, Hashable, Comparable, Sendable, CustomStringConvertible {
    public let rawValue: Int

    public init(rawValue: Int) { self.rawValue = rawValue }
    public init(_ bytes: Int) { rawValue = bytes }

    public static let zero = ByteCount(0)
    public static func kibibytes(_ n: Int) -> ByteCount { ByteCount(n << 10) }
    public static func mebibytes(_ n: Int) -> ByteCount { ByteCount(n << 20) }

    public static func < (a: ByteCount, b: ByteCount) -> Bool { a.rawValue < b.rawValue }
    public static func + (a: ByteCount, b: ByteCount) -> ByteCount { ByteCount(a.rawValue + b.rawValue) }
    public static func - (a: ByteCount, b: ByteCount) -> ByteCount { ByteCount(a.rawValue - b.rawValue) }
    public var description: String { "\(rawValue) bytes" }
}

/// A page's position in its buffer object, counted in pages of its pool: 4096 bytes, or 2 MiB.
public struct PageIndex: RawRepresentable, Hashable, Comparable, Sendable {
    public let rawValue: Int
    @inline(__always) public init(rawValue: Int) { self.rawValue = rawValue }
    public static func < (a: PageIndex, b: PageIndex) -> Bool { a.rawValue < b.rawValue }
}

/// Where a backup keeps a page: its index + 1, so that 0 stays "none" (the kernel's shmem backup does the same). Opaque to callers.
public struct Handle: RawRepresentable, Hashable, Sendable {
    public let rawValue: UInt64
    @inline(__always) public init(rawValue: UInt64) { self.rawValue = rawValue }
    @inline(__always) public init(_ page: PageIndex) { rawValue = UInt64(page.rawValue) + 1 }
}

/// A pool in this engine; not used again while the engine lives.
public struct PoolID: RawRepresentable, Hashable, Comparable, Sendable, CustomStringConvertible {
    public let rawValue: UInt32
    public init(rawValue: UInt32) { self.rawValue = rawValue }
    public var description: String { "pool \(rawValue)" }
    public static func < (a: PoolID, b: PoolID) -> Bool { a.rawValue < b.rawValue }
}

/// A buffer object: 1 … 2^32-1, never used again while the backup directory lives. It names the object there too.
public struct ObjectID: RawRepresentable, Hashable, Comparable, Sendable, CustomStringConvertible {
    public let rawValue: UInt32
    public init(rawValue: UInt32) { self.rawValue = rawValue }
    public var description: String { "object \(rawValue)" }
    public static func < (a: ObjectID, b: ObjectID) -> Bool { a.rawValue < b.rawValue }
}

/// The order of reclaim: lower priorities go first (TTM_MAX_BO_PRIORITY is 4 as well).
public enum Priority: UInt8, Sendable, CaseIterable, Comparable, BitwiseCopyable {
    case lowest = 0
    case low = 1
    case normal = 2
    case high = 3

    public static func < (a: Priority, b: Priority) -> Bool { a.rawValue < b.rawValue }
}

/// Pages by state; together they are all pages of an object, a pool or the engine.
public struct PageCounts: Sendable, Equatable {
    /// In pool memory.
    public var resident = 0
    /// Found to be all zeros, freed and noted: a hole of the pool reads as zeros.
    public var zero = 0
    /// In the backup.
    public var backedUp = 0
    /// Never touched: holes.
    public var empty = 0

    public init(resident: Int = 0, zero: Int = 0, backedUp: Int = 0, empty: Int = 0) {
        (self.resident, self.zero, self.backedUp, self.empty) = (resident, zero, backedUp, empty)
    }

    /// The same in pages of 4096 bytes.
    public func inBasePages(of pageBytes: ByteCount) -> PageCounts {
        let n = pageBytes.rawValue / basePageSize
        return PageCounts(resident: resident * n, zero: zero * n, backedUp: backedUp * n, empty: empty * n)
    }

    static func + (a: PageCounts, b: PageCounts) -> PageCounts {
        PageCounts(
            resident: a.resident + b.resident, zero: a.zero + b.zero, backedUp: a.backedUp + b.backedUp, empty: a.empty + b.empty)
    }
}

/// Hard limits; each has an error of its own (`EngineError.Code.limitReached`).
public enum EngineLimits {
    public static let pools = 1024
    public static let objectsPerPool = 1 << 20
    public static let nameBytes = 64
    /// 2^28 pages: what a node id of the backup tree can name.
    public static let pagesPerObject = 1 << 28
    public static let pagesPerPool = 1 << 32 - 1
    /// The longest run that is copied in one call.
    public static let runPages = 256
    /// Open `data` files kept for reuse, or half of what the process may open if that is less. More objects than these cost an open and a close
    /// each time they are moved.
    public static let openBackupFiles = 16384
    public static let bulkMoves = 1 << 16
    /// Clients that have gates.
    public static let gateClients = 4096
    /// Leased objects that one shrink asks for.
    public static let revocationsAtOnce = 256
    /// Callers that may hold several reservations at once.
    public static let tickets = 64
}
