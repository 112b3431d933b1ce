import ShrinkLinux
import Synchronization
import SystemPackage

/// Finds objects for the cleaner without keeping the store alive.
final class ObjectLookup: Sendable {
    let store = Mutex<WeakStore>(WeakStore(nil))

    func object(_ id: UInt32) throws(Errno) -> PackedObject? {
        guard let id = StoredObjectID(rawValue: id) else { return nil }
        return try store.withLock { $0.store }?.object(id)
    }
}

struct WeakStore: Sendable {
    weak let store: PackedStore?
    init(_ store: PackedStore?) { self.store = store }
}

/// Compacts segments: what lives in one is appended to another, then its entries are replaced, then the file goes.
///
/// It stands back as soon as a writer is at work, and what it has moved until then stays moved. When the tier is full it goes on,
/// with the reserve as the segment to append to.
final class SegmentCleaner: Sendable {
    private let core: StoreCore
    private let lookup: ObjectLookup

    init(_ core: StoreCore, _ lookup: ObjectLookup) {
        self.core = core
        self.lookup = lookup
    }

    /// The sealed segment that frees most for what has to be copied, if it has more dead bytes than the share.
    private func victim(deadSharePercent: Int) -> Int? {
        var best: (number: Int, dead: Int)?
        let now = MonotonicTime.now().wholeSeconds
        for number in 0..<core.table.numberLimit {
            let slot = core.table.slot(number)
            guard slot.state == .sealed, !slot.isDamaged, !isLeft(slot, now) else { continue }
            let used = slot.usedBytes - SegmentTable.headerBytes
            let dead = used - slot.liveBytes
            guard isWorth(used: used, dead: dead, deadSharePercent) else { continue }
            if dead * (best.map { core.table.slot($0.number).usedBytes } ?? 1) > (best?.dead ?? 0) * slot.usedBytes {
                best = (number, dead)
            }
        }
        return best?.number
    }

    private static let restSeconds = 10

    /// All that may be moved was moved out of it, and nothing died since.
    private func isLeft(_ slot: SegmentTable.Slot, _ now: UInt32) -> Bool {
        let left = slot.leftBehind
        return left.pages > 0 && left.pages == slot.livePages && now &- left.at < Self.restSeconds
    }

    /// A full store takes what it can get.
    private static let urgentPercent = 2

    /// A small remainder isn't worth a copy of everything around it.
    private func isWorth(used: Int, dead: Int, _ percent: Int) -> Bool { dead >= 4096 && dead * 100 > used * percent }

    /// Compacts the segment with most to gain; false if there is none, or nothing came of it. Urgent: for a full tier, and as many as
    /// it takes until the reserve is there again.
    func cleanOne(urgent: Bool) -> Bool {
        core.cleaning.withLock { _ in
            var any = false
            // A compacted segment may free a page less than the reserve takes: then the next one's dead bytes are needed too.
            for _ in 0..<16 {
                guard cleanOneLocked(urgent: urgent) else {
                    // Then what other writers have allocated ahead.
                    return urgent && trimOpen() || any
                }
                any = true
                if !urgent || reserveIsBack() { return true }
                trimOpen()
                if reserveIsBack() { return true }
            }
            return any
        }
    }

    private func reserveIsBack() -> Bool { core.reserves.allSatisfy { $0.tier.number > 0 || (try? $0.restore()) != nil } }

    /// Gives back what open segments hold behind their ends: a writer's room ahead (`RunReserve`), and the rest of one that was made of the reserve,
    /// without which there may be no room for the next. True if somebody had room ahead.
    @discardableResult
    private func trimOpen() -> Bool {
        var any = false
        for slot in 0..<WorkerPool.size {
            core.pool.withContext(of: slot) { context in
                for tier in core.tiers.indices where context.open[tier].number >= 0 {
                    guard let fd = try? core.table.descriptor(context.open[tier].number) else { continue }
                    let open = context.open[tier]
                    guard (try? Files.truncate(fd, to: open.position)) != nil else { continue }
                    // Of full length: the cleaner may have taken a large page without counting it as room ahead.
                    if open.isFullLength || open.allocated > open.position { any = true }
                    context.open[tier].allocated = open.position
                    context.open[tier].isFullLength = false
                }
            }
        }
        return any
    }

    private func cleanOneLocked(urgent: Bool) -> Bool {
        guard let number = victim(deadSharePercent: urgent ? Self.urgentPercent : core.options.deadSharePercent) else {
            return urgent && sealSpare()
        }
        guard core.table.slot(number).change(.sealed, to: .busy) else { return true }
        let before = core.table.slot(number).usedBytes
        let finished = core.pool.withContext { context in
            func run() -> Bool { CleaningRun(core: core, lookup: lookup, context: context, victim: number, urgent: urgent).run() }
            // The segment appended to may have had no room behind its end. It is sealed now, and the reserve takes its place.
            return run() || urgent && context.open[core.table.slot(number).tier].number < 0 && run()
        }
        core.table.settle(number)
        core.table.grace.collect()
        if finished {
            core.counters.cleanedSegments.add(1, ordering: .relaxed)
            core.counters.cleanedBytes.add(before, ordering: .relaxed)
        }
        return finished
    }

    /// Seals open segments with dead bytes, so that they can be compacted: in a full tier nothing more fits behind their ends. True if there was one.
    private func sealSpare() -> Bool {
        var any = false
        for slot in 0..<WorkerPool.size {
            core.pool.withContext(of: slot) { context in
                for tier in core.tiers.indices where context.open[tier].number >= 0 {
                    let segment = core.table.slot(context.open[tier].number)
                    let used = segment.usedBytes - SegmentTable.headerBytes
                    guard isWorth(used: used, dead: used - segment.liveBytes, Self.urgentPercent) else { continue }
                    core.sealOpen(context, tier)
                    any = true
                }
            }
        }
        return any
    }
}
