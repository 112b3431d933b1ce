import ShrinkLinux
import Synchronization
public import SystemPackage

extension PackedObject {
    // MARK: Holes

    public func nextData(from offset: Int) throws(Errno) -> Int? {
        lock.shared {
            let end = size.load(ordering: .acquiring)
            var page = offset / basePageSize
            let limit = min(index.pointee.capacity, (end + basePageSize - 1) / basePageSize)
            while let run = index.pointee.run(from: page, limit: limit) {
                for page in run where !index.pointee.entry(page).isAbsent {
                    let found = max(offset, page * basePageSize)
                    return found < end ? found : nil
                }
                page = run.upperBound
            }
            return nil
        }
    }

    public func nextHole(from offset: Int) throws(Errno) -> Int {
        lock.shared {
            let end = size.load(ordering: .acquiring)
            let limit = min(index.pointee.capacity, (end + basePageSize - 1) / basePageSize)
            var page = offset / basePageSize
            while page < limit, !index.pointee.entry(page).isAbsent { page += 1 }
            return min(end, max(offset, page * basePageSize))
        }
    }

    public func pages(from first: StoredPageIndex, limit: Int) throws(Errno) -> [StoredPageIndex] {
        lock.shared {
            var found: [StoredPageIndex] = []
            var page = Int(first.rawValue)
            let end = min(index.pointee.capacity, (size.load(ordering: .acquiring) + basePageSize - 1) / basePageSize)
            while found.count < limit, let run = index.pointee.run(from: page, limit: end) {
                for page in run where found.count < limit && !index.pointee.entry(page).isAbsent {
                    if let index = StoredPageIndex(rawValue: UInt32(page)) { found.append(index) }
                }
                page = run.upperBound
            }
            return found
        }
    }

    /// From the index alone: no block is read for it. A page whose entry is damaged is listed, of no known time and size.
    public func listing(from first: StoredPageIndex, limit: Int) throws(Errno) -> [ListedPage] {
        lock.shared {
            var listed: [ListedPage] = []
            listed.reserveCapacity(limit)
            var page = Int(first.rawValue)
            let end = min(index.pointee.capacity, (size.load(ordering: .acquiring) + basePageSize - 1) / basePageSize)
            while listed.count < limit, let run = index.pointee.run(from: page, limit: end) {
                for page in run where listed.count < limit {
                    let entry = index.pointee.entry(page)
                    if entry.isAbsent { continue }
                    guard let place = StoredPageIndex(rawValue: UInt32(page)) else { return listed }
                    let isDamaged = entry.kind(object: id.rawValue, page: page) == .damaged
                    listed.append(
                        ListedPage(
                            index: place, modified: FileTime(seconds: isDamaged ? 0 : Int(entry.seconds)),
                            storedBytes: isDamaged || !entry.isBlock ? 0 : entry.share))
                }
                page = run.upperBound
            }
            return listed
        }
    }

    /// EIO if the page's entry is damaged.
    public func page(_ index: StoredPageIndex) throws(Errno) -> StoredPageInfo? {
        let page = Int(index.rawValue)
        return try lock.shared { () throws(Errno) -> StoredPageInfo? in
            guard page < self.index.pointee.capacity, page * basePageSize < size.load(ordering: .acquiring) else { return nil }
            let entry = self.index.pointee.entry(page)
            return try core.pool.withContext { context throws(Errno) in try info(context, entry, page) }
        }
    }

    /// EIO if the page is damaged.
    public func snapshot(of index: StoredPageIndex, into target: UnsafeMutableRawBufferPointer) throws(Errno) -> StoredPageInfo? {
        precondition(target.count == basePageSize, "a snapshot is one page")
        let page = Int(index.rawValue)
        return try lock.shared { () throws(Errno) -> StoredPageInfo? in
            let end = size.load(ordering: .acquiring)
            guard page < self.index.pointee.capacity, page * basePageSize < end else { return nil }
            return try core.pool.withContext { context throws(Errno) in
                let entry = try readPage(context, page, into: context.page)
                target.copyMemory(from: UnsafeRawBufferPointer(start: context.page, count: basePageSize))
                return try info(context, entry, page)
            }
        }
    }

    private func info(_ context: WorkerContext, _ entry: IndexEntry, _ page: Int) throws(Errno) -> StoredPageInfo? {
        let modified = FileTime(seconds: Int(entry.seconds))
        switch entry.kind(object: id.rawValue, page: page) {
        case .absent: return nil
        case .damaged: throw .ioError
        case .fill:
            context.page.initializeMemory(as: UInt64.self, repeating: entry.fillValue, count: basePageSize / 8)
            return StoredPageInfo(
                modified: modified, storedBytes: 0, tier: 0, codec: entry.fillValue == 0 ? "zero" : "same",
                checksum: Checksum.page(context.page))
        case .block:
            let tier = core.table.slot(core.geometry.segment(of: entry.location)).tier
            return StoredPageInfo(
                modified: modified, storedBytes: entry.share, tier: tier < core.tiers.count ? tier : nil, codec: codecName(context, entry),
                checksum: entry.checksum)
        }
    }

    /// Same-filled pages count for the first tier, where the index is.
    public func pagesByTier() throws(Errno) -> [Int] {
        lock.shared {
            var counts = [Int](repeating: 0, count: core.tiers.count)
            forEachEntry(in: 0..<index.pointee.capacity) { _, entry in
                if entry.isAbsent { return }
                let tier = entry.isBlock ? core.table.slot(core.geometry.segment(of: entry.location)).tier : 0
                counts[tier < counts.count ? tier : 0] += 1
            }
            return counts
        }
    }

    private func codecName(_ context: WorkerContext, _ entry: IndexEntry) -> String? {
        context.forgetRead()
        guard let block = try? blockBytes(context, entry, nextPage: 0, ahead: 0),
            let header = BlockHeader(at: block, available: entry.length)
        else { return nil }
        return header.codec.name
    }
}
