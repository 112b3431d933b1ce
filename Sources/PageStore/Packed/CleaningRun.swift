import ShrinkLinux
import Synchronization
import SystemPackage

/// The compaction of one segment with one worker's context.
final class CleaningRun {
    private struct Move {
        let object: PackedObject
        let page: Int
        let old: IndexEntry
        let new: IndexEntry
        let end: Int
    }

    private let core: StoreCore
    private let lookup: ObjectLookup
    private let context: WorkerContext
    private let victim: Int
    private let tier: Int
    private let urgent: Bool
    private var moves: [Move] = []
    private var touched: [UInt32: PackedObject] = [:]

    init(core: StoreCore, lookup: ObjectLookup, context: WorkerContext, victim: Int, urgent: Bool) {
        self.core = core
        self.lookup = lookup
        self.context = context
        self.victim = victim
        self.urgent = urgent
        tier = core.table.slot(victim).tier
    }

    /// False if it stopped half way, for a writer or an error.
    func run() -> Bool {
        do throws(Errno) {
            let end = core.table.slot(victim).usedBytes
            var position = SegmentTable.headerBytes
            // The context's window is the reading buffer: no block is longer.
            let window = context.window
            context.windowSegment = -1
            var windowStart = 0
            var windowEnd = 0
            var isUnreadable = false
            while position + BlockHeader.fixedBytes <= end {
                if !urgent, core.pool.writers.load(ordering: .relaxed) > 0 {
                    try flush()
                    try syncIndexes()
                    return false
                }
                var header =
                    position >= windowStart && position < windowEnd
                    ? BlockHeader(at: window + (position - windowStart), available: windowEnd - position) : nil
                if header == nil {
                    let fd = try core.table.descriptor(victim)
                    let got = try Files.read(
                        fd, into: UnsafeMutableRawBufferPointer(start: window, count: min(WorkerContext.windowBytes, end - position)),
                        at: position)
                    windowStart = position
                    windowEnd = position + got
                    header = BlockHeader(at: window, available: got)
                }
                guard let header else {
                    // Zeros behind the last block of a segment of full length, or something that isn't one: see below whether anything lives there.
                    let isEnd = core.tiers[tier].inMemory ? try areZeros(from: position, to: end, window) : false
                    isUnreadable = !isEnd
                    break
                }
                try move(header, at: window + (position - windowStart), location: core.geometry.location(victim, offset: position))
                position += header.length
            }
            try flush()
            try syncIndexes()
            noteLeftBehind(unreadable: isUnreadable)
            return core.table.slot(victim).livePages == 0
        } catch {
            if error != .noSpace, error != .diskQuotaExceeded { core.tiers[tier].note("compacting segment \(victim)", error) }
            moves.removeAll()
            context.staged = 0
            return false
        }
    }

    private func areZeros(from start: Int, to end: Int, _ buffer: UnsafeMutableRawPointer) throws(Errno) -> Bool {
        var position = start
        while position < end {
            let fd = try core.table.descriptor(victim)
            let count = min(WorkerContext.windowBytes, end - position)
            let got = try Files.read(fd, into: UnsafeMutableRawBufferPointer(start: buffer, count: count), at: position)
            guard got > 0, isZero(buffer, got & ~63) else { return false }
            position += got
        }
        return true
    }

    /// Pages may live on although every block was moved: of a removed object that somebody has open, or of a punch that hasn't counted its dead pages
    /// yet. That is no damage. Damage is what can't be read, if as many pages live there when the cleaner comes again.
    private func noteLeftBehind(unreadable: Bool) {
        let slot = core.table.slot(victim)
        let pages = slot.livePages
        if pages > 0, unreadable, slot.leftBehind.pages == pages {
            slot.isDamaged = true
            core.options.report(
                "segment \(victim): \(pages) live pages lie in blocks that can't be read; it is left as it is, `backupfs check` names them")
        }
        slot.leftBehind = (pages, MonotonicTime.now().wholeSeconds)
    }

    /// On a disk an index that still named the old segment after a power cut would have lost its pages.
    private func syncIndexes() throws(Errno) {
        guard !touched.isEmpty, !core.tiers[tier].inMemory else { return }
        try core.tiers[tier].syncNames()
        for object in touched.values { try object.lock.shared { () throws(Errno) in try object.syncIndex() } }
    }

    private func move(_ header: BlockHeader, at block: UnsafeMutableRawPointer, location: UInt64) throws(Errno) {
        guard let object = try lookup.object(header.object) else { return }
        // The index stays as it is mapped until the moves are published; the lock is taken again for that.
        var live: [(page: Int, entry: IndexEntry)] = []
        object.lock.shared {
            var mask = header.mask
            while mask != 0 {
                let page = header.firstPage + mask.trailingZeroBitCount
                mask &= mask - 1
                guard page < object.index.pointee.capacity else { continue }
                let entry = object.index.pointee.entry(page)
                if entry.kind(object: header.object, page: page) == .block, entry.location == location { live.append((page, entry)) }
            }
        }
        guard !live.isEmpty else { return }
        try makeRoom(header)
        let target = context.staging + context.staged
        let offset = context.open[tier].position + context.staged
        let place = core.geometry.location(context.open[tier].number, offset: offset)
        if live.count < header.pages, repack(header, block, live, to: target, object: object, location: place) { return }
        // All of it lives, or some of it is damaged and stays as it is, to be found by its checksum.
        target.copyMemory(from: block, byteCount: header.length)
        context.staged += header.length
        for (page, entry) in live {
            let new = IndexEntry.block(
                location: place, length: header.length, slot: entry.slot, blockPages: entry.blockPages, checksum: entry.checksum,
                seconds: entry.seconds, object: header.object, page: page)
            moves.append(Move(object: object, page: page, old: entry, new: new, end: context.staged))
        }
    }

    /// Makes a smaller block of the pages that live; false if one of them isn't what its checksum says.
    private func repack(
        _ header: BlockHeader, _ block: UnsafeMutableRawPointer, _ live: [(page: Int, entry: IndexEntry)],
        to target: UnsafeMutableRawPointer,
        object: PackedObject, location: UInt64
    ) -> Bool {
        let whole = header.pages * basePageSize
        guard
            context.codec.decompress(
                header.codec, block + header.headerBytes, header.payloadBytes, into: context.block, wanted: whole, of: whole)
        else { return false }
        var mask: UInt64 = 0
        for (i, (page, entry)) in live.enumerated() {
            let source = context.block + entry.slot * basePageSize
            guard Checksum.page(source) == entry.checksum else { return false }
            // Down to the front: sources are in ascending order, so none is overwritten before it is moved.
            let front = context.block + i * basePageSize
            if front != source { front.copyMemory(from: source, byteCount: basePageSize) }
            context.group[i] = UnsafeRawPointer(front)
            mask |= 1 << UInt64(page - live[0].page)
        }
        let length = core.encode(context, to: target, object: header.object, first: live[0].page, mask: mask, seconds: header.seconds)
        context.staged += length
        for (i, (page, entry)) in live.enumerated() {
            let new = IndexEntry.block(
                location: location, length: length, slot: i, blockPages: live.count, checksum: entry.checksum, seconds: entry.seconds,
                object: header.object, page: page)
            moves.append(Move(object: object, page: page, old: entry, new: new, end: context.staged))
        }
        return true
    }

    private func makeRoom(_ header: BlockHeader) throws(Errno) {
        let bytes = max(header.length, StoreCore.largestBlock(pages: header.pages))
        if context.staged + bytes > WorkerContext.stagingBytes, context.staged > 0 { try flush() }
        if context.open[tier].number >= 0, context.open[tier].position + context.staged + bytes > core.geometry.segmentBytes {
            try flush()
            core.sealOpen(context, tier)
        }
        if context.open[tier].number < 0 {
            let number = try core.newSegment(tier: tier, for: urgent ? .cleanerOfFullTier : .cleaner)
            context.open[tier] = WorkerContext.OpenSegment(number: number, position: SegmentTable.headerBytes)
        }
    }

    private func flush() throws(Errno) {
        guard context.staged > 0 else { return }
        let staged = context.staged
        context.staged = 0
        if tier > 0 { try core.budget.spend(staged) }
        let open = context.open[tier]
        let slot = core.table.slot(open.number)
        slot.isDirty = true
        let fd = try core.table.descriptor(open.number)
        try core.runs.shortenUnlessPlenty(&context.open[tier], fd)
        let written = Files.write(fd, UnsafeRawBufferPointer(start: context.staging, count: staged), at: open.position)
        if let error = written.error {
            if error == .noSpace, urgent {
                // A segment of the cleaner's that can't grow makes way for the reserve, which is allocated.
                core.sealOpen(context, tier)
            }
            throw error
        }
        if !core.tiers[tier].inMemory { try Files.sync(fd, dataOnly: true) }
        KillPoint.cleanerCopied.pass()
        var pages = 0
        var bytes = 0
        for move in moves {
            pages += 1
            bytes += move.new.share
        }
        slot.addLive(pages: pages, bytes: bytes)
        context.open[tier].position += staged
        slot.usedBytes = context.open[tier].position
        for move in moves {
            touched[move.object.id.rawValue] = move.object
            let moved = move.object.lock.shared { move.object.replace(move.page, move.old, with: move.new) }
            if !moved { core.forget(move.new) }
            KillPoint.cleanerFlipped.pass()
        }
        moves.removeAll(keepingCapacity: true)
    }
}
