import ShrinkLinux

/// Where a block lies: a segment's number and the block's offset in it, packed so that both fit an index entry.
///
/// Blocks are aligned to 64 bytes. With segments of 4 MiB there are 2^21 of them: 8 TiB in one store, whatever the segment size.
struct SegmentGeometry: Sendable, Equatable {
    static let alignment = 64
    private static let locationBits = 37

    let segmentBytes: Int
    private let offsetBits: Int

    /// nil unless the size is a power of two of 1 … 64 MiB.
    init?(segmentBytes: Int) {
        guard segmentBytes >= 1 << 20, segmentBytes <= 64 << 20, segmentBytes & (segmentBytes - 1) == 0 else { return nil }
        self.segmentBytes = segmentBytes
        offsetBits = segmentBytes.trailingZeroBitCount - 6
    }

    /// Segment numbers are below this.
    var segmentLimit: Int { 1 << (Self.locationBits - offsetBits) }

    @inline(__always) func location(_ segment: Int, offset: Int) -> UInt64 {
        UInt64(truncatingIfNeeded: segment << offsetBits | offset >> 6)
    }
    @inline(__always) func segment(of location: UInt64) -> Int { Int(truncatingIfNeeded: location >> UInt64(offsetBits)) }
    @inline(__always) func offset(of location: UInt64) -> Int {
        Int(truncatingIfNeeded: location & (1 << UInt64(offsetBits) - 1)) << 6
    }
}

/// The sixteen bytes of the index that say where a page is. They are read and replaced as one.
///
///     absent   all zero
///     block    low   kind 2 = 1 · check 6 · slot 4 · pages of the block - 1: 4 · length / 64: 11 · location 37
///              high  CRC-32C of the page 32 · seconds since 1970 32
///     fill     low   kind 2 = 2 · check 30 · seconds since 1970 32
///              high  the eight bytes that the page repeats
///
/// The check covers the entry, the object and the page index, so that an entry that was moved or changed is known for damaged.
/// A fill has thirty bits of it because nothing else protects its value; a block has the page's own checksum and the block's
/// header besides. One flipped bit never makes an absent page of a present one: two bits at least are set in every entry's low
/// word or its high word isn't zero, and zero in one word only is damage.
struct IndexEntry: Equatable, Sendable {
    static let byteCount = 16
    static let absent = IndexEntry(words: PairedWords(low: 0, high: 0))
    static let maximumBlockBytes = 2047 * SegmentGeometry.alignment

    var words: PairedWords

    @inline(__always) init(words: PairedWords) { self.words = words }

    enum Kind: UInt8 { case absent, block, fill, damaged }

    @inline(__always) var isAbsent: Bool { words.low | words.high == 0 }
    @inline(__always) var isBlock: Bool { words.low & 3 == 1 }
    @inline(__always) var isFill: Bool { words.low & 3 == 2 }

    // A block's fields.
    @inline(__always) var slot: Int { Int(truncatingIfNeeded: words.low >> 8 & 15) }
    @inline(__always) var blockPages: Int { Int(truncatingIfNeeded: words.low >> 12 & 15) + 1 }
    @inline(__always) var length: Int { Int(truncatingIfNeeded: words.low >> 16 & 2047) << 6 }
    @inline(__always) var location: UInt64 { words.low >> 27 }
    @inline(__always) var checksum: UInt32 { UInt32(truncatingIfNeeded: words.high) }
    /// This page's part of its block's bytes.
    @inline(__always) var share: Int { length / blockPages }

    // A fill's.
    @inline(__always) var fillValue: UInt64 { words.high }

    @inline(__always) var seconds: UInt32 {
        isFill ? UInt32(truncatingIfNeeded: words.low >> 32) : UInt32(truncatingIfNeeded: words.high >> 32)
    }

    /// A damaged entry is neither of the others: nothing in it may be used.
    @inline(__always) func kind(object: UInt32, page: Int) -> Kind {
        if isAbsent { return .absent }
        if isBlock, words.low >> 2 & 63 == UInt64(Self.check(words.low & ~0xfc, words.high, object, page) & 63), slot < blockPages {
            return .block
        }
        if isFill, words.low >> 2 & 0x3fff_ffff == UInt64(Self.check(words.low & ~0xffff_fffc, words.high, object, page) & 0x3fff_ffff) {
            return .fill
        }
        return .damaged
    }

    @inline(__always) static func block(
        location: UInt64, length: Int, slot: Int, blockPages: Int, checksum: UInt32, seconds: UInt32, object: UInt32, page: Int
    ) -> IndexEntry {
        let high = UInt64(seconds) << 32 | UInt64(checksum)
        let low =
            1 | UInt64(truncatingIfNeeded: slot) << 8 | UInt64(truncatingIfNeeded: blockPages - 1) << 12
            | UInt64(truncatingIfNeeded: length >> 6) << 16 | location << 27
        return IndexEntry(words: PairedWords(low: low | UInt64(check(low, high, object, page) & 63) << 2, high: high))
    }

    @inline(__always) static func fill(_ value: UInt64, seconds: UInt32, object: UInt32, page: Int) -> IndexEntry {
        let low = 2 | UInt64(seconds) << 32
        return IndexEntry(words: PairedWords(low: low | UInt64(check(low, value, object, page) & 0x3fff_ffff) << 2, high: value))
    }

    @inline(__always) private static func check(_ low: UInt64, _ high: UInt64, _ object: UInt32, _ page: Int) -> UInt32 {
        withUnsafeTemporaryAllocation(of: UInt64.self, capacity: 3) { words in
            words[0] = UInt64(object) << 32 | UInt64(truncatingIfNeeded: page)
            words[1] = low
            words[2] = high
            return Checksum.bytes(words.baseAddress!, 24)
        }
    }
}
