import ShrinkLinux
import Synchronization
public import SystemPackage

extension PackedObject {
    public func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int) throws(Errno) -> Int {
        guard offset >= 0 else { throw .invalidArgument }
        guard let base = buffer.baseAddress, buffer.count > 0 else { return 0 }
        return try lock.shared { () throws(Errno) -> Int in
            let end = min(size.load(ordering: .acquiring), offset > Int.max - buffer.count ? Int.max : offset + buffer.count)
            guard offset < end else { return 0 }
            try core.pool.withContext { context throws(Errno) in try read(context, base, from: offset, to: end) }
            return end - offset
        }
    }

    private func read(_ context: WorkerContext, _ base: UnsafeMutableRawPointer, from offset: Int, to end: Int) throws(Errno) {
        // Numbers of segments mean something within one call only.
        context.forgetRead()
        // Looked at before zeros are handed out for holes (`isCutShort`).
        context.sawHole = false
        var position = offset
        while position < end {
            let page = position / basePageSize
            let from = position % basePageSize
            let count = min(basePageSize - from, end - position)
            if count == basePageSize {
                position += try readPages(context, base + (position - offset), first: page, limit: end / basePageSize - page) * basePageSize
            } else {
                _ = try readPage(context, page, into: context.page)
                (base + (position - offset)).copyMemory(from: context.page + from, byteCount: count)
                position += count
            }
        }
        if context.sawHole, try index.pointee.isCutShort() {
            core.counters.damagedEntries.add(1, ordering: .relaxed)
            core.damage.note(object: id.rawValue, page: offset / basePageSize, tier: nil, "its index was cut short")
            throw .ioError
        }
    }

    /// Reads one page and returns the entry it was read by.
    func readPage(_ context: WorkerContext, _ page: Int, into target: UnsafeMutableRawPointer) throws(Errno) -> IndexEntry {
        context.forgetRead()
        while true {
            let entry = page < index.pointee.capacity ? index.pointee.entry(page) : .absent
            if try readRun(context, target, entry, page: page, limit: 1) == 1 { return entry }
        }
    }

    /// Reads whole pages from `first` on, as many as lie together; at least one.
    @inline(__always)
    private func readPages(_ context: WorkerContext, _ target: UnsafeMutableRawPointer, first: Int, limit: Int) throws(Errno) -> Int {
        while true {
            guard first < index.pointee.capacity, index.pointee.isAllocated(first) else {
                // No index, no pages: up to where there is some again.
                let next = index.pointee.run(from: first, limit: min(first + limit, index.pointee.capacity))?.lowerBound ?? first + limit
                let count = max(1, min(limit, next - first))
                target.initializeMemory(as: UInt8.self, repeating: 0, count: count * basePageSize)
                context.sawHole = true
                return count
            }
            let done = try readRun(context, target, index.pointee.entry(first), page: first, limit: limit)
            if done > 0 { return done }
        }
    }

    /// Reads the page of `entry` and those behind it that are in the same block. 0: the entry was overtaken, look again.
    @inline(__always)
    private func readRun(
        _ context: WorkerContext, _ target: UnsafeMutableRawPointer, _ entry: IndexEntry, page: Int, limit: Int
    ) throws(Errno) -> Int {
        switch entry.kind(object: id.rawValue, page: page) {
        case .absent:
            context.sawHole = true
            target.initializeMemory(as: UInt8.self, repeating: 0, count: basePageSize)
            return 1
        case .fill:
            target.initializeMemory(as: UInt64.self, repeating: entry.fillValue, count: basePageSize / 8)
            core.counters.pagesRead.add(1, ordering: .relaxed)
            return 1
        case .block:
            var pages = 1
            let most = min(limit, entry.blockPages - entry.slot, index.pointee.capacity - page)
            while pages < most {
                let next = index.pointee.entry(page + pages)
                // The checks of the entries are looked at when the checksums are.
                guard next.isBlock, next.location == entry.location, next.slot == entry.slot + pages else { break }
                pages += 1
            }
            // A hole within the block ends the run, not the block.
            if entry.slot == 0, pages < entry.blockPages, pages < most {
                let span = try readSpan(context, target, entry, page: page, pages: pages, limit: limit)
                if span > 0 { return span }
            }
            if try readBlock(context, target, entry, page: page, pages: pages, ahead: limit - pages) { return pages }
            // What was read is not what the entry promised: moved or written meanwhile, or damaged.
            if index.pointee.entry(page) != entry { return 0 }
            if pages > 1, try readBlock(context, target, entry, page: page, pages: 1, ahead: 0) { return 1 }
            if index.pointee.entry(page) != entry { return 0 }
            if context.blockIsMapped {
                // What a mapping shows may not be what the file has; the file has the last word.
                context.readsMappings = false
                context.decodedLocation = WorkerContext.nothingDecoded
                core.counters.mappingRereads.add(1, ordering: .relaxed)
                core.table.leaveLostMapping(core.geometry.segment(of: entry.location))
                return 0
            }
            throw damaged(page, entry)
        case .damaged:
            if index.pointee.entry(page) != entry { return 0 }
            core.counters.damagedEntries.add(1, ordering: .relaxed)
            core.damage.note(object: id.rawValue, page: page, tier: nil, "its entry is damaged")
            throw .ioError
        }
    }

    private func damaged(_ page: Int, _ entry: IndexEntry) -> Errno {
        core.counters.checksumErrors.add(1, ordering: .relaxed)
        let slot = core.table.slot(core.geometry.segment(of: entry.location))
        let what = slot.state == .missing || slot.state == .free ? "its segment is gone" : "its bytes are damaged"
        core.damage.note(object: id.rawValue, page: page, tier: slot.tier, what)
        return .ioError
    }

    /// Decompresses `pages` pages of a block from the entry's on, and compares their checksums; false if anything isn't as it should be.
    @inline(__always)
    private func readBlock(
        _ context: WorkerContext, _ target: UnsafeMutableRawPointer, _ entry: IndexEntry, page: Int, pages: Int, ahead: Int
    ) throws(Errno) -> Bool {
        guard let (block, header) = try block(context, entry, nextPage: page + pages, ahead: ahead) else { return false }
        for i in 0..<pages where header.slot(of: page + i) != entry.slot + i { return false }

        let payload = block + header.headerBytes
        let wanted = (entry.slot + pages) * basePageSize
        let whole = header.pages * basePageSize
        if entry.slot == 0, pages == header.pages || ahead == 0 && !BlockCodec.needsWholeBlock(header.codec) {
            guard context.codec.decompress(header.codec, payload, header.payloadBytes, into: target, wanted: wanted, of: whole) else {
                return false
            }
        } else if header.codec == .plain {
            guard header.payloadBytes == whole else { return false }
            target.copyMemory(from: payload + entry.slot * basePageSize, byteCount: pages * basePageSize)
        } else {
            if context.decodedLocation != entry.location {
                context.decodedLocation = WorkerContext.nothingDecoded
                // A hole within the block ends a run, and the block's other pages are wanted next: once is enough for all of them.
                let upTo = ahead > 0 ? whole : wanted
                guard context.codec.decompress(header.codec, payload, header.payloadBytes, into: context.block, wanted: upTo, of: whole)
                else { return false }
                if upTo == whole { context.decodedLocation = entry.location }
            }
            target.copyMemory(from: context.block + entry.slot * basePageSize, byteCount: pages * basePageSize)
        }
        guard Checksum.page(target) == entry.checksum else { return false }
        for i in 1..<max(1, pages) {
            let next = index.pointee.entry(page + i)
            // Another version of a page in the run: the caller takes the first alone.
            guard next.location == entry.location, next.kind(object: id.rawValue, page: page + i) == .block,
                Checksum.page(target + i * basePageSize) == next.checksum
            else { return false }
        }
        core.counters.pagesRead.add(pages, ordering: .relaxed)
        return true
    }

    /// Reads a whole block of which holes separate the pages, holes included, where it is wanted: once decompressed, pages move to their places. Returns
    /// how many pages that made; 0 if it can't be done so, and nothing is said about the reason.
    @inline(__always)
    private func readSpan(
        _ context: WorkerContext, _ target: UnsafeMutableRawPointer, _ entry: IndexEntry, page: Int, pages: Int, limit: Int
    ) throws(Errno) -> Int {
        guard let (block, header) = try block(context, entry, nextPage: page + pages, ahead: limit - pages), header.firstPage == page
        else { return 0 }
        let span = UInt64.bitWidth - header.mask.leadingZeroBitCount
        guard span <= limit, page + span <= index.pointee.capacity else { return 0 }
        var slot = 0
        for distance in 0..<span {
            let other = index.pointee.entry(page + distance)
            if header.mask >> UInt64(distance) & 1 == 1 {
                guard other.isBlock, other.location == entry.location, other.slot == slot else { return 0 }
                slot += 1
            } else if !other.isAbsent {
                return 0
            }
        }
        let whole = header.pages * basePageSize
        guard
            context.codec.decompress(
                header.codec, block + header.headerBytes, header.payloadBytes, into: target, wanted: whole, of: whole)
        else { return 0 }
        // The last page first: what lies in its place has moved by then.
        var waiting = header.mask
        while slot > 0 {
            let distance = UInt64.bitWidth - 1 - waiting.leadingZeroBitCount
            slot -= 1
            if distance == slot { break }
            (target + distance * basePageSize).copyMemory(from: target + slot * basePageSize, byteCount: basePageSize)
            waiting &= ~(1 << UInt64(distance))
        }
        for distance in 0..<span {
            let bytes = target + distance * basePageSize
            if header.mask >> UInt64(distance) & 1 == 0 {
                bytes.initializeMemory(as: UInt8.self, repeating: 0, count: basePageSize)
                continue
            }
            let other = index.pointee.entry(page + distance)
            guard other.location == entry.location, other.kind(object: id.rawValue, page: page + distance) == .block,
                Checksum.page(bytes) == other.checksum
            else { return 0 }
        }
        context.sawHole = true
        core.counters.pagesRead.add(header.pages, ordering: .relaxed)
        return span
    }

    /// The block of an entry and its header; nil if that is not what the entry promised.
    @inline(__always)
    private func block(
        _ context: WorkerContext, _ entry: IndexEntry, nextPage: Int, ahead: Int
    ) throws(Errno) -> (UnsafeRawPointer, BlockHeader)? {
        guard let block = try blockBytes(context, entry, nextPage: nextPage, ahead: ahead),
            let header = BlockHeader(at: block, available: entry.length),
            header.object == id.rawValue, header.pages == entry.blockPages, header.length == entry.length
        else { return nil }
        return (block, header)
    }

    /// The block's bytes: in the mapped segment, in the window, or read into it together with those that follow in the segment and are wanted next.
    @inline(__always)
    func blockBytes(_ context: WorkerContext, _ entry: IndexEntry, nextPage: Int, ahead: Int) throws(Errno) -> UnsafeRawPointer? {
        let segment = core.geometry.segment(of: entry.location)
        let offset = core.geometry.offset(of: entry.location)
        if context.readsMappings, let bytes = core.table.mapped(segment, offset..<offset + entry.length) {
            context.blockIsMapped = true
            return bytes
        }
        context.blockIsMapped = false
        if segment == context.windowSegment, offset >= context.windowStart, offset + entry.length <= context.windowEnd {
            return UnsafeRawPointer(context.window + (offset - context.windowStart))
        }
        var end = offset + entry.length
        var page = nextPage
        let limit = min(index.pointee.capacity, nextPage + max(0, ahead))
        while page < limit {
            let next = index.pointee.entry(page)
            if next.isBlock {
                guard core.geometry.segment(of: next.location) == segment else { break }
                let start = core.geometry.offset(of: next.location)
                guard start == end || start + next.length == end, start + next.length - offset <= WorkerContext.windowBytes else { break }
                end = max(end, start + next.length)
                page += max(1, next.blockPages - next.slot)
            } else {
                page += 1
            }
        }
        guard let fd = try? core.table.descriptor(segment) else { return nil }
        context.windowSegment = -1
        let wanted = end - offset
        let got: Int
        do throws(Errno) {
            got = try Files.read(fd, into: UnsafeMutableRawBufferPointer(start: context.window, count: wanted), at: offset)
        } catch {
            let tier = core.table.slot(segment).tier
            if tier < core.tiers.count { core.tiers[tier].note("reading a segment", error) }
            return nil
        }
        guard got >= entry.length else { return nil }
        context.windowSegment = segment
        context.windowStart = offset
        context.windowEnd = offset + got
        return UnsafeRawPointer(context.window)
    }
}
