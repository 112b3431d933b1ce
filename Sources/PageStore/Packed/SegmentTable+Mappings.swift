import ShrinkLinux
import Synchronization
import SystemPackage

/// Segments of memory tiers are read where they lie. A mapping is made at the first read and goes with the descriptor, and before it when there are too many.
extension SegmentTable {
    /// These bytes of the segment, which may be another's by the time they are read: checksums tell. nil: they are to be had with `pread` if at all.
    /// The caller is pinned and doesn't use them after unpinning.
    @inline(__always) func mapped(_ number: Int, _ range: Range<Int>) -> UnsafeRawPointer? {
        let slot = slot(number)
        let word = AtomicMemory.load(slot.mapping)
        guard word != SegmentMapping.noneToBeHad,
            let mapping = SegmentMapping(word: word) ?? map(number), range.upperBound <= slot.usedBytes
        else { return nil }
        return mapping.base + range.lowerBound
    }

    @inline(never) private func map(_ number: Int) -> SegmentMapping? {
        let slot = slot(number)
        let tier = slot.tier
        guard !isPast(slot, tier: tier), slot.state != .missing, tier < tiers.count else { return nil }
        guard tiers[tier].inMemory else {
            install(SegmentMapping.noneToBeHad, number, tier: tier)
            return nil
        }
        guard let fd = try? descriptor(number) else { return nil }
        guard let mapping = try? SegmentMapping(of: fd, bytes: geometry.segmentBytes) else {
            install(SegmentMapping.noneToBeHad, number, tier: tier)
            return nil
        }
        if let beforeMapping { beforeMapping() }
        mappings.add(1, ordering: .relaxed)
        guard install(mapping.word, number, tier: tier) else {
            mappings.subtract(1, ordering: .relaxed)
            mapping.end()
            return SegmentMapping(word: AtomicMemory.load(slot.mapping))
        }
        if mappings.load(ordering: .relaxed) > mappingLimit { dropSome(but: number) }
        return mapping
    }

    /// An eighth of the mappings, in turn.
    private func dropSome(but number: Int) {
        let chosen = inTurn(max(1, mappingLimit / 8) + 1) { SegmentMapping(word: AtomicMemory.load($0.mapping)) != nil }
        for other in chosen where other != number { dropMapping(other) }
    }

    /// False if another was faster.
    @discardableResult
    private func install(_ word: UInt64, _ number: Int, tier: Int) -> Bool {
        guard AtomicMemory.replace(slot(number).mapping, SegmentMapping.notYet, with: word) else { return false }
        // Released between the look at the slot and the exchange: nobody would do it again.
        if isPast(slot(number), tier: tier) { dropMapping(number) }
        return true
    }

    /// Takes the mapping out of use; nil if there is none. What the caller gets is ended by way of `Grace`.
    func takeMapping(_ number: Int) -> SegmentMapping? {
        let mapping = SegmentMapping(word: AtomicMemory.exchange(slot(number).mapping, SegmentMapping.notYet))
        if mapping != nil { mappings.subtract(1, ordering: .relaxed) }
        return mapping
    }

    private func dropMapping(_ number: Int) {
        if let mapping = takeMapping(number) { grace.retire(-1, mapping) }
    }

    /// Something that was read is not as it should be. If bytes of the mapping could not be had, the segment is read with `pread` from now on.
    func leaveLostMapping(_ number: Int) {
        let word = slot(number).mapping
        let seen = AtomicMemory.load(word)
        guard let mapping = SegmentMapping(word: seen), mapping.isLost, AtomicMemory.replace(word, seen, with: SegmentMapping.noneToBeHad)
        else { return }
        mappings.subtract(1, ordering: .relaxed)
        grace.retire(-1, mapping)
    }
}
