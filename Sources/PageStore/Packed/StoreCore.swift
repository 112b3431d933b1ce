import ShrinkLinux
import Synchronization
import SystemPackage

/// What all objects of an open store share. It outlives the store's table of objects, because an object in use outlives it too.
final class StoreCore: Sendable {
    let options: PackedOptions
    let identity: StoreIdentity
    let geometry: SegmentGeometry
    let tiers: [StoreTier]
    let table: SegmentTable
    let pool: WorkerPool
    let counters = StoreCounters()
    let damage: DamageLog
    let reserves: [SegmentReserve]
    let runs = RunReserve()
    let budget: WriteBudget
    let objectsDirectory: SharedDescriptor
    /// Compacts one segment now; false if none was worth it. Set by the store.
    let cleanNow = Mutex<@Sendable () -> Bool>({ false })
    /// Held by who compacts, and by who moves segments between tiers: one of each at a time.
    let cleaning = Mutex<Void>(())
    let moving = Mutex<Void>(())
    private let memoryCheck = Mutex<(at: MonotonicTime, short: Bool)>((MonotonicTime(nanoseconds: 0), false))

    init(
        options: PackedOptions, identity: StoreIdentity, geometry: SegmentGeometry, tiers: [StoreTier], objectsDirectory: SharedDescriptor,
        descriptorLimit: Int
    ) throws(Errno) {
        self.options = options
        self.identity = identity
        self.geometry = geometry
        self.tiers = tiers
        self.objectsDirectory = objectsDirectory
        table = try SegmentTable(
            geometry: geometry, identity: identity, tiers: tiers, pins: WorkerPool.size, descriptorLimit: descriptorLimit,
            mappingLimit: max(1, options.mappedBytesLimit / geometry.segmentBytes), beforeMapping: options.beforeMapping)
        pool = try WorkerPool(table: table, codec: options.codec)
        damage = DamageLog(options.report)
        reserves = tiers.map { SegmentReserve(tier: $0, bytes: geometry.segmentBytes) }
        budget = try WriteBudget(bytesPerDay: options.writeBudgetBytesPerDay, tier: tiers.count > 1 ? tiers[1] : nil)
    }

    /// Frees dead bytes for a writer that found the store full; false if there is nothing to free.
    func makeRoom() -> Bool { cleanNow.withLock { $0 }() }

    /// Throws ENOSPC where a memory tier would take from the machine's last memory. Looked up twenty times a second at most.
    @inline(__always) func admit(_ tier: Int) throws(Errno) {
        if tiers[tier].inMemory, memoryIsShort() { throw .noSpace }
    }

    private func memoryIsShort() -> Bool {
        memoryCheck.withLock { check in
            let now = MonotonicTime.now()
            if check.at.nanoseconds != 0, now.nanoseconds(since: check.at) < 50_000_000 { return check.short }
            guard let memory = try? MemoryInfo() else { return check.short }
            check = (now, memory.availableWithSwap < options.memoryFloorBytes)
            return check.short
        }
    }

    /// New and removed objects outlive a power cut after this.
    func syncObjectNames() throws(Errno) { try Files.sync(objectsDirectory.number) }

    // MARK: Appending blocks

    /// Adds one page to the group of the next block; `source` stays readable until the block is closed.
    @inline(__always)
    func gather(_ context: WorkerContext, _ appender: Appender, page: Int, _ source: UnsafeRawPointer) throws(Errno) {
        if context.groupCount > 0, context.groupCount == options.blockPages || page - context.groupFirst >= BlockHeader.span {
            try closeBlock(context, appender)
        }
        if context.groupCount == 0 { context.groupFirst = page }
        context.groupMask |= 1 << UInt64(truncatingIfNeeded: page - context.groupFirst)
        context.group[context.groupCount] = source
        context.groupCount += 1
    }

    /// Adds an entry that needs no bytes, in order after what was staged. A page of zeros becomes a hole, as lseek(2) allows: it reads the
    /// same, and takes no page file, no word and no place in a sum.
    @inline(__always)
    func stageFill(_ context: WorkerContext, _ appender: Appender, page: Int, _ value: UInt64) throws(Errno) {
        if context.pendingCount == WorkerContext.pendingLimit { try flush(context, appender) }
        let entry: IndexEntry =
            value == 0 ? .absent : .fill(value, seconds: appender.seconds, object: appender.object.id.rawValue, page: page)
        context.pending[context.pendingCount] = WorkerContext.Pending(page: page, end: context.staged, entry: entry)
        context.pendingCount += 1
    }

    /// Compresses the gathered pages into the staging buffer.
    func closeBlock(_ context: WorkerContext, _ appender: Appender) throws(Errno) {
        let pages = context.groupCount
        guard pages > 0 else { return }
        let place = try room(context, appender, for: Self.largestBlock(pages: pages), entries: pages)

        let block = context.staging + context.staged
        let length = encode(
            context, to: block, object: appender.object.id.rawValue, first: context.groupFirst, mask: context.groupMask,
            seconds: appender.seconds)
        let location = geometry.location(place.segment, offset: place.offset)
        context.staged += length
        var mask = context.groupMask
        for slot in 0..<pages {
            let page = context.groupFirst + mask.trailingZeroBitCount
            mask &= mask &- 1
            context.pending[context.pendingCount] = WorkerContext.Pending(
                page: page, end: context.staged,
                entry: .block(
                    location: location, length: length, slot: slot, blockPages: pages, checksum: BlockHeader.checksum(slot, at: block),
                    seconds: appender.seconds, object: appender.object.id.rawValue, page: page))
            context.pendingCount += 1
        }
        context.groupCount = 0
        context.groupMask = 0
    }

    static func largestBlock(pages: Int) -> Int { BlockHeader.aligned(BlockHeader.headerBytes(pages: pages) + pages * basePageSize) }

    /// Makes a block of the pages in the context's group: header, payload, padding. Returns its length.
    @inline(__always)
    func encode(
        _ context: WorkerContext, to block: UnsafeMutableRawPointer, object: UInt32, first: Int, mask: UInt64, seconds: UInt32
    ) -> Int {
        let pages = mask.nonzeroBitCount
        let plainBytes = pages * basePageSize
        let headerBytes = BlockHeader.headerBytes(pages: pages)
        var source = context.group[0]
        var together = true
        for slot in 0..<pages {
            let page = context.group[slot]
            block.storeBytes(of: Checksum.page(page), toByteOffset: BlockHeader.fixedBytes + 4 * slot, as: UInt32.self)
            if page != source + slot * basePageSize { together = false }
        }
        if !together {
            for slot in 0..<pages {
                (context.block + slot * basePageSize).copyMemory(from: context.group[slot], byteCount: basePageSize)
            }
            source = UnsafeRawPointer(context.block)
        }

        if let beforeCompressing = options.beforeCompressing { beforeCompressing(object) }
        var codec = BlockHeader.Codec.plain
        var payloadBytes = plainBytes
        if let result = context.codec.compress(
            source, plainBytes, into: block + headerBytes, capacity: context.codec.worthwhile(plainBytes))
        {
            (codec, payloadBytes) = result
        } else {
            (block + headerBytes).copyMemory(from: source, byteCount: plainBytes)
            counters.plainBlocks.add(1, ordering: .relaxed)
        }
        let header = BlockHeader(
            codec: codec, pages: pages, object: object, firstPage: first, mask: mask, payloadBytes: payloadBytes, seconds: seconds)
        header.write(to: block)
        let length = header.length
        (block + headerBytes + payloadBytes).initializeMemory(as: UInt8.self, repeating: 0, count: length - headerBytes - payloadBytes)
        return length
    }

    /// Where a block of at most `bytes` goes: in the open segment behind what is staged, or at the start of a new one.
    @inline(__always)
    func room(_ context: WorkerContext, _ appender: Appender, for bytes: Int, entries: Int) throws(Errno) -> (segment: Int, offset: Int) {
        if context.staged + bytes > WorkerContext.stagingBytes && context.staged > 0
            || context.pendingCount + entries > WorkerContext.pendingLimit
        {
            try flush(context, appender)
        }
        let tier = appender.tier
        if context.open[tier].number >= 0, context.open[tier].position + context.staged + bytes > geometry.segmentBytes {
            try flush(context, appender)
            sealOpen(context, tier)
        }
        if context.open[tier].number < 0 {
            context.open[tier] = try newOpenSegment(tier: tier)
        }
        return (context.open[tier].number, context.open[tier].position + context.staged)
    }

    func sealOpen(_ context: WorkerContext, _ tier: Int) {
        let open = context.open[tier]
        guard open.number >= 0 else { return }
        // Longer than what was appended are those of the reserve and those of full length. To cut a little off would split the last large page.
        let unused = geometry.segmentBytes - open.position
        if !open.isFullLength || unused > geometry.segmentBytes / 64, let fd = try? table.descriptor(open.number) {
            try? Files.truncate(fd, to: open.position)
        }
        context.open[tier].number = -1
        table.seal(open.number)
    }

    /// Segments of the first tier can consist of large pages.
    var hasHugeSegments: Bool { tiers[0].hugePageBytes.map { geometry.segmentBytes % $0 == 0 } ?? false }

    /// "yes", or "no: " and the reason, where the first tier is memory; on a disk there are none to be had.
    var hugeSegments: String? {
        guard tiers[0].inMemory else { return nil }
        guard let page = tiers[0].hugePageBytes else { return "no: the store's tmpfs has small pages only; mount it with huge=within_size" }
        guard hasHugeSegments else {
            return
                "no: a segment of \(geometry.segmentBytes) bytes is not a multiple of a large page, \(page); make the store with another --segment"
        }
        return "yes"
    }

    /// A segment for a writer to append to. Where there are large pages, and memory to waste a part of one, it has its full length at once: tmpfs gives
    /// a file large pages below its size only.
    func newOpenSegment(tier: Int) throws(Errno) -> WorkerContext.OpenSegment {
        let fullLength = tier == 0 && hasHugeSegments && runs.seesPlenty()
        let number = try newSegment(tier: tier, for: .writer, fullLength: fullLength)
        return WorkerContext.OpenSegment(number: number, position: SegmentTable.headerBytes, isFullLength: fullLength)
    }

    /// Who needs a new segment.
    enum SegmentUser {
        /// Gets room only while the reserve is there.
        case writer
        case cleaner
        /// The tier is full: the reserve, whose room is allocated.
        case cleanerOfFullTier
    }

    func newSegment(tier: Int, for user: SegmentUser, fullLength: Bool = false) throws(Errno) -> Int {
        let reserve = reserves[tier]
        switch user {
        case .writer:
            try admit(tier)
            try reserve.restore()
        case .cleaner: break
        case .cleanerOfFullTier:
            // Without the reserve writers get nothing, so what is free is the cleaner's.
            if reserve.isReady { return try reserve.take { () throws(Errno) in try table.make(tier: tier, renaming: SegmentReserve.name) } }
        }
        return try table.make(tier: tier, fullLength: fullLength)
    }

    /// Writes what is staged to the segment, then publishes its entries in order. After an error those whose bytes are in the
    /// segment are published and the others forgotten; the call's progress tells from which page on.
    @inline(never)
    func flush(_ context: WorkerContext, _ appender: Appender) throws(Errno) {
        let pending = context.pendingCount
        guard pending > 0 else { return }
        let staged = context.staged
        context.pendingCount = 0
        context.staged = 0
        let tier = appender.tier
        var done = 0
        var failure: Errno?
        if staged > 0 {
            let open = context.open[tier]
            do throws(Errno) {
                try admit(tier)
                try reserves[tier].restore()
                if tier > 0 { try budget.spend(staged) }
                let slot = table.slot(open.number)
                slot.isDirty = true
                let fd = try table.descriptor(open.number)
                if tiers[tier].inMemory {
                    try runs.prepare(
                        &context.open[tier], fd, needed: staged, segmentBytes: geometry.segmentBytes,
                        hugePageBytes: tiers[tier].hugePageBytes)
                }
                let written = Files.write(fd, UnsafeRawBufferPointer(start: context.staging, count: staged), at: open.position)
                done = written.bytes
                failure = written.error
                if appender.isDurable, done > 0, !tiers[tier].inMemory { try Files.sync(fd, dataOnly: true) }
            } catch {
                done = 0
                failure = error
            }
        }
        KillPoint.bytesWritten.pass()

        var count = 0
        var blockPages = 0
        var blockBytes = 0
        var end = 0
        while count < pending, context.pending[count].end <= done {
            let entry = context.pending[count].entry
            end = context.pending[count].end
            if entry.isBlock {
                blockPages += 1
                blockBytes += entry.share
            }
            count += 1
        }
        if blockPages > 0 {
            let slot = table.slot(context.open[tier].number)
            slot.addLive(pages: blockPages, bytes: blockBytes)
            context.open[tier].position += end
            slot.usedBytes = context.open[tier].position
        }
        appender.publish(context.pending, count)
        KillPoint.entriesPublished.pass()
        if let failure {
            for i in count..<pending { appender.progress.pointee.fail(at: context.pending[i].page) }
            throw failure
        }
    }

    /// Forgets what was gathered and staged for a call that failed.
    func abandon(_ context: WorkerContext, _ appender: Appender) {
        for i in 0..<context.pendingCount { appender.progress.pointee.fail(at: context.pending[i].page) }
        if context.groupCount > 0 { appender.progress.pointee.fail(at: context.groupFirst) }
        context.pendingCount = 0
        context.staged = 0
        context.groupCount = 0
        context.groupMask = 0
    }
}
