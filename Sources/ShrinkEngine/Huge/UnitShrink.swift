import ShrinkLinux
import SystemPackage

// Shrinking an object of huge pages, unit by unit: protect → copy out → word → punch. One word says of 512 base pages at once where they are, so a death
// between two steps leaves a unit whole in one place, never half here and half there.
//
// The backup sees base pages: those of a unit that are all zeros are left out of it, and the word says how many are in.

extension ReservedObject {
    /// As `shrink` of base pages; figures are units.
    func shrinkUnits(
        _ goalUnits: Int, _ writeback: Bool, _ file: BackupFile, _ huge: HugeMemory, _ outcome: inout ShrinkOutcome,
        _ progress: (ShrinkOutcome) -> Bool
    ) throws(EngineError) {
        var unit = 0
        while outcome.freedPages < goalUnits, let extent = try nextExtent(from: unit) {
            unit = extent.lowerBound
            try at(.cancel, unit)
            if let failure = try shrink(unit: unit, writeback, file, huge, &outcome) { throw failure }
            unit += 1
            if !progress(outcome) { throw EngineError(.interrupted, "shrinking \(id) was stopped; it goes on when asked again") }
        }
    }

    /// Returns why the unit stays, if the backup did not take it.
    private func shrink(
        unit: Int, _ writeback: Bool, _ file: BackupFile, _ huge: HugeMemory, _ outcome: inout ShrinkOutcome
    ) throws(EngineError) -> EngineError? {
        let claim = touch.claim(poolPages(unit..<unit + 1), .copyingOut)
        var ending: PoolTouch.Ending? = .writable
        defer { if let ending { touch.end(claim, ending) } }
        // A process that changes its mappings all the time keeps its pages.
        guard touch.protect(poolPages(unit..<unit + 1)) else { return nil }
        try at(.afterProtect, unit)
        try at(.beforeCopyOut, unit)
        outcome.scannedPages += 1
        let isStray = table.isBackedUp(unit)
        var stored = 0
        if !isStray {
            switch try copyOut(unit: unit, writeback, file, huge) {
            case .success(let basePages): stored = basePages
            case .failure(let failure): return failure
            }
        }
        try at(.afterCopyOut, unit)
        if touch.freeze(claim).contains(0) {
            // Written meanwhile: the copy is worth nothing; one that can't be dropped is dropped or overwritten before the next.
            if stored > 0 { try? file.drop(at: unit * unitBytes, length: unitBytes) }
            return nil
        }
        // From the word on, until the memory is gone, nobody may write.
        ending = .protected
        if isStray {
            outcome.strayPages += 1
        } else if stored > 0 {
            if table.isZero(unit) { outcome.zeroWordsDelta -= 1 }
            table.setBackedUp(unit, storedBasePages: stored)
            outcome.backedUpPages += 1
        } else {
            if !table.isZero(unit) { outcome.zeroWordsDelta += 1 }
            table.set(unit, .zero)
            outcome.zeroPages += 1
        }
        try at(.afterWords, unit)
        do throws(EngineError) {
            try free(unit..<unit + 1, .endClaim(touch, claim))
        } catch {
            // The memory may still go at any moment: until it is gone nobody may have the unit.
            if error.errno == .timedOut { ending = nil }
            throw error
        }
        outcome.freedPages += 1
        ending = .writable
        try at(.afterFree, unit)
        return nil
    }

    /// How many base pages of the unit the backup has now, or why it has none.
    private func copyOut(
        unit: Int, _ writeback: Bool, _ file: BackupFile, _ huge: HugeMemory
    ) throws(EngineError) -> Result<Int, EngineError> {
        try huge.buffers.withUnit { (content) throws(EngineError) -> Result<Int, EngineError> in
            do throws(Errno) {
                guard try Files.read(poolFile.number, into: content, at: poolOffset(unit)) == unitBytes else { throw Errno.ioError }
            } catch {
                throw EngineError(.system, "reading a huge page of \(id) from the pool failed", errno: error)
            }
            let stored = Self.storedBasePages(content)
            guard stored > 0 else { return .success(0) }
            do throws(Errno) {
                // What an earlier copy left under pages that are zeros now would come back in their place.
                let start = unit * unitBytes
                if let data = try file.nextData(from: start), data < start + unitBytes { try file.drop(at: start, length: unitBytes) }
            } catch { return .failure(.backup("making room for page \(unit) of \(id)", error)) }
            var failure = write(content, unit, writeback, file)
            var writebacksLeft = writeback ? Self.writebacks : 0
            while failure?.code == .backupFull, writebacksLeft > 0 {
                do throws(Errno) { try file.sync() } catch { throw .backup("writing back \(id)", error) }
                failure = write(content, unit, writeback, file)
                writebacksLeft -= 1
            }
            if let failure {
                try? file.drop(at: unit * unitBytes, length: unitBytes)
                return .failure(failure)
            }
            return .success(stored)
        }
    }

    /// Writes the runs of base pages that are not zeros.
    private func write(
        _ content: UnsafeMutableRawBufferPointer, _ unit: Int, _ writeback: Bool, _ file: BackupFile
    ) -> EngineError? {
        var page = 0
        while page < HugeMemory.basePages {
            if Self.isZeroPage(content, page) {
                page += 1
                continue
            }
            var end = page + 1
            while end < HugeMemory.basePages, end - page < EngineLimits.runPages, !Self.isZeroPage(content, end) { end += 1 }
            let run = UnsafeRawBufferPointer(rebasing: content[page * basePageSize..<end * basePageSize])
            if let error = file.write(run, at: unit * unitBytes + page * basePageSize, writeback: writeback).error {
                return .backup("backing up page \(unit) of \(id)", error)
            }
            page = end
        }
        return nil
    }

    @inline(__always)
    private static func isZeroPage(_ content: UnsafeMutableRawBufferPointer, _ page: Int) -> Bool {
        isZero(content.baseAddress! + page * basePageSize, basePageSize)
    }

    /// Base pages of a unit that are not all zeros.
    static func storedBasePages(_ content: UnsafeMutableRawBufferPointer) -> Int {
        (0..<HugeMemory.basePages).count { !isZeroPage(content, $0) }
    }
}
