import ShrinkLinux
import Synchronization
public import SystemPackage

extension PackedObject {
    public func write(_ buffer: UnsafeRawBufferPointer, at offset: Int, _ durability: Durability) throws(Errno) -> Int {
        guard offset >= 0 else { throw .invalidArgument }
        guard let base = buffer.baseAddress, buffer.count > 0 else { return 0 }
        guard offset < maxObjectSizeBytes else { throw .fileTooLarge }
        let count = min(buffer.count, maxObjectSizeBytes - offset)
        var attempt = 0
        while true {
            var (written, failure): (Int, Errno?)
            do throws(Errno) {
                (written, failure) = try writeOnce(UnsafeRawBufferPointer(start: base, count: count), at: offset, durability)
            } catch {
                (written, failure) = (0, error)
            }
            guard let failure else { return written }
            if written > 0 { return written }
            // A full store may hold bytes that nothing refers to.
            if failure == .noSpace {
                core.counters.noSpace.add(1, ordering: .relaxed)
                attempt += 1
                if attempt <= 8, core.makeRoom() { continue }
            }
            throw failure
        }
    }

    private func writeOnce(
        _ buffer: UnsafeRawBufferPointer, at offset: Int, _ durability: Durability
    ) throws(Errno) -> (written: Int, failure: Errno?) {
        let end = offset + buffer.count
        let pages = (end + basePageSize - 1) / basePageSize
        if lock.shared({ index.pointee.capacity }) < pages {
            try lock.exclusive { () throws(Errno) in
                if index.pointee.capacity < pages { try index.pointee.grow(toPages: pages) }
            }
        }
        return try lock.shared { () throws(Errno) -> (Int, Errno?) in
            try index.pointee.allocate(offset / basePageSize, pages - offset / basePageSize)
            let (written, failure) = core.writing { context in
                self.write(context, buffer, at: offset, isDurable: durability == .durable)
            }
            if written > 0 {
                extend(to: offset + written)
                noteModified(.now())
            }
            try requireIndex()
            // Where the index is memory, `sync` copies it; a run's bytes being below is what a durable write promises.
            if durability == .durable, failure == nil, !core.tiers[0].inMemory { try syncIndex() }
            return (written, failure)
        }
    }

    /// Writes as far as it can; returns the bytes that are stored and published, from the start on.
    private func write(
        _ context: WorkerContext, _ buffer: UnsafeRawBufferPointer, at offset: Int, isDurable: Bool
    ) -> (written: Int, failure: Errno?) {
        let base = buffer.baseAddress!
        let end = offset + buffer.count
        var position = offset
        do throws(Errno) {
            let head = position % basePageSize
            if head != 0 {
                let count = min(basePageSize - head, buffer.count)
                try writePart(context, page: position / basePageSize, from: head, base, count, isDurable: isDurable)
                position += count
            }
            let wholePages = (end - position) / basePageSize
            if wholePages > 0 {
                let done = writePages(
                    context, base + (position - offset), first: position / basePageSize, count: wholePages, isDurable: isDurable)
                position += done.pages * basePageSize
                if let failure = done.failure { return (position - offset, failure) }
            }
            if position < end {
                try writePart(
                    context, page: position / basePageSize, from: 0, base + (position - offset), end - position, isDurable: isDurable)
                position = end
            }
            return (position - offset, nil)
        } catch {
            return (position - offset, error)
        }
    }

    private func appender(_ progress: UnsafeMutablePointer<Appender.Progress>, isDurable: Bool, expected: IndexEntry? = nil) -> Appender {
        // Durable pages go where they are to last at once: appended to a segment of the next tier.
        Appender(
            object: self, tier: isDurable && core.tiers.count > 1 ? 1 : 0, isDurable: isDurable,
            seconds: UInt32(truncatingIfNeeded: FileTime.now().seconds), expected: expected, progress: progress)
    }

    /// Whole pages; returns how many from the first on are published.
    private func writePages(
        _ context: WorkerContext, _ source: UnsafeRawPointer, first: Int, count: Int, isDurable: Bool
    ) -> (pages: Int, failure: Errno?) {
        var progress = Appender.Progress()
        let core = core
        return withUnsafeMutablePointer(to: &progress) { progress in
            let appender = appender(progress, isDurable: isDurable)
            var handled = 0
            do throws(Errno) {
                while handled < count {
                    let page = source + handled * basePageSize
                    if isSameFilled(page) {
                        try core.stageFill(context, appender, page: first + handled, page.loadUnaligned(as: UInt64.self))
                    } else {
                        try core.gather(context, appender, page: first + handled, page)
                    }
                    handled += 1
                }
                try core.closeBlock(context, appender)
                try core.flush(context, appender)
                core.counters.pagesWritten.add(count, ordering: .relaxed)
                return (count, nil)
            } catch {
                core.abandon(context, appender)
                let done = min(first + handled, progress.pointee.firstFailed) - first
                core.counters.pagesWritten.add(done, ordering: .relaxed)
                return (done, error)
            }
        }
    }

    /// A part of one page: the page is read, changed and written, anew if another write got in between.
    private func writePart(
        _ context: WorkerContext, page: Int, from: Int, _ source: UnsafeRawPointer, _ count: Int, isDurable: Bool
    ) throws(Errno) {
        try changePage(context, page: page, isDurable: isDurable) { (context.page + from).copyMemory(from: source, byteCount: count) }
    }

    /// Makes zeros of bytes `from` to `to` of a page that is there.
    func zeroPart(_ context: WorkerContext, page: Int, from: Int, to: Int) throws(Errno) {
        if index.pointee.entry(page).isAbsent { return }
        try changePage(context, page: page, isDurable: false) {
            (context.page + from).initializeMemory(as: UInt8.self, repeating: 0, count: to - from)
        }
    }

    private func changePage(_ context: WorkerContext, page: Int, isDurable: Bool, _ change: () -> Void) throws(Errno) {
        while true {
            let entry = try readPage(context, page, into: context.page)
            change()
            var progress = Appender.Progress()
            try withUnsafeMutablePointer(to: &progress) { progress throws(Errno) in
                let appender = appender(progress, isDurable: isDurable, expected: entry)
                do throws(Errno) {
                    if isSameFilled(context.page) {
                        try core.stageFill(context, appender, page: page, context.page.load(as: UInt64.self))
                    } else {
                        try core.gather(context, appender, page: page, context.page)
                        try core.closeBlock(context, appender)
                    }
                    try core.flush(context, appender)
                } catch {
                    core.abandon(context, appender)
                    throw error
                }
            }
            if !progress.wasOvertaken { break }
        }
        core.counters.pagesWritten.add(1, ordering: .relaxed)
    }

    public func punch(at offset: Int, length: Int) throws(Errno) {
        guard offset >= 0, length > 0, offset <= Int.max - length else { throw .invalidArgument }
        try lock.shared { () throws(Errno) in
            let end = min(offset + length, size.load(ordering: .acquiring), index.pointee.capacity * basePageSize)
            guard offset < end else { return }
            let first = (offset + basePageSize - 1) / basePageSize
            // The last page goes whole if the range covers all of it that the object has.
            let reachesEnd = offset + length >= size.load(ordering: .acquiring)
            let last = reachesEnd ? (end + basePageSize - 1) / basePageSize : end / basePageSize
            if offset % basePageSize != 0 {
                let to = end / basePageSize == offset / basePageSize ? end % basePageSize : basePageSize
                try core.writing { context throws(Errno) in
                    try zeroPart(context, page: offset / basePageSize, from: offset % basePageSize, to: to)
                }
            }
            if end % basePageSize != 0, !reachesEnd, end / basePageSize >= first {
                try core.writing { context throws(Errno) in try zeroPart(context, page: end / basePageSize, from: 0, to: end % basePageSize)
                }
            }
            if first < last { removeEntries(first..<min(last, index.pointee.capacity)) }
            try requireIndex()
        }
        // A large range may have left file pages of the index without an entry.
        if length >= 64 << 20 {
            try lock.exclusive { () throws(Errno) in
                let first = (offset + basePageSize - 1) / basePageSize
                let last = min(index.pointee.capacity, (offset + length) / basePageSize)
                if first < last {
                    removeEntries(first..<last)
                    try index.pointee.free(from: first, to: last)
                    KillPoint.indexPunched.pass()
                }
            }
        }
        noteModified(.now())
    }
}

extension StoreCore {
    /// Lends a context to a writer, and holds the cleaner back meanwhile.
    @inline(__always)
    func writing<R, E: Error>(_ body: (WorkerContext) throws(E) -> R) throws(E) -> R {
        pool.writers.add(1, ordering: .relaxed)
        defer { pool.writers.subtract(1, ordering: .relaxed) }
        return try pool.withContext(body)
    }
}
