import ShrinkLinux
import Synchronization
import SystemPackage

/// Opening a store: directories, signatures, segments, indexes, in that order; or a `StoreError` that says what is in the way.
final class StoreOpening {
    let core: StoreCore
    private var objectsDirectory: SharedDescriptor { core.objectsDirectory }
    let objectLimit: Int
    private(set) var ids: [UInt32] = []
    private var used: UsedIDs?
    private var unfinished: [StoredObjectID] = []

    /// Once.
    func takeUsed() -> UsedIDs { used.take()! }

    init(_ directories: [String], _ options: PackedOptions) throws(StoreError) {
        KillPoint.armFromEnvironment()
        guard !directories.isEmpty else { throw StoreError(.missing, "a store needs a directory") }
        guard SegmentGeometry(segmentBytes: options.segmentBytes) != nil, (1...BlockHeader.maximumPages).contains(options.blockPages) else {
            throw StoreError(.unsupported, "a segment is a power of two of 1 to 64 MiB, a block 1 to 16 pages")
        }
        // Refused only where the limit can't be told at all; then few are kept open.
        try? ThisProcess.raiseDescriptorLimit()
        let files = (try? ThisProcess.descriptorLimit()).map { Int(clamping: $0.soft) } ?? 256
        // A mapping each, of which a process has 65530 unless the machine says otherwise (vm.max_map_count).
        objectLimit = min(options.mappedObjectLimit, max(16, files / 4))
        let tiers = try StoreTiers.open(directories, options)
        let tier0 = tiers.tiers[0]
        do throws(Errno) {
            do { try Files.makeDirectory("objects", at: tier0.directory.number) } catch {
                if error != .fileExists { throw error }
            }
            let objects = SharedDescriptor(try Files.open("objects", [.readOnly, .directory, .noFollow], at: tier0.directory.number))
            core = try StoreCore(
                options: options, identity: tiers.signature.identity,
                geometry: SegmentGeometry(segmentBytes: tiers.signature.segmentBytes)!,
                tiers: tiers.tiers, objectsDirectory: objects, descriptorLimit: max(16, files / 4))
            used = try UsedIDs(in: tier0.directory.number)
            if let damaged = used?.damagedLines, damaged > 0 {
                options.report("\(tier0.path)/ids: \(damaged) damaged lines; the ids they tell of are not used again")
            }
            if tier0.inMemory, let last = tiers.tiers.last, last.number > 0 {
                try used?.keep(try IDsBelow(on: last), firstIsLost: tiers.firstIsLost)
            }
            if tiers.firstIsLost, let last = tiers.tiers.last {
                let count = try IndexCopies.restore(from: last, to: objects.number)
                options.report(
                    "\(tier0.path) was empty, its store goes on below: \(count) objects are there again as they were last synced to \(last.path)"
                )
            }
            try restoreSegments()
            try restoreObjects()
            core.table.finishRestore()
            for number in 0..<core.table.numberLimit { core.table.retireIfDead(number) }
            core.table.grace.collect()
            for reserve in core.reserves { reserve.find() }
            do { try core.reserves[0].restore() } catch {
                if error != .noSpace { throw error }
            }
            core.prepareFirstWriters()
        } catch {
            throw StoreError(.system, "\(directories[0]): the store can't be opened", errno: error)
        }
    }

    /// Takes over the segment files of all tiers. Of one that is in two, the lower is whole (it got its name after it was synced).
    private func restoreSegments() throws(Errno) {
        for tier in core.tiers {
            var names: [String] = []
            try Files.forEachName(in: tier.segments.number) { names.append($0) }
            for name in names {
                guard let number = Int(name), number >= 0, number < core.geometry.segmentLimit, name == String(number) else {
                    if name.hasSuffix(TierMover.suffix) { try? Files.remove(name, at: tier.segments.number) }
                    continue
                }
                let status = try Files.status(of: name, at: tier.segments.number)
                if tier.inMemory,
                    status.allocatedBytes > (min(status.sizeBytes, .max - basePageSize) + basePageSize - 1) & ~(basePageSize - 1)
                {
                    // A run's room, allocated ahead by a process that was killed (`RunReserve`).
                    let file = try Files.open(name, [.readWrite, .noFollow], at: tier.segments.number)
                    try Files.truncate(file.number, to: status.sizeBytes)
                }
                if core.table.slot(number).state == .sealed {
                    try? Files.remove(name, at: core.tiers[core.table.slot(number).tier].segments.number)
                }
                // One of full length that was still growing has nothing behind what is allocated. Unless somebody made holes: see what lives there.
                core.table.restore(
                    number, tier: tier.number, usedBytes: status.sizeBytes, filledBytes: tier.inMemory ? status.allocatedBytes : .max,
                    sealedAt: UInt32(truncatingIfNeeded: status.modified.seconds))
            }
        }
    }

    /// Reads every index once: counts what lives in each segment, drops what an unfinished step left.
    private func restoreObjects() throws(Errno) {
        var names: [String] = []
        try Files.forEachName(in: objectsDirectory.number) { names.append($0) }
        let buffer = try MappedMemory(anonymous: 1 << 20, populated: false)
        var found: [UInt32] = []
        for name in names {
            guard let id = StoredObjectID(name: name) else { continue }
            if try restore(id, buffer) { found.append(id.rawValue) }
        }
        try dropUnfinished()
        found.sort()
        ids = found
        for id in found { _ = try used!.use(id) }
        for number in 0..<core.table.numberLimit where core.table.slot(number).state == .free && core.table.slot(number).livePages > 0 {
            core.options.report(
                "segment \(number) is gone: \(core.table.slot(number).livePages) pages read as errors; put the file back or drop them with `backupfs check --repair`"
            )
            core.table.markMissing(number)
        }
    }

    /// Drops what lies beyond an object's end: cut and not finished, or written and not answered. Only when all objects are counted, for a
    /// segment in which nothing is counted yet would be taken for dead.
    private func dropUnfinished() throws(Errno) {
        for id in unfinished {
            let index = try ObjectIndex(try Files.open(id.description, [.readWrite, .noFollow], at: objectsDirectory.number), pages: 0)
            guard let header = ObjectHeader(reading: index.header, object: id.rawValue, store: core.identity) else { continue }
            let object = PackedObject(id, core, index, header)
            // An index that was cut short may end before the object does.
            let end = (header.sizeBytes + basePageSize - 1) / basePageSize
            object.removeEntries(end..<max(end, object.index.pointee.capacity))
        }
    }

    private func restore(_ id: StoredObjectID, _ buffer: borrowing MappedMemory) throws(Errno) -> Bool {
        let file = try Files.open(id.description, [.readWrite, .noFollow], at: objectsDirectory.number)
        let bytes = try Files.status(file.number).sizeBytes
        var pages = 0
        var stored = 0
        var fills = 0
        var beyond = false
        var limit = Int.max
        var position = 0
        while let data = try Files.nextData(file.number, from: position) {
            position = data & ~(basePageSize - 1)
            let got = try Files.read(file.number, into: buffer.bytes, at: position)
            if position == 0 {
                if got >= ObjectHeader.totalBytes,
                    let header = ObjectHeader(reading: buffer.base, object: id.rawValue, store: core.identity)
                {
                    limit = (header.sizeBytes + basePageSize - 1) / basePageSize
                } else if bytes <= basePageSize, got == 0 || isZero(buffer.base, got & ~63) {
                    break
                } else {
                    core.options.report("object \(id): its header is damaged; it ends where its last page ends")
                }
            }
            var offset = position == 0 ? ObjectHeader.totalBytes : 0
            while offset + IndexEntry.byteCount <= got {
                let words = PairedWords(
                    low: buffer.base.load(fromByteOffset: offset, as: UInt64.self),
                    high: buffer.base.load(fromByteOffset: offset + 8, as: UInt64.self))
                if words.low | words.high != 0 {
                    let page = (position + offset - ObjectHeader.totalBytes) / IndexEntry.byteCount
                    let entry = IndexEntry(words: words)
                    pages += 1
                    if page >= limit { beyond = true }
                    switch entry.kind(object: id.rawValue, page: page) {
                    case .absent, .damaged: break
                    case .fill: fills += 1
                    case .block:
                        stored += entry.share
                        core.table.restoreLive(
                            core.geometry.segment(of: entry.location), bytes: entry.share,
                            end: core.geometry.offset(of: entry.location) + entry.length)
                    }
                }
                offset += IndexEntry.byteCount
            }
            // A file may be as long as numbers go.
            guard position < Int.max - 2 * buffer.count else { break }
            position += max(got & ~(basePageSize - 1), basePageSize)
        }
        // A file without a header is what a create left that was never answered: one that was has its id marked.
        let isEmpty = limit == Int.max && pages == 0
        if isEmpty, try used!.contains(id.rawValue) {
            core.options.report("object \(id): its index is empty; put the file back or remove the object")
        } else if isEmpty {
            try Files.remove(id.description, at: objectsDirectory.number)
            return false
        }
        core.counters.pages.add(pages, ordering: .relaxed)
        core.counters.storedBytes.add(stored, ordering: .relaxed)
        core.counters.fills.add(fills, ordering: .relaxed)
        if beyond { unfinished.append(id) }
        return true
    }
}
