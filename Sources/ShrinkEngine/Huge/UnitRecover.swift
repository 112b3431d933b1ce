import ShrinkLinux
import SystemPackage

// Bringing units of huge pages back: read the whole unit → place it in one step → word → drop. Without a free huge page nothing changes, and the backup
// keeps its copy.

extension ReservedObject {
    /// Recovers every unit of a range that is in the backup, as far as it can. Room is looked for before each.
    func recoverUnits(
        _ units: Range<Int>, _ file: BackupFile, _ huge: HugeMemory, _ outcome: inout RecoverOutcome,
        _ room: inout RunRoom, _ progress: (RecoverOutcome) -> Bool
    ) throws(EngineError) {
        for unit in units where table.isBackedUp(unit) {
            try at(.cancel, unit)
            try room.take(unitBytes)
            try recover(unit: unit, file, huge, &outcome)
            if !progress(outcome) { throw EngineError(.interrupted, "recovering \(id) was stopped; it goes on when asked again") }
        }
    }

    private func recover(
        unit: Int, _ file: BackupFile, _ huge: HugeMemory, _ outcome: inout RecoverOutcome
    ) throws(EngineError) {
        do {
            let claim = touch.claim(poolPages(unit..<unit + 1), .copyingIn)
            var ending = PoolTouch.Ending.protected
            defer { touch.end(claim, ending) }
            // A fault may have brought it before the claim.
            guard table.isBackedUp(unit) else {
                ending = .writable
                return
            }
            guard touch.protect(poolPages(unit..<unit + 1)) else {
                throw EngineError(.busy, "a process changes its mappings of \(id) all the time; try again, or end it")
            }
            try at(.beforeCopyIn, unit)
            let failure = try huge.buffers.withUnit { (content) throws(EngineError) -> EngineError? in
                do throws(Errno) { try fetch(unit: unit, file, into: content) } catch {
                    // Without a server no page can be had, and none of them is damaged.
                    if error == .socketNotConnected || error == .connectionAbort {
                        throw .backup("reading page \(unit) of \(id) from the backup", error)
                    }
                    return damaged(unit, error)
                }
                try place(unit: unit, UnsafeRawBufferPointer(content), huge)
                return nil
            }
            if let failure {
                ending = .writable
                outcome.failedPages += 1
                outcome.failure = outcome.failure ?? failure
                return
            }
            try at(.afterCopyIn, unit)
            table.set(unit, .resident)
            outcome.recoveredPages += 1
            touch.showRecovered(poolPages(unit..<unit + 1))
            ending = .writable
            try at(.beforeUnprotect, unit)
        }
        try at(.afterRecoverWords, unit)
        try at(.beforeDrop, unit)
        // The unit is back whatever becomes of the copy; one that can't be dropped is dropped before the next, or removed.
        do throws(Errno) { try file.drop(at: unit * unitBytes, length: unitBytes) } catch { outcome.undroppedPages += 1 }
        try at(.afterDrop, unit)
    }

    /// Reads a unit of the backup. ENODATA: some of its base pages are not there.
    func fetch(unit: Int, _ file: BackupFile, into content: UnsafeMutableRawBufferPointer) throws(Errno) {
        guard try file.read(into: content, at: unit * unitBytes) == unitBytes else { throw Errno.ioError }
        guard Self.storedBasePages(content) == table.storedBasePages(unit) else { throw Errno.noData }
    }

    /// Places a unit in the pool, whole. What a client wrote there while the backup had it goes first.
    private func place(unit: Int, _ content: UnsafeRawBufferPointer, _ huge: HugeMemory) throws(EngineError) {
        do throws(Errno) {
            do throws(Errno) { try huge.place(firstPage + unit, content) } catch {
                guard error == .fileExists else { throw error }
                try poolFile.punch(at: poolOffset(unit), length: unitBytes)
                try huge.place(firstPage + unit, content)
            }
        } catch {
            if error == .noMemory || error == .fileExists { throw .noHugePage("bringing page \(unit) of \(id) back", error) }
            throw .poolFile("bringing page \(unit) of \(id) back failed", error)
        }
    }

    // MARK: Reading without changing anything

    func readUnits(into buffer: UnsafeMutableRawBufferPointer, at offset: Int, _ huge: HugeMemory) throws(EngineError) {
        var file: BackupFile?
        var done = 0
        while done < buffer.count {
            let unit = (offset + done) / unitBytes
            let inUnit = (offset + done) % unitBytes
            let take = min(buffer.count - done, unitBytes - inUnit)
            let target = UnsafeMutableRawBufferPointer(rebasing: buffer[done..<done + take])
            if table.isBackedUp(unit) {
                let open: BackupFile
                if let file { open = file } else { open = try backup.open(id) }
                file = open
                try huge.buffers.withUnit { (content) throws(EngineError) in
                    do throws(Errno) { try fetch(unit: unit, open, into: content) } catch { throw damaged(unit, error) }
                    target.copyMemory(from: UnsafeRawBufferPointer(rebasing: content[inUnit..<inUnit + take]))
                }
            } else {
                do throws(Errno) {
                    guard try Files.read(poolFile.number, into: target, at: poolOffset(unit) + inUnit) == take else { throw Errno.ioError }
                } catch {
                    throw EngineError(.system, "reading pages of \(id) from the pool failed", errno: error)
                }
            }
            done += take
        }
    }

    // MARK: Healing

    /// As `healStore` of base pages. A unit of which the backup has fewer base pages than the word says is lost, and stays where it is.
    func healUnitsInStore(_ file: BackupFile, _ report: inout HealingReport) throws(Errno) {
        for unit in 0..<pageCount {
            let found = try basePagesInStore(unit, file)
            if table.isBackedUp(unit) {
                if found < table.storedBasePages(unit) { report.lost += 1 }
            } else if found > 0 {
                try file.drop(at: unit * unitBytes, length: unitBytes)
                report.punchedInStore += 1
            }
        }
    }

    private func basePagesInStore(_ unit: Int, _ file: BackupFile) throws(Errno) -> Int {
        let end = (unit + 1) * unitBytes
        var offset = unit * unitBytes
        var pages = 0
        while offset < end, let data = try file.nextData(from: offset), data < end {
            let hole = min(try file.nextHole(from: data) ?? end, end)
            pages += (hole - data) / basePageSize
            offset = hole
        }
        return pages
    }
}

extension EngineError {
    /// Wanting: a huge page.
    static func noHugePage(_ action: String, _ error: Errno? = nil) -> EngineError {
        EngineError(
            .outOfMemory,
            "\(action): no huge page of 2 MiB is free; free some (shrink, unpin, destroy objects of pools of huge pages), or raise vm.nr_hugepages (sysctl)",
            errno: error)
    }
}
