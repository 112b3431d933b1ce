/// How a packed store is laid out and kept; every field has a default that suits memory as well as a disk.
public struct PackedOptions: Sendable {
    /// What compresses a block.
    public var codec = PackedCodec.lz4(acceleration: PackedCodec.usualAcceleration)
    /// The size of a segment file: a power of two, 1 … 64 MiB. Fixed when the store is made.
    public var segmentBytes = 4 << 20
    /// Pages compressed together: 1 … 16. A larger block stores less and makes the reading of one page slower (docs/packed-store.md).
    public var blockPages = 8
    /// Segments this old move to the next tier; nil: only `sync` moves them.
    public var ageSeconds: Int?
    /// Bytes that may be written to the tiers behind the first within a day (UTC); nil: no limit.
    public var writeBudgetBytesPerDay: UInt64?
    /// A sealed segment with more dead bytes than this share is compacted.
    public var deadSharePercent = 50
    /// A memory tier offers no space beyond what leaves this much memory available.
    public var memoryFloorBytes: UInt64 = 64 << 20
    /// Objects whose index is mapped at once, those in use apart; also limited by the process's open files.
    public var mappedObjectLimit = 16384
    /// Segments of a memory tier that are mapped for reading at once, in bytes of address space: page tables take a 512th of it where the tier's pages are
    /// small.
    var mappedBytesLimit = 4 << 30
    /// Runs the cleaner and the ageing of segments on threads of the store. Off only for tests that call them.
    public var runsInBackground = true
    /// Gets lines for the log: damage, a tier that fails, what was dropped.
    public var report: @Sendable (String) -> Void = { _ in }
    /// Called by whoever is about to compress a block of that object, without anything but what it holds while compressing; for tests.
    var beforeCompressing: (@Sendable (UInt32) -> Void)?
    /// Called by whoever has just mapped a segment and is about to let others have the mapping; for tests.
    var beforeMapping: (@Sendable () -> Void)?

    public init() {}
}

/// A compressor with its setting: `lz4`, `lz4:ACCELERATION`, `zstd`, `zstd:LEVEL`.
public enum PackedCodec: Sendable, Equatable, CustomStringConvertible {
    /// 1 stores least, every step more is some percent faster (LZ4_compress_fast); up to 64.
    case lz4(acceleration: Int32)
    /// -7 … 19 (ZSTD_compressCCtx).
    case zstd(level: Int32)

    /// Of `lz4` without a number: a tenth less processor time than 2 for a twentieth more bytes (docs/performance.md).
    static let usualAcceleration: Int32 = 4

    /// nil if the text names none.
    public init?(_ text: String) {
        let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
        let value = parts.count == 2 ? Int32(parts[1]) : nil
        if parts.count == 2 && value == nil { return nil }
        switch parts[0] {
        case "lz4":
            guard (1...64).contains(value ?? Self.usualAcceleration) else { return nil }
            self = .lz4(acceleration: value ?? Self.usualAcceleration)
        case "zstd":
            guard (-7...19).contains(value ?? 1), value != 0 else { return nil }
            self = .zstd(level: value ?? 1)
        default: return nil
        }
    }

    public var description: String {
        switch self {
        case .lz4(let acceleration): "lz4:\(acceleration)"
        case .zstd(let level): "zstd:\(level)"
        }
    }
}
