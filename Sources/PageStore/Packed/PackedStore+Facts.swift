import ShrinkLinux
import Synchronization
import SystemPackage

extension PackedStore {
    /// The size of a segment file, as the store was made with.
    public var segmentBytes: Int { core.geometry.segmentBytes }

    /// Total and available bytes are the first tier's, as the file system and for memory the machine have them; the reserve is not
    /// available.
    public var space: StoreSpace {
        let room = (try? core.tiers[0].available(memoryFloorBytes: core.options.memoryFloorBytes)) ?? (available: 0, total: 0)
        return StoreSpace(
            totalBytes: room.total, availableBytes: room.available,
            storedBytes: UInt64(max(0, core.counters.storedBytes.load(ordering: .relaxed))),
            pageCount: UInt64(max(0, core.counters.pages.load(ordering: .relaxed))), objectCount: UInt64(objectCount))
    }

    public var room: StoreRoom {
        let room = (try? core.tiers[0].available(memoryFloorBytes: core.options.memoryFloorBytes)) ?? (available: 0, total: 0)
        return StoreRoom(totalBytes: room.total, availableBytes: room.available)
    }

    public func facts() -> [(key: String, value: String)] {
        let counters = core.counters
        var facts: [(key: String, value: String)] = [
            ("zero_pages", "holes"), ("codec", "\(core.options.codec)"), ("segment_bytes", "\(core.geometry.segmentBytes)"),
            ("block_pages", "\(core.options.blockPages)"), ("store", "\(core.identity)"),
            ("same_filled_pages", "\(counters.fills.load(ordering: .relaxed))"), ("dead_bytes", "\(core.table.deadBytes)"),
            ("pages_written", "\(counters.pagesWritten.load(ordering: .relaxed))"),
            ("pages_read", "\(counters.pagesRead.load(ordering: .relaxed))"),
            ("incompressible_blocks", "\(counters.plainBlocks.load(ordering: .relaxed))"),
            ("checksum_errors", "\(counters.checksumErrors.load(ordering: .relaxed))"),
            ("damaged_entries", "\(counters.damagedEntries.load(ordering: .relaxed))"),
            ("cleaned_segments", "\(counters.cleanedSegments.load(ordering: .relaxed))"),
            ("cleaned_bytes", "\(counters.cleanedBytes.load(ordering: .relaxed))"),
            ("moved_segments", "\(counters.movedSegments.load(ordering: .relaxed))"),
            ("moved_bytes", "\(counters.movedBytes.load(ordering: .relaxed))"),
            ("mapped_segments", "\(core.table.mappings.load(ordering: .relaxed))"),
            ("mapping_rereads", "\(counters.mappingRereads.load(ordering: .relaxed))"),
            ("full_writes", "\(counters.noSpace.load(ordering: .relaxed))"),
            ("write_budget_bytes", core.budget.bytesPerDay.map { "\($0)" } ?? "none"), ("budget_spent_bytes", "\(core.budget.spentToday)"),
        ]
        var sums = [(segments: Int, file: Int, live: Int, pages: Int)](repeating: (0, 0, 0, 0), count: core.tiers.count)
        // They lie in the index, which is in the first tier.
        sums[0].pages = max(0, counters.fills.load(ordering: .relaxed))
        for number in 0..<core.table.numberLimit {
            let slot = core.table.slot(number)
            guard slot.state != .free, slot.state != .retired, slot.tier < core.tiers.count else { continue }
            sums[slot.tier].segments += 1
            sums[slot.tier].file += slot.usedBytes
            sums[slot.tier].live += slot.liveBytes
            sums[slot.tier].pages += slot.livePages
        }
        if let verdict = core.hugeSegments { facts.append(("huge_segments", verdict)) }
        facts.append(("pages_by_tier", sums.map { "\($0.pages)" }.joined(separator: " ")))
        for tier in core.tiers {
            let prefix = "tier.\(tier.number)."
            facts.append((prefix + "segments", "\(sums[tier.number].segments)"))
            facts.append((prefix + "file_bytes", "\(sums[tier.number].file)"))
            facts.append((prefix + "stored_bytes", "\(sums[tier.number].live)"))
            facts.append((prefix + "reserve_bytes", core.reserves[tier.number].state))
            facts.append(
                (
                    prefix + "available_bytes",
                    (try? tier.available(memoryFloorBytes: core.options.memoryFloorBytes)).map { "\($0.available)" } ?? "unknown"
                ))
            facts.append((prefix + "state", tier.state))
        }
        return facts
    }
}
