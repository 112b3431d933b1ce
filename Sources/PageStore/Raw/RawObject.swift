public import ShrinkLinux
public import SystemPackage

/// One object of the raw layout: a sparse file that holds the object's bytes at their own offsets.
///
/// It has no state but the descriptor, so that two of the same id do no harm, and the kernel's inode lock orders what several threads do.
public final class RawObject: StoredObject {
    public let id: StoredObjectID
    private let file: SharedDescriptor

    init(_ id: StoredObjectID, _ file: consuming OwnedDescriptor) {
        self.id = id
        self.file = SharedDescriptor(file)
    }

    public var backingFile: SharedDescriptor? { file }

    public var attributes: StoredObjectAttributes {
        get throws(Errno) {
            let status = try Files.status(file.number)
            return StoredObjectAttributes(
                sizeBytes: status.sizeBytes,
                pageCount: Self.pageCount(status),
                storedBytes: status.allocatedBytes,
                created: try Files.created(file.number) ?? status.changed,
                modified: status.modified, changed: status.changed)
        }
    }

    /// From the blocks: exact on tmpfs; elsewhere blocks that the file system needs for itself may count too. `pagesByTier` walks and is exact.
    static func pageCount(_ status: FileStatus) -> Int { min(status.allocatedBytes, roundUp(status.sizeBytes)) / basePageSize }

    public func setSize(_ bytes: Int) throws(Errno) {
        guard bytes >= 0 else { throw .invalidArgument }
        guard bytes <= maxObjectSizeBytes else { throw .fileTooLarge }
        try Files.truncate(file.number, to: bytes)
    }

    public func setTimes(modified: FileTime) throws(Errno) { try Files.setTimes(file.number, accessed: nil, modified: modified) }

    /// As read(2) of the file: what a write of the same moment changes may be seen in part. The engine never rewrites a page it reads back;
    /// `snapshot` is for everybody else.
    public func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int) throws(Errno) -> Int {
        guard offset >= 0 else { throw .invalidArgument }
        guard offset < maxObjectSizeBytes else { return 0 }
        return try Files.read(file.number, into: buffer, at: offset)
    }

    public func write(_ buffer: UnsafeRawBufferPointer, at offset: Int, _ durability: Durability) throws(Errno) -> Int {
        guard offset >= 0 else { throw .invalidArgument }
        guard !buffer.isEmpty else { return 0 }
        guard offset < maxObjectSizeBytes else { throw .fileTooLarge }
        let fitting = UnsafeRawBufferPointer(rebasing: buffer.prefix(maxObjectSizeBytes - offset))
        let flags: Files.WriteFlags =
            switch durability {
            case .buffered: []
            case .durable: .dataSync
            }
        let written = Files.write(file.number, fitting, at: offset, flags)
        if written.bytes == 0, let error = written.error { throw error }
        return written.bytes
    }

    public func punch(at offset: Int, length: Int) throws(Errno) {
        guard offset >= 0, length > 0 else { throw .invalidArgument }
        guard offset < maxObjectSizeBytes else { return }
        // The kernel zeroes the parts of pages at the ends; a part of a hole stays a hole.
        try Files.punch(file.number, at: offset, length: min(length, maxObjectSizeBytes - offset))
    }

    // Where a file system's block is smaller than a page, a page is there if any of its blocks is.

    public func nextData(from offset: Int) throws(Errno) -> Int? {
        guard let data = try Files.nextData(file.number, from: Self.roundDown(offset)) else { return nil }
        return max(offset, Self.roundDown(data))
    }

    public func nextHole(from offset: Int) throws(Errno) -> Int {
        let size = try Files.status(file.number).sizeBytes
        var page = Self.roundDown(offset)
        while page < size {
            guard let data = try Files.nextData(file.number, from: page), Self.roundDown(data) == page else { return max(offset, page) }
            // Nil: the file was cut just now, and ends before.
            guard let hole = try Files.nextHole(file.number, from: data) else { return max(offset, page) }
            page = Self.roundUp(hole)
        }
        return max(offset, size)
    }

    public func sync() throws(Errno) { try Files.sync(file.number) }

    public func page(_ index: StoredPageIndex) throws(Errno) -> StoredPageInfo? {
        let start = Int(index.rawValue) * basePageSize
        guard let data = try Files.nextData(file.number, from: start), data < start + basePageSize else { return nil }
        return StoredPageInfo(modified: try Files.status(file.number).modified, storedBytes: basePageSize, tier: 0)
    }

    public func pages(from first: StoredPageIndex, limit: Int) throws(Errno) -> [StoredPageIndex] {
        var found: [StoredPageIndex] = []
        var offset = Int(first.rawValue) * basePageSize
        while found.count < limit, let data = try nextData(from: offset), data < maxObjectSizeBytes {
            let end = min(try nextHole(from: data), maxObjectSizeBytes)
            offset = data
            while offset < end, found.count < limit, let index = StoredPageIndex(rawValue: UInt32(offset / basePageSize)) {
                found.append(index)
                offset += basePageSize
            }
            if offset >= maxObjectSizeBytes || end <= data { break }
        }
        return found
    }

    /// Counts runs up to `longestWalk`, then trusts the blocks: an object of 2^28 scattered pages must not stop a worker for minutes.
    public func pagesByTier() throws(Errno) -> [Int] {
        var (count, runs, offset) = (0, 0, 0)
        while let data = try nextData(from: offset) {
            offset = try nextHole(from: data)
            count += (Self.roundUp(offset) - data) / basePageSize
            runs += 1
            guard runs < Self.longestWalk, offset > data else { return [try attributes.pageCount] }
        }
        return [count]
    }

    private static let longestWalk = 65536

    public func snapshot(of index: StoredPageIndex, into page: UnsafeMutableRawBufferPointer) throws(Errno) -> StoredPageInfo? {
        precondition(page.count == basePageSize, "a snapshot is one page")
        let start = Int(index.rawValue) * basePageSize
        // Writers reach the file without asking us (passthrough), and read(2) is not atomic against them on most file systems. So a page counts once
        // it reads twice the same, with a wait for the writers of the moment between: a write that the first read met half way has then ended.
        return try withUnsafeTemporaryAllocation(byteCount: basePageSize, alignment: basePageSize) {
            (again) throws(Errno) -> StoredPageInfo? in
            for _ in 0..<64 {
                guard try fill(page, at: start) else { return nil }
                // SEEK_DATA takes the inode's lock (tmpfs, ext4, btrfs; XFS takes it for reading itself).
                guard let info = try self.page(index) else { return nil }
                guard try fill(again, at: start) else { return nil }
                guard haveEqualBytes(page, again) else { continue }
                // It may have been punched meanwhile, and a hole reads as zeros: those must not pass for its content.
                return try self.page(index) == nil ? nil : info
            }
            throw .resourceTemporarilyUnavailable
        }
    }

    private func fill(_ page: UnsafeMutableRawBufferPointer, at start: Int) throws(Errno) -> Bool {
        let count = try Files.read(file.number, into: page, at: start)
        guard count > 0 else { return false }
        UnsafeMutableRawBufferPointer(rebasing: page[count...]).initializeMemory(as: UInt8.self, repeating: 0)
        return true
    }

    public func hint(_ hint: ObjectHint) -> String? {
        guard let value = try? ExtendedAttributes.value("user.shrinkd.\(hint.rawValue)", of: file.number) else { return nil }
        return String(validating: value, as: UTF8.self)
    }

    public func setHint(_ hint: ObjectHint, to value: String) throws(Errno) {
        try ExtendedAttributes.set("user.shrinkd.\(hint.rawValue)", to: Array(value.utf8), of: file.number)
    }

    private static func roundDown(_ offset: Int) -> Int { offset & ~(basePageSize - 1) }
    /// Of a file that somebody made as long as files can be, the last page too.
    private static func roundUp(_ offset: Int) -> Int { (min(offset, .max - basePageSize) + basePageSize - 1) & ~(basePageSize - 1) }
}
