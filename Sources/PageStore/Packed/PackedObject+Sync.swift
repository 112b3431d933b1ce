import ShrinkLinux
import Synchronization
public import SystemPackage

extension PackedObject {
    /// With a second tier: moves the segments that hold this object's pages there. On one tier that is a disk: waits until it has them.
    /// EDQUOT if the day's write budget is spent; the pages stay where they are.
    public func sync() throws(Errno) {
        storeTimes()
        if core.tiers.count > 1 { try moveDown() }
        try syncSegments()
        try lock.shared { () throws(Errno) in try syncIndex() }
    }

    private func segments(_ wanted: (SegmentTable.Slot) -> Bool) -> [Int] {
        lock.shared {
            var numbers: Set<Int> = []
            var last = -1
            forEachEntry(in: 0..<index.pointee.capacity) { page, entry in
                guard entry.isBlock else { return }
                let number = core.geometry.segment(of: entry.location)
                if number == last { return }
                last = number
                if entry.kind(object: id.rawValue, page: page) == .block, wanted(core.table.slot(number)) { numbers.insert(number) }
            }
            return numbers.sorted()
        }
    }

    private func moveDown() throws(Errno) {
        // What the cleaner has just now is looked at again; each round it is elsewhere or done.
        var rounds = 0
        while true {
            let numbers = segments { $0.tier < core.tiers.count - 1 && $0.state != .missing }
            if numbers.isEmpty { return }
            seal(Set(numbers))
            var moved = false
            for number in numbers where try TierMover(core: core).move(number) { moved = true }
            if !moved {
                rounds += 1
                if rounds > 1000 { throw .resourceBusy }
                // Until the cleaner is done with the segment it has.
                core.cleaning.withLock { _ in }
            }
        }
    }

    /// Ends appending to these segments, waiting for whoever does.
    private func seal(_ numbers: Set<Int>) {
        for context in core.pool.contexts {
            core.pool.withContext(of: context.slot) { context in
                for tier in core.tiers.indices where numbers.contains(context.open[tier].number) { core.sealOpen(context, tier) }
            }
        }
    }

    private func syncSegments() throws(Errno) {
        for number in segments({ $0.isDirty && $0.tier < core.tiers.count && !core.tiers[$0.tier].inMemory }) {
            try core.pool.withContext { _ throws(Errno) in
                let slot = core.table.slot(number)
                slot.isDirty = false
                do throws(Errno) {
                    try Files.sync(try core.table.descriptor(number))
                    try core.tiers[slot.tier].syncNames()
                } catch {
                    slot.isDirty = true
                    // Compacted away meanwhile: its pages are in a segment that the cleaner synced.
                    if error != .noSuchFileOrDirectory { throw error }
                }
            }
        }
    }

    /// Puts the index where it survives a power cut, or a copy of it if its own tier is memory. The caller holds the lock, shared.
    func syncIndex() throws(Errno) {
        try requireIndex()
        if core.tiers[0].inMemory {
            guard let last = core.tiers.last, last.number > 0 else { return }
            do throws(Errno) { try IndexCopies.write(self, to: last) } catch {
                last.note("writing a copy of an index", error)
                throw error
            }
            return
        }
        try Files.sync(index.pointee.file.number)
        try core.syncObjectNames()
    }
}
