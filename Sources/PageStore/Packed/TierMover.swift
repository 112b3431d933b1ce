import ShrinkLinux
import Synchronization
import SystemPackage

/// Moves whole segments to the next tier: copied in large sequential writes, synced there under another name, renamed, and only then
/// gone above. No entry changes, because an entry names the segment's number and a number is in one tier at a time.
struct TierMover: Sendable {
    static let suffix = ".moving"
    private static let copyBytes = 1 << 20

    let core: StoreCore

    /// Moves a sealed segment down. True if it is below afterwards; false if it is somebody else's just now, or gone.
    func move(_ number: Int) throws(Errno) -> Bool {
        let result: Result<Bool, Errno> = core.moving.withLock { _ in
            do throws(Errno) { return .success(try moveLocked(number)) } catch { return .failure(error) }
        }
        return try result.get()
    }

    private func moveLocked(_ number: Int) throws(Errno) -> Bool {
        let slot = core.table.slot(number)
        guard slot.change(.sealed, to: .busy) else { return slot.state == .retired || slot.state == .free }
        defer {
            core.table.settle(number)
            core.table.grace.collect()
        }
        let from = slot.tier
        let to = from + 1
        guard to < core.tiers.count else { return true }
        if slot.livePages == 0 { return true }
        do throws(Errno) {
            try core.pool.withContext { _ throws(Errno) in
                try copy(number, from: core.tiers[from], to: core.tiers[to], bytes: slot.usedBytes)
            }
        } catch {
            if error != .diskQuotaExceeded { core.tiers[to].note("moving segment \(number) here", error) }
            throw error
        }
        slot.tier = to
        core.table.releaseDescriptor(number)
        KillPoint.tierFlipped.pass()
        try? Files.remove(StoreTier.segmentName(number), at: core.tiers[from].segments.number)
        core.counters.movedSegments.add(1, ordering: .relaxed)
        core.counters.movedBytes.add(slot.usedBytes, ordering: .relaxed)
        return true
    }

    private func copy(_ number: Int, from: StoreTier, to: StoreTier, bytes: Int) throws(Errno) {
        let name = StoreTier.segmentName(number)
        let buffer = try MappedMemory(anonymous: Self.copyBytes, populated: false)
        let source = try core.table.descriptor(number)
        try core.budget.spend(bytes)
        let target = try Files.open(name + Self.suffix, [.readWrite, .create, .truncate, .noFollow], at: to.segments.number)
        do throws(Errno) {
            var position = 0
            while position < bytes {
                let count = min(Self.copyBytes, bytes - position)
                let got = try Files.read(source, into: UnsafeMutableRawBufferPointer(start: buffer.base, count: count), at: position)
                guard got == count else { throw .ioError }
                if let error = Files.write(target.number, UnsafeRawBufferPointer(start: buffer.base, count: count), at: position).error {
                    throw error
                }
                position += count
            }
            KillPoint.tierCopied.pass()
            try Files.sync(target.number)
            KillPoint.tierSynced.pass()
            try Files.rename(name + Self.suffix, to: name, at: to.segments.number)
            try to.syncNames()
            KillPoint.tierRenamed.pass()
        } catch {
            try? Files.remove(name + Self.suffix, at: to.segments.number)
            throw error
        }
        core.table.slot(number).isDirty = false
    }

    /// Moves what was sealed longer ago than `--age` and isn't mostly dead; returns whether anything moved.
    func moveAged(now: UInt32) -> Bool {
        guard let age = core.options.ageSeconds, core.tiers.count > 1 else { return false }
        var any = false
        for number in 0..<core.table.numberLimit {
            let slot = core.table.slot(number)
            guard slot.state == .sealed, slot.tier < core.tiers.count - 1, Int(now) - Int(slot.sealedAt) >= age else { continue }
            // The cleaner makes less of these first.
            if (slot.usedBytes - slot.liveBytes) * 100 > slot.usedBytes * core.options.deadSharePercent, !slot.isDamaged { continue }
            do throws(Errno) { if try move(number) { any = true } } catch { return any }
        }
        return any
    }
}
