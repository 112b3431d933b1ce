public import ShrinkLinux
import Synchronization
public import SystemPackage

// What people and the tree ask about a packed object's pages.
extension PackedObject {
    /// Walks the index. Pages of one repeated word take no bytes and count for the first tier; a damaged entry, whose tier nobody knows, too.
    public func pagesByTier() -> [Int] {
        lock.shared {
            var counts = [Int](repeating: 0, count: core.tiers.count)
            forEachEntry(in: 0..<index.pointee.capacity) { page, entry in
                switch entry.kind(object: id.rawValue, page: page) {
                case .absent: break
                case .fill, .damaged: counts[0] += 1
                case .block:
                    let tier = core.table.slot(core.geometry.segment(of: entry.location)).tier
                    // Of a segment that is gone: where it was is not known either.
                    counts[tier < counts.count ? tier : 0] += 1
                }
            }
            return counts
        }
    }

    /// The page with what is known of it, both of one version. EIO if it is damaged.
    public func snapshot(of index: StoredPageIndex, into page: UnsafeMutableRawBufferPointer) throws(Errno) -> StoredPageInfo? {
        precondition(page.count == basePageSize, "a snapshot is one page")
        guard let base = page.baseAddress else { return nil }
        let number = Int(index.rawValue)
        for _ in 0..<Self.snapshotAttempts {
            let entry: IndexEntry? = try lock.shared { () throws(Errno) -> IndexEntry? in
                guard number * basePageSize < size.load(ordering: .acquiring) else { return nil }
                return try core.pool.withContext { context throws(Errno) in try readPage(context, number, into: base) }
            }
            guard let entry, !entry.isAbsent else { return nil }
            let info = try self.page(index)
            // Written or moved in between: what is told would not be about these bytes.
            let now = lock.shared { number < self.index.pointee.capacity ? self.index.pointee.entry(number) : .absent }
            if let info, now == entry { return info }
            if now.isAbsent { return nil }
        }
        throw .resourceTemporarilyUnavailable
    }

    private static let snapshotAttempts = 100

    /// Kept in memory at once and in the index at the next change, sync or close, as after a write.
    /// Times outside 1970 … 2255 are moved to the nearest, as file systems do with what they can't keep (utimensat(2)).
    public func setTimes(modified: FileTime) throws(Errno) {
        let seconds = min(max(modified.seconds, 0), 9_000_000_000)
        noteModified(FileTime(seconds: seconds, nanoseconds: seconds == modified.seconds ? modified.nanoseconds : 0))
    }
}
