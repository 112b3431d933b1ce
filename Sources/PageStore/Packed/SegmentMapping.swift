import ShrinkLinux
import SystemPackage

/// A segment of a memory tier, mapped whole for reading: blocks are decompressed from where they lie.
///
/// The mapping is as long as a segment may become, also behind the end of one that still grows: whoever reads stays below `usedBytes`. Where somebody
/// cut the file short, other bytes take the place of what is gone (`GuardedMapping`); checksums find them, and `isLost` tells.
///
/// A value is a word that a slot of the table holds; the mapping lives until `end`.
struct SegmentMapping: @unchecked Sendable {
    // Sendable: nobody writes into the mapping, and `Grace` ends it after the last reader.
    private let guarded: UnsafeMutablePointer<GuardedMapping>

    init(of file: CInt, bytes: Int) throws(Errno) {
        let mapping = try GuardedMapping(sharing: file, count: bytes, writable: false, lostBytes: 0xff)
        // A server that locks its memory would lock the segment with it; what lies there is as it was without a mapping.
        try? ProcessMemory.unlock(UnsafeRawBufferPointer(start: mapping.base, count: bytes))
        guarded = .allocate(capacity: 1)
        guarded.initialize(to: mapping)
    }

    /// Of a word made by `word`; nil for the words below that aren't mappings.
    @inline(__always) init?(word: UInt64) {
        guard word > Self.noneToBeHad, let guarded = UnsafeMutablePointer<GuardedMapping>(bitPattern: UInt(word)) else { return nil }
        self.guarded = guarded
    }

    @inline(__always) var word: UInt64 { UInt64(UInt(bitPattern: guarded)) }
    /// Nobody has read the segment yet.
    static let notYet: UInt64 = 0
    /// The segment is read with `pread`: it is on a disk, its mapping was lost, or the kernel gave none.
    static let noneToBeHad: UInt64 = 1

    @inline(__always) var base: UnsafeRawPointer { UnsafeRawPointer(guarded.pointee.base) }
    var isLost: Bool { guarded.pointee.isLost }

    func end() {
        guarded.deinitialize(count: 1)
        guarded.deallocate()
    }
}
