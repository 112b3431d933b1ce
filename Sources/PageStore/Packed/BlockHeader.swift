import ShrinkLinux

/// What precedes each block in a segment, so that a block tells by itself whose pages it holds: for reading to be certain, for
/// the cleaner to find what lives, for `check` to verify.
///
///     0 magic 2 · 2 codec 1 · 3 pages 1 · 4 CRC-32C of the header 4 · 8 object 4 · 12 first page 4
///     16 mask of the pages from the first on 8 · 24 bytes of payload 4 · 28 seconds since 1970 4 · 32 CRC-32C of each page 4 …
///
/// then the payload, then zeros up to 64.
struct BlockHeader {
    static let magic: UInt16 = 0x6b70
    static let fixedBytes = 32
    static let maximumPages = 16
    /// Pages of one block lie within this many.
    static let span = 64

    enum Codec: UInt8 {
        case plain = 0
        case lz4 = 1
        case zstd = 2

        var name: String {
            switch self {
            case .plain: "plain"
            case .lz4: "lz4"
            case .zstd: "zstd"
            }
        }
    }

    let codec: Codec
    let pages: Int
    let object: UInt32
    let firstPage: Int
    let mask: UInt64
    let payloadBytes: Int
    let seconds: UInt32

    @inline(__always) static func headerBytes(pages: Int) -> Int { fixedBytes + 4 * pages }
    @inline(__always) var headerBytes: Int { Self.headerBytes(pages: pages) }
    /// The whole block with its padding.
    @inline(__always) var length: Int { Self.aligned(headerBytes + payloadBytes) }
    @inline(__always) static func aligned(_ n: Int) -> Int { (n + SegmentGeometry.alignment - 1) & ~(SegmentGeometry.alignment - 1) }

    /// The place in the block of a page, or nil if the block doesn't hold it.
    @inline(__always) func slot(of page: Int) -> Int? {
        let distance = page - firstPage
        guard distance >= 0, distance < Self.span, mask >> UInt64(distance) & 1 == 1 else { return nil }
        return (mask & (1 << UInt64(distance) &- 1)).nonzeroBitCount
    }

    /// Writes the header; the checksums of the pages are at `base + 32` already.
    @inline(__always) func write(to base: UnsafeMutableRawPointer) {
        base.storeBytes(of: Self.magic, as: UInt16.self)
        base.storeBytes(of: codec.rawValue, toByteOffset: 2, as: UInt8.self)
        base.storeBytes(of: UInt8(truncatingIfNeeded: pages), toByteOffset: 3, as: UInt8.self)
        base.storeBytes(of: 0, toByteOffset: 4, as: UInt32.self)
        base.storeBytes(of: object, toByteOffset: 8, as: UInt32.self)
        base.storeBytes(of: UInt32(truncatingIfNeeded: firstPage), toByteOffset: 12, as: UInt32.self)
        base.storeBytes(of: mask, toByteOffset: 16, as: UInt64.self)
        base.storeBytes(of: UInt32(truncatingIfNeeded: payloadBytes), toByteOffset: 24, as: UInt32.self)
        base.storeBytes(of: seconds, toByteOffset: 28, as: UInt32.self)
        base.storeBytes(of: Checksum.bytes(base, headerBytes), toByteOffset: 4, as: UInt32.self)
    }

    /// The header at `base`, or nil if it is not one, is damaged, or says more than `available` bytes. `base` is 8-aligned.
    ///
    /// The bytes may change meanwhile, for somebody else has the file: each field is read once, so that the one that was looked at is the one that is used.
    @inline(__always) init?(at base: UnsafeRawPointer, available: Int) {
        guard available >= Self.fixedBytes else { return nil }
        let words = UnsafeMutablePointer(mutating: base.assumingMemoryBound(to: UInt64.self))
        let kind = AtomicMemory.load(words)
        let place = AtomicMemory.load(words + 1)
        let mask = AtomicMemory.load(words + 2)
        let extent = AtomicMemory.load(words + 3)
        guard UInt16(truncatingIfNeeded: kind) == Self.magic, let codec = Codec(rawValue: UInt8(truncatingIfNeeded: kind >> 16))
        else { return nil }
        self.codec = codec
        pages = Int(UInt8(truncatingIfNeeded: kind >> 24))
        guard pages >= 1, pages <= Self.maximumPages, available >= Self.headerBytes(pages: pages) else { return nil }
        object = UInt32(truncatingIfNeeded: place)
        firstPage = Int(place >> 32)
        self.mask = mask
        payloadBytes = Int(UInt32(truncatingIfNeeded: extent))
        seconds = UInt32(truncatingIfNeeded: extent >> 32)
        // As `write` sums it: with zero in the sum's own place.
        let sum = UInt32(truncatingIfNeeded: kind >> 32)
        var zero: UInt32 = 0
        var expected = Checksum.bytes(base, 4)
        expected = Checksum.bytes(&zero, 4, continuing: expected)
        expected = Checksum.bytes(base + 8, headerBytes - 8, continuing: expected)
        guard sum == expected, mask.nonzeroBitCount == pages, mask & 1 == 1, payloadBytes <= pages * basePageSize, length <= available
        else { return nil }
    }

    @inline(__always) init(codec: Codec, pages: Int, object: UInt32, firstPage: Int, mask: UInt64, payloadBytes: Int, seconds: UInt32) {
        self.codec = codec
        self.pages = pages
        self.object = object
        self.firstPage = firstPage
        self.mask = mask
        self.payloadBytes = payloadBytes
        self.seconds = seconds
    }

    /// The checksum of the page in `slot`, of a header at `base`.
    @inline(__always) static func checksum(_ slot: Int, at base: UnsafeRawPointer) -> UInt32 {
        base.loadUnaligned(fromByteOffset: fixedBytes + 4 * slot, as: UInt32.self)
    }
}
