import ShrinkLinux
import SystemPackage

/// An object's index file, mapped: the header, then sixteen bytes for each page.
///
/// The file is as sparse as the object. A page of the file is touched only after it has been allocated: on a full tmpfs a store to
/// a hole is a SIGBUS, and even a load would allocate it. Which pages of the file are allocated is known from a bitmap made at
/// opening (SEEK_DATA) and kept since; a page whose bit is unset has absent entries only.
struct ObjectIndex: ~Copyable {
    private static let entriesPerFilePage = basePageSize / IndexEntry.byteCount
    private static let headerEntries = ObjectHeader.totalBytes / IndexEntry.byteCount

    let file: OwnedDescriptor
    /// Where the file was cut short, bytes that are damaged entries.
    private var memory: GuardedMapping
    private static let lostByte: UInt8 = 0xff
    private var allocated: UnsafeMutablePointer<UInt32>

    /// Pages of the object that have a place in the mapping.
    var capacity: Int { Self.capacity(ofFileBytes: memory.count) }

    private static func capacity(ofFileBytes bytes: Int) -> Int { bytes / IndexEntry.byteCount - headerEntries }

    static func fileBytes(forPages pages: Int) -> Int {
        ((pages + headerEntries) * IndexEntry.byteCount + basePageSize - 1) & ~(basePageSize - 1)
    }

    /// Maps an index file with room for `pages` and its first page allocated.
    init(_ file: consuming OwnedDescriptor, pages: Int) throws(Errno) {
        let present = try Files.status(file.number).sizeBytes
        let bytes = max(present & ~(basePageSize - 1), Self.fileBytes(forPages: pages))
        if bytes != present { try Files.truncate(file.number, to: bytes) }
        try Files.allocate(file.number, mode: 0, at: 0, length: basePageSize)
        var extents: [Range<Int>] = [0..<1]
        var position = 0
        while position < bytes, let data = try Files.nextData(file.number, from: position), data < bytes {
            position = min(bytes, try Files.nextHole(file.number, from: data) ?? bytes)
            extents.append(data / basePageSize..<(position + basePageSize - 1) / basePageSize)
        }
        memory = try GuardedMapping(sharing: file.number, count: bytes, lostBytes: Self.lostByte)
        allocated = Self.bitmap(forBytes: bytes)
        self.file = file
        for extent in extents {
            for filePage in extent { setBit(filePage) }
        }
    }

    deinit { allocated.deallocate() }

    private static func bitmap(forBytes bytes: Int) -> UnsafeMutablePointer<UInt32> {
        let words = (bytes / basePageSize + 31) / 32
        let bitmap = UnsafeMutablePointer<UInt32>.allocate(capacity: words)
        bitmap.initialize(repeating: 0, count: words)
        return bitmap
    }

    @inline(__always) private func isSet(_ filePage: Int) -> Bool {
        AtomicMemory.load(allocated + filePage >> 5) >> UInt32(filePage & 31) & 1 == 1
    }
    private func setBit(_ filePage: Int) { AtomicMemory.setBits(allocated + filePage >> 5, 1 << UInt32(filePage & 31)) }

    /// Some of it is not what is in the file: nothing may be promised about it any more. Only known of pages that were touched.
    var isLost: Bool { memory.isLost }

    /// The file is shorter than what is mapped of it. Of the page in which it ends the kernel makes the rest zeros, which look like holes.
    func isCutShort() throws(Errno) -> Bool {
        if isLost { return true }
        return try Files.status(file.number).sizeBytes < memory.count
    }

    /// More than this is not made of damaged entries: the object is refused whole.
    private static let mendedBytes = 16 << 20

    /// A file that ends before the object does was cut short while nobody served it: what was there is unknown, so its entries read as damaged ones
    /// and not as holes. False if that is too much.
    mutating func mendEnd(toPages pages: Int) throws(Errno) -> Bool {
        let old = memory.count
        guard Self.fileBytes(forPages: pages) - old <= Self.mendedBytes else { return false }
        let first = capacity
        try grow(toPages: pages)
        try allocate(first, capacity - first)
        (memory.base + old).initializeMemory(as: UInt8.self, repeating: Self.lostByte, count: memory.count - old)
        return !isLost
    }

    var header: UnsafeMutableRawPointer { memory.base }

    /// Makes room for more pages. The caller alone uses the index.
    mutating func grow(toPages pages: Int) throws(Errno) {
        // Longer again, a file that was cut short would have holes where there were entries.
        guard try !isCutShort() else { throw .ioError }
        // Twice what there is, so that an object growing write by write is mapped a few times only.
        let wanted = max(pages, min(capacity * 2, Int(StoredPageIndex.limit)))
        let bytes = Self.fileBytes(forPages: wanted)
        try Files.truncate(file.number, to: bytes)
        let larger = try GuardedMapping(sharing: file.number, count: bytes, lostBytes: Self.lostByte)
        let bitmap = Self.bitmap(forBytes: bytes)
        bitmap.update(from: allocated, count: (memory.count / basePageSize + 31) / 32)
        allocated.deallocate()
        allocated = bitmap
        memory = larger
    }

    @inline(__always) private static func filePage(of page: Int) -> Int { (page + headerEntries) / entriesPerFilePage }

    @inline(__always) func address(_ page: Int) -> UnsafeMutableRawPointer {
        memory.base + (page + Self.headerEntries) * IndexEntry.byteCount
    }

    @inline(__always) func isAllocated(_ page: Int) -> Bool { isSet(Self.filePage(of: page)) }

    /// The page's entry. `page` is below `capacity`.
    @inline(__always) func entry(_ page: Int) -> IndexEntry {
        isAllocated(page) ? IndexEntry(words: PairedWords.load(address(page))) : .absent
    }

    /// Allocates the file under these pages' entries; ENOSPC leaves everything as it was.
    @inline(__always) func allocate(_ first: Int, _ count: Int) throws(Errno) {
        for filePage in Self.filePage(of: first)...Self.filePage(of: first + count - 1) where !isSet(filePage) {
            try Files.allocate(file.number, mode: 0, at: filePage * basePageSize, length: basePageSize)
            setBit(filePage)
        }
    }

    /// The first page at or after `page` whose entries may be other than absent, and the end of those that lie together with it.
    @inline(__always) func run(from page: Int, limit: Int) -> Range<Int>? {
        var page = page
        while page < limit {
            let filePage = Self.filePage(of: page)
            let end = min(limit, (filePage + 1) * Self.entriesPerFilePage - Self.headerEntries)
            if isSet(filePage) { return page..<end }
            page = end
        }
        return nil
    }

    /// Gives back the file under entries that are all absent from `page` to `end`, whole file pages only. The caller alone uses the index.
    func free(from page: Int, to end: Int) throws(Errno) {
        let first = max(1, (page + Self.headerEntries + Self.entriesPerFilePage - 1) / Self.entriesPerFilePage)
        let last = end >= capacity ? memory.count / basePageSize : Self.filePage(of: end)
        guard first < last else { return }
        for filePage in first..<last where isSet(filePage) {
            AtomicMemory.clearBits(allocated + filePage >> 5, 1 << UInt32(filePage & 31))
        }
        try Files.punch(file.number, at: first * basePageSize, length: (last - first) * basePageSize)
    }
}
