import ShrinkLinux
import SystemPackage

// Bringing an object's pages back: copy in → set words → drop, run by run.
//
// Who calls holds the object's reservation and its pin count is zero. A page's word leaves backedUp only after its content is in the
// pool, and the backup's copy is dropped only after that, so an interruption between any two steps loses nothing and a later call goes on
// where this one stopped. The kernel's counterpart is `ttm_pool_restore_and_alloc`.

/// What was done to one object, also when it stopped early.
struct RecoverOutcome {
    var recoveredPages = 0
    var failedPages = 0
    /// Back, but still in the backup too.
    var undroppedPages = 0
    /// The first reason; a bad page does not stop the rest.
    var failure: EngineError?
}

extension ReservedObject {
    /// Recovers every backed-up page of a range that it can. `room` is asked before each run whether so many bytes may be taken.
    func recover(
        _ pages: Range<Int>, _ staging: Staging, room: (Int) throws(EngineError) -> Void, progress: (RecoverOutcome) -> Bool
    ) -> RecoverOutcome {
        var outcome = RecoverOutcome()
        do throws(EngineError) {
            let file = try backup.open(id)
            var known = DataExtent()
            var page = pages.lowerBound
            while page < pages.upperBound {
                guard table.isBackedUp(page) else {
                    page += 1
                    continue
                }
                let run = page..<min(table.endOfBackedUp(from: page, limit: EngineLimits.runPages), pages.upperBound)
                try at(.cancel, run.lowerBound)
                try room(run.count * basePageSize)
                do throws(RunError) {
                    try recover(run, file, &known, staging, &outcome)
                } catch {
                    switch error {
                    case .pages: try recoverOneByOne(run, file, staging, &outcome)
                    case .stop(let reason): throw reason
                    }
                }
                page = run.upperBound
                if !progress(outcome) { throw EngineError(.interrupted, "recovering \(id) was stopped; it goes on when asked again") }
            }
        } catch {
            outcome.failure = outcome.failure ?? error
        }
        return outcome
    }

    private enum RunError: Error {
        /// Some page of the run can't be had.
        case pages(EngineError)
        /// Nothing further makes sense.
        case stop(EngineError)
    }

    /// Where the backup is known to hold data: asked once an extent, since SEEK_HOLE walks it page by page.
    private struct DataExtent {
        private var range = 0..<0

        /// A hole would read as zeros: bytes that the backup does not have are damage (ENODATA), not zeros.
        mutating func require(_ bytes: Range<Int>, in file: BackupFile) throws(Errno) {
            if bytes.lowerBound >= range.lowerBound, bytes.upperBound <= range.upperBound { return }
            guard try file.nextData(from: bytes.lowerBound) == bytes.lowerBound, let hole = try file.nextHole(from: bytes.lowerBound)
            else { throw Errno.noData }
            range = bytes.lowerBound..<hole
            guard bytes.upperBound <= hole else { throw Errno.noData }
        }
    }

    private func recover(
        _ run: Range<Int>, _ file: BackupFile, _ known: inout DataExtent, _ staging: Staging, _ outcome: inout RecoverOutcome
    ) throws(RunError) {
        let offset = run.lowerBound * basePageSize
        let length = run.count * basePageSize
        do throws(EngineError) { try at(.beforeCopyIn, run.lowerBound) } catch { throw .stop(error) }
        do throws(Errno) {
            try known.require(offset..<offset + length, in: file)
            guard try file.read(into: staging.pages(0..<run.count), at: offset) == length else { throw Errno.ioError }
        } catch {
            throw .pages(damaged(run.lowerBound, error))
        }
        let written = Files.write(poolFile.number, UnsafeRawBufferPointer(staging.pages(0..<run.count)), at: poolOffset(run.lowerBound))
        if let error = written.error {
            // What came in is freed again by healing or by the next shrink; the words still say where the truth is.
            freeCopiedIn(run)
            throw .stop(EngineError(.outOfMemory, "no memory to bring \(id) back; free some and try again", errno: error))
        }
        do throws(EngineError) {
            try at(.afterCopyIn, run.lowerBound)
            for page in run { table.set(page, .resident) }
            outcome.recoveredPages += run.count
            try at(.afterRecoverWords, run.lowerBound)
            try at(.beforeDrop, run.lowerBound)
        } catch { throw .stop(error) }
        // The pages are back whatever becomes of the copies; one that can't be dropped is overwritten or removed later.
        do throws(Errno) { try file.drop(at: offset, length: length) } catch { outcome.undroppedPages += run.count }
        do throws(EngineError) { try at(.afterDrop, run.lowerBound) } catch { throw .stop(error) }
    }

    private func recoverOneByOne(
        _ run: Range<Int>, _ file: BackupFile, _ staging: Staging, _ outcome: inout RecoverOutcome
    ) throws(EngineError) {
        var known = DataExtent()
        for page in run {
            do throws(RunError) { try recover(page..<page + 1, file, &known, staging, &outcome) } catch {
                switch error {
                case .pages(let reason):
                    outcome.failedPages += 1
                    outcome.failure = outcome.failure ?? reason
                case .stop(let reason): throw reason
                }
            }
        }
    }

    private func damaged(_ page: Int, _ error: Errno) -> EngineError {
        error == .noData
            ? EngineError(
                .damaged,
                "the backup has lost page \(page) of \(id) or pages behind it; the object can't be pinned, destroy it or restore the store")
            : .backup("reading page \(page) of \(id) or pages behind it from the backup", error)
    }

    private func freeCopiedIn(_ run: Range<Int>) {
        do throws(Errno) {
            try Files.punch(poolFile.number, at: poolOffset(run.lowerBound), length: run.count * basePageSize)
        } catch {}
    }

    // MARK: Reading without changing anything

    /// Copies content at a byte offset; what is in the backup is read there and stays there.
    func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int, _ staging: Staging) throws(EngineError) {
        var done = 0
        var file: BackupFile?
        var known = DataExtent()
        while done < buffer.count {
            let page = (offset + done) / basePageSize
            let inPage = (offset + done) % basePageSize
            let backedUp = table.isBackedUp(page)
            var end = page + 1
            let last = (offset + buffer.count - 1) / basePageSize
            while end <= last, end - page < EngineLimits.runPages, table.isBackedUp(end) == backedUp { end += 1 }
            let run = page..<end
            let staged = staging.pages(0..<run.count)
            if backedUp {
                let open: BackupFile
                if let file { open = file } else { open = try backup.open(id) }
                file = open
                do throws(Errno) {
                    try known.require(page * basePageSize..<end * basePageSize, in: open)
                    guard try open.read(into: staged, at: page * basePageSize) == staged.count else { throw Errno.ioError }
                } catch {
                    throw damaged(page, error)
                }
            } else {
                do throws(Errno) {
                    guard try Files.read(poolFile.number, into: staged, at: poolOffset(page)) == staged.count else { throw Errno.ioError }
                } catch {
                    throw EngineError(.system, "reading pages of \(id) from the pool failed", errno: error)
                }
            }
            let take = min(buffer.count - done, staged.count - inPage)
            UnsafeMutableRawBufferPointer(rebasing: buffer[done..<done + take]).copyMemory(
                from: UnsafeRawBufferPointer(rebasing: staged[inPage..<inPage + take]))
            done += take
        }
    }
}
