import ShrinkLinux
import SystemPackage

// Bringing an object's pages back: copy in → set words → drop, run by run.
//
// Who calls holds the object's reservation and its pin count is zero. A page's word leaves backedUp only after its content is in the
// pool, and the backup's copy is dropped only after that, so an interruption between any two steps loses nothing and a later call goes on
// where this one stopped. The kernel's counterpart is `ttm_pool_restore_and_alloc`.

/// What was done to one object, also when it stopped early. Counted in pages of its pool.
struct RecoverOutcome {
    /// Base pages of one of these pages.
    var unitPages = 1
    var recoveredPages = 0
    var failedPages = 0
    /// Back, but still in the backup too.
    var undroppedPages = 0
    /// The first reason; a bad page does not stop the rest.
    var failure: EngineError?
}

extension ReservedObject {
    /// Holes of the backup up to this length are read over: one call costs more than zeroing so many pages.
    private static let gapPages = 16
    /// Of a store in memory what comes back at once is in memory twice until it is dropped: a quarter of a run, so that three threads together have less than
    /// one run. Where each drop asks a file server, that would cost more than it is worth: a run a thread.
    private func windowPages(_ file: BackupFile) -> Int { file.dropsWithoutServer ? EngineLimits.runPages / 4 : EngineLimits.runPages }

    /// Recovers every backed-up page of a range that it can. Room is taken before each run and given back when its pages are in the pool.
    func recover(_ pages: Range<Int>, _ staging: Staging, room: inout RunRoom, progress: (RecoverOutcome) -> Bool) -> RecoverOutcome {
        var outcome = RecoverOutcome()
        do throws(EngineError) {
            let file = try backup.open(id)
            if let huge = poolFile.huge {
                try recoverUnits(pages, file, huge, &outcome, &room, progress)
                return outcome
            }
            var undropped = 0..<0
            do throws(EngineError) {
                try recover(pages, file, staging, &outcome, &undropped, &room, progress)
            } catch {
                try drop(&undropped, file, &outcome)
                throw error
            }
            try drop(&undropped, file, &outcome)
        } catch {
            // This call fails; the next one may find the server back.
            if error.errno == .socketNotConnected { backup.reconnect() }
            outcome.failure = outcome.failure ?? error
        }
        return outcome
    }

    private func recover(
        _ pages: Range<Int>, _ file: BackupFile, _ staging: Staging, _ outcome: inout RecoverOutcome, _ undropped: inout Range<Int>,
        _ room: inout RunRoom, _ progress: (RecoverOutcome) -> Bool
    ) throws(EngineError) {
        var page = pages.lowerBound
        while page < pages.upperBound {
            guard table.isBackedUp(page) else {
                page += 1
                continue
            }
            let window = self.window(from: page, below: min(pages.upperBound, page + windowPages(file)))
            try at(.cancel, window.lowerBound)
            try room.take(table.backedUpPages(in: window) * basePageSize)
            try recover(window, file, staging, &outcome, &undropped, &room)
            try drop(&undropped, file, &outcome)
            page = window.upperBound
            if !progress(outcome) { throw EngineError(.interrupted, "recovering \(id) was stopped; it goes on when asked again") }
        }
    }

    /// One window: protect → copy in → words → un-protect and wake. Faults of mappings bring pages of it meanwhile, protected, with the same content.
    private func recover(
        _ window: Range<Int>, _ file: BackupFile, _ staging: Staging, _ outcome: inout RecoverOutcome, _ undropped: inout Range<Int>,
        _ room: inout RunRoom
    ) throws(EngineError) {
        let claim = touch.claim(poolPages(window), .copyingIn)
        var ending: PoolTouch.Ending? = .protected
        defer { if let ending { touch.end(claim, ending) } }
        // Faults may have brought some of it before the claim.
        let wanted = table.backedUpPages(in: window)
        if wanted == 0 {
            ending = .writable
            return
        }
        guard touch.protect(poolPages(window)) else {
            throw EngineError(.busy, "a process changes its mappings of \(id) all the time; try again, or end it")
        }
        switch Result(catching: { () throws(RunError) in try recover(window, file, staging, claim, &room) }) {
        case .success:
            outcome.recoveredPages += wanted
            // What lies between this window and the one before is not in the backup, or it would be in one of them.
            undropped = (undropped.isEmpty ? window.lowerBound : undropped.lowerBound)..<window.upperBound
            ending = .writable
            touch.showRecovered(poolPages(window))
            try at(.beforeUnprotect, window.lowerBound)
        case .failure(.pages):
            try drop(&undropped, file, &outcome)
            try recoverOneByOne(window, file, staging, claim, &outcome, &room)
            ending = .writable
        case .failure(.stop(let reason)):
            // The copy may still arrive at any moment; whoever makes it ends the claim.
            if reason.errno == .timedOut { ending = nil }
            throw reason
        }
    }

    /// Frees pages of the backup whose words say that they are resident.
    private func drop(_ pages: inout Range<Int>, _ file: BackupFile, _ outcome: inout RecoverOutcome) throws(EngineError) {
        guard !pages.isEmpty else { return }
        let first = pages.lowerBound
        try at(.afterRecoverWords, first)
        try at(.beforeDrop, first)
        // The pages are back whatever becomes of the copies; one that can't be dropped is overwritten or removed later.
        do throws(Errno) { try file.drop(at: first * basePageSize, length: pages.count * basePageSize) } catch {
            outcome.undroppedPages += pages.count
        }
        pages = 0..<0
        try at(.afterDrop, first)
    }

    private enum RunError: Error {
        /// Some page of the window can't be had.
        case pages(EngineError)
        /// Nothing further makes sense.
        case stop(EngineError)
    }

    /// Pages that come back together: from a backed-up page to a backed-up page, with short gaps only.
    private func window(from first: Int, below limit: Int) -> Range<Int> {
        var end = first + 1
        var page = end
        while page < limit, page - end <= Self.gapPages {
            if table.isBackedUp(page) { end = page + 1 }
            page += 1
        }
        return first..<end
    }

    private func recover(
        _ window: Range<Int>, _ file: BackupFile, _ staging: Staging, _ claim: UInt64, _ room: inout RunRoom
    ) throws(RunError) {
        let offset = window.lowerBound * basePageSize
        let content: Staging.Block
        do throws(EngineError) { try at(.beforeCopyIn, window.lowerBound) } catch { throw .stop(error) }
        do throws(Errno) {
            content = try file.read(window.count, at: offset, staging)
            try requirePresence(window, file, content)
        } catch {
            // Without a server no page can be had, and none of them is damaged.
            if error == .socketNotConnected || error == .connectionAbort {
                throw .stop(.backup("reading page \(window.lowerBound) of \(id) from the backup", error))
            }
            throw .pages(damaged(window.lowerBound, error))
        }
        try placing.withLock { (_) throws(RunError) in try copyIn(window, content, staging, claim) }
        room.land(table.backedUpPages(in: window) * basePageSize)
        do throws(EngineError) {
            try at(.afterCopyIn, window.lowerBound)
            for page in window where table.isBackedUp(page) { table.set(page, .resident) }
        } catch { throw .stop(error) }
    }

    /// A hole reads as zeros, and a page of zeros is never backed up: one that comes back as zeros must prove that it is there (else ENODATA).
    private func requirePresence(_ window: Range<Int>, _ file: BackupFile, _ content: Staging.Block) throws(Errno) {
        for page in window where table.isBackedUp(page) {
            let i = page - window.lowerBound
            guard let base = content.pages(i..<i + 1).baseAddress, isZero(base, basePageSize) else { continue }
            let offset = page * basePageSize
            guard try file.nextData(from: offset) == offset else { throw Errno.noData }
        }
    }

    /// Writes the backed-up pages of a window into the pool.
    private func copyIn(_ window: Range<Int>, _ content: Staging.Block, _ staging: Staging, _ claim: UInt64) throws(RunError) {
        var pages = RunMask()
        for page in window where table.isBackedUp(page) { pages.insert(page - window.lowerBound) }
        do throws(Errno) {
            try poolFile.write(
                content, pages, at: poolOffset(window.lowerBound), .undoCopyIn(touch, claim, pages, first: firstPage + window.lowerBound))
        } catch {
            if error == .timedOut || error == .resourceBusy {
                // The call may still read from the buffer.
                if error == .timedOut { staging.replace(content) }
                throw .stop(.poolFile("bringing \(id) back failed", error))
            }
            // The words still say where the truth is; what came in would only be taken for a client's stray pages.
            freeCopiedIn(window)
            throw .stop(EngineError(.outOfMemory, "no memory to bring \(id) back; free some and try again", errno: error))
        }
    }

    private func recoverOneByOne(
        _ window: Range<Int>, _ file: BackupFile, _ staging: Staging, _ claim: UInt64, _ outcome: inout RecoverOutcome,
        _ room: inout RunRoom
    ) throws(EngineError) {
        for page in window where table.isBackedUp(page) {
            var single = page..<page + 1
            switch Result(catching: { () throws(RunError) in try recover(single, file, staging, claim, &room) }) {
            case .success:
                outcome.recoveredPages += 1
                touch.showRecovered(poolPages(page..<page + 1))
                try drop(&single, file, &outcome)
            case .failure(.pages(let reason)):
                outcome.failedPages += 1
                outcome.failure = outcome.failure ?? reason
            case .failure(.stop(let reason)): throw reason
            }
        }
    }

    /// The first page of a run whose word promises what the backup has not.
    private func firstLost(_ run: Range<Int>, _ file: BackupFile) -> Int {
        run.first { page in
            guard table.isBackedUp(page), let next = try? file.nextData(from: page * basePageSize) else { return table.isBackedUp(page) }
            return next != page * basePageSize
        } ?? run.lowerBound
    }

    func damaged(_ page: Int, _ error: Errno) -> EngineError {
        error == .noData
            ? EngineError(
                .damaged,
                "the backup has lost page \(page) of \(id) or pages behind it; the object can't be pinned, destroy it or restore the store")
            : .backup("reading page \(page) of \(id) or pages behind it from the backup", error)
    }

    private func freeCopiedIn(_ pages: Range<Int>) {
        for page in pages where table.isBackedUp(page) {
            try? poolFile.punch(at: poolOffset(page), length: basePageSize)
        }
    }

    // MARK: Reading without changing anything

    /// Copies content at a byte offset; what is in the backup is read there and stays there.
    func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int, _ staging: Staging) throws(EngineError) {
        if let huge = poolFile.huge { return try readUnits(into: buffer, at: offset, huge) }
        var done = 0
        var file: BackupFile?
        while done < buffer.count {
            let page = (offset + done) / basePageSize
            let inPage = (offset + done) % basePageSize
            let backedUp = table.isBackedUp(page)
            var end = page + 1
            let last = (offset + buffer.count - 1) / basePageSize
            while end <= last, end - page < EngineLimits.runPages, table.isBackedUp(end) == backedUp { end += 1 }
            let run = page..<end
            var content = staging.block
            if backedUp {
                let open: BackupFile
                if let file { open = file } else { open = try backup.open(id) }
                file = open
                do throws(Errno) {
                    content = try open.read(run.count, at: page * basePageSize, staging)
                    try requirePresence(run, open, content)
                } catch {
                    throw damaged(error == .noData ? firstLost(run, open) : page, error)
                }
            } else {
                let staged = content.pages(0..<run.count)
                do throws(Errno) {
                    guard try Files.read(poolFile.number, into: staged, at: poolOffset(page)) == staged.count else { throw Errno.ioError }
                } catch {
                    throw EngineError(.system, "reading pages of \(id) from the pool failed", errno: error)
                }
            }
            let staged = content.pages(0..<run.count)
            let take = min(buffer.count - done, staged.count - inPage)
            UnsafeMutableRawBufferPointer(rebasing: buffer[done..<done + take]).copyMemory(
                from: UnsafeRawBufferPointer(rebasing: staged[inPage..<inPage + take]))
            done += take
        }
    }
}
