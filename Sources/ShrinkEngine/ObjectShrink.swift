import ShrinkLinux
import SystemPackage

// Shrinking one object, page by page and in bounded memory: copy out → set words → free, run by run.
//
// Who calls holds the object's reservation and its pin count is zero, so no client may write its pages. The word of a page becomes
// backedUp only after the page is in the backup, and the page is freed only after its word says so: whatever stops this between two steps
// leaves each page with one valid home, and healing removes the other copy. The kernel's counterpart is `ttm_pool_backup`.

/// One object's memory, words and backup, while its reservation is held.
struct ReservedObject {
    let id: ObjectID
    let poolFile: PoolFile
    /// See `Pool.placing`.
    let placing: Monitor<UInt8>
    let firstPage: Int
    let table: PageTable
    let backup: any Backup
    let touch: PoolTouch
    let faults: FaultHook?

    var pageCount: Int { table.count }
    /// Bytes of one of its pages.
    var unitBytes: Int { poolFile.unitBytes }
    var unitPages: Int { unitBytes / basePageSize }
    func poolOffset(_ page: Int) -> Int { (firstPage + page) * unitBytes }
    /// Pages of the object, counted in the pool.
    func poolPages(_ pages: Range<Int>) -> Range<Int> { firstPage + pages.lowerBound..<firstPage + pages.upperBound }

    @inline(__always)
    func at(_ point: FaultPoint, _ page: Int) throws(EngineError) {
        guard let faults else { return }
        if let error = faults(point, id, PageIndex(rawValue: page)) { throw error }
    }
}

/// What was done to one object, also when it stopped early. Counted in pages of its pool.
struct ShrinkOutcome {
    /// Base pages of one of these pages.
    var unitPages = 1
    var scannedPages = 0
    var backedUpPages = 0
    var zeroPages = 0
    var freedPages = 0
    var storedBytes = 0
    var isStoredInMemory = false
    /// Freed without a copy.
    var purgedPages = 0
    /// Words that were backed up and are purged now.
    var droppedPages = 0
    var purgedWordsDelta = 0
    /// Change of the number of words that say zero; a zero page that was written since is one less.
    var zeroWordsDelta = 0
    /// Pages that a client wrote while the backup had them: the backup wins, they are freed.
    var strayPages = 0
    /// Nothing of the object is left in the pool.
    var isExhausted = false
    var failure: EngineError?

    var freedBasePages: Int { freedPages * unitPages }
    var scannedBasePages: Int { scannedPages * unitPages }
}

extension ReservedObject {
    /// Frees pages until `goalPages` are freed or none is left. A failure at page k leaves every page before k backed up and every page from k on
    /// resident.
    func shrink(goalPages: Int, writeback: Bool = false, _ staging: Staging, progress: (ShrinkOutcome) -> Bool) -> ShrinkOutcome {
        var outcome = ShrinkOutcome()
        do throws(EngineError) {
            let file = try backup.open(id)
            let storedBefore = file.storedBytes()
            defer { outcome.storedBytes = file.storedBytes() - storedBefore }
            if let huge = poolFile.huge {
                try shrinkUnits(goalPages, writeback, file, huge, &outcome, progress)
            } else {
                try shrink(goalPages, writeback, file, staging, &outcome, progress)
            }
            outcome.isExhausted = try nextExtent(from: 0) == nil
        } catch {
            // This call fails; the next one may find the server back.
            if error.errno == .socketNotConnected { backup.reconnect() }
            outcome.failure = error
        }
        return outcome
    }

    private func shrink(
        _ goalPages: Int, _ writeback: Bool, _ file: BackupFile, _ staging: Staging, _ outcome: inout ShrinkOutcome,
        _ progress: (ShrinkOutcome) -> Bool
    ) throws(EngineError) {
        var going = GoingPages()
        do throws(EngineError) {
            try shrink(goalPages, writeback, file, staging, &outcome, &going, progress)
        } catch {
            try? finish(&going, &outcome)
            throw error
        }
        try finish(&going, &outcome)
    }

    /// Run by run. While one is copied out, the one before it is freed and the next is looked for: where clients are strangers, by the pool's thread.
    private func shrink(
        _ goalPages: Int, _ writeback: Bool, _ file: BackupFile, _ staging: Staging, _ outcome: inout ShrinkOutcome,
        _ going: inout GoingPages, _ progress: (ShrinkOutcome) -> Bool
    ) throws(EngineError) {
        var search = SurveyedRun.Search(page: firstPage, end: firstPage + pageCount, most: 0, known: firstPage..<firstPage)
        var survey: PoolFile.CallUnderWay?
        while outcome.freedPages + going.count < goalPages {
            if survey == nil {
                search.most = min(EngineLimits.runPages, goalPages - outcome.freedPages - going.count)
                survey = try begin(search)
            }
            guard let found = try finish(&survey) else { return }
            let run = found.pages.lowerBound - firstPage..<found.pages.upperBound - firstPage
            try at(.cancel, run.lowerBound)
            (search.page, search.known) = (found.pages.upperBound, found.known)
            search.most = min(EngineLimits.runPages, goalPages - outcome.freedPages - going.count - found.resident.count)
            if search.most > 0 { survey = try begin(search) }
            let failure = try shrink(run, found.resident, writeback, file, staging, &outcome, &going)
            if let failure { throw failure }
            if !progress(outcome) { throw EngineError(.interrupted, "shrinking \(id) was stopped; it goes on when asked again") }
        }
    }

    private func begin(_ search: SurveyedRun.Search) throws(EngineError) -> PoolFile.CallUnderWay {
        do throws(Errno) { return try poolFile.survey(search) } catch { throw surveyFailed(error) }
    }

    /// Takes the answer; nil if nothing takes memory any more.
    private func finish(_ survey: inout PoolFile.CallUnderWay?) throws(EngineError) -> SurveyedRun? {
        guard var call = survey.take() else { return nil }
        do throws(Errno) { return try call.finish().survey } catch { throw surveyFailed(error) }
    }

    private func surveyFailed(_ errno: Errno) -> EngineError { .poolFile("finding the resident pages of \(id) failed", errno) }

    /// Pages whose words say where they are, and that are freed just now.
    private struct GoingPages: ~Copyable {
        var call: PoolFile.CallUnderWay?
        var first = 0
        var count = 0
        var claim: UInt64 = 0
    }

    /// Waits until the pages are gone, if there are any, and counts them.
    private func finish(_ going: inout GoingPages, _ outcome: inout ShrinkOutcome) throws(EngineError) {
        guard var call = going.call.take() else { return }
        let count = going.count
        going.count = 0
        do throws(Errno) { _ = try call.finish() } catch {
            // A call that was not made has left the claim; one that is stuck may still free the memory at any moment, and ends it then.
            if error != .timedOut { touch.end(going.claim, .protected) }
            throw freeFailed(error)
        }
        outcome.freedPages += count
        try at(.afterFree, going.first)
    }

    private func freeFailed(_ errno: Errno) -> EngineError {
        .poolFile("freeing pages of \(id) in the pool failed; they are in the backup", errno)
    }

    /// One run: protect → copy out → words → free → wake. What a mapping writes meanwhile stays: it is in use. Returns why it stopped half way.
    /// It is freed while the next is copied out: `going` is the run before at first, then this one.
    ///
    /// Pages that are not in `resident` are nobody's business here: they may be in the backup, or become resident meanwhile.
    private func shrink(
        _ run: Range<Int>, _ resident: RunMask, _ writeback: Bool, _ file: BackupFile, _ staging: Staging, _ outcome: inout ShrinkOutcome,
        _ going: inout GoingPages
    ) throws(EngineError) -> EngineError? {
        let claim = touch.claim(poolPages(run), .copyingOut)
        var ending: PoolTouch.Ending? = .writable
        defer { if let ending { touch.end(claim, ending) } }
        // A process that changes its mappings all the time keeps its pages.
        guard touch.protect(poolPages(run)) else { return nil }
        try at(.afterProtect, run.lowerBound)
        try at(.beforeCopyOut, run.lowerBound)
        let content = file.blockToWrite(staging, writeback: writeback)
        try readPool(run, content)
        outcome.scannedPages += resident.count
        var (done, failure) = copyOut(run, resident, content, writeback, file, staging)
        var writebacksLeft = writeback ? Self.writebacks : 0
        while failure?.code == .backupFull, writebacksLeft > 0 {
            // What lies in the first tier goes to the next one now; then there is room, or others took it meanwhile, or there is none.
            do throws(Errno) { try file.sync() } catch { throw .backup("writing back \(id)", error) }
            (done, failure) = copyOut(run, resident, content, writeback, file, staging)
            writebacksLeft -= 1
        }
        // Before more words are set: one run at most is neither counted nor given up.
        try finish(&going, &outcome)
        guard done > 0 else { return failure }
        try at(.afterCopyOut, run.lowerBound)
        let hot = touch.freeze(claim)
        // From the first word on, until the memory is gone, nobody may write.
        ending = .protected
        let safe = resident.intersection(RunMask(first: done))
        let cold = safe.subtracting(hot)
        try setWords(run, cold, content, &outcome)
        try at(.afterWords, run.lowerBound)
        if cold.isEmpty {
            ending = .writable
        } else {
            do throws(Errno) {
                going.call = try poolFile.release(cold, first: firstPage + run.lowerBound, touch, claim: claim)
            } catch { throw freeFailed(error) }
            (going.first, going.count, going.claim) = (run.lowerBound, cold.count, claim)
            ending = nil
        }
        // The copies of pages that changed meanwhile are worth nothing; one that stays is overwritten or removed later. But a stray page's is not ours.
        var stale = RunMask()
        if !hot.isEmpty {
            for i in 0..<done where safe.contains(i) && hot.contains(i) && !table.isBackedUp(run.lowerBound + i) { stale.insert(i) }
        }
        stale.forEachRun(of: 0..<done, isIn: true) { pages in
            try? file.drop(at: (run.lowerBound + pages.lowerBound) * basePageSize, length: pages.count * basePageSize)
        }
        return failure
    }

    /// Pages that take memory in the pool, at or after `page`.
    func nextExtent(from page: Int) throws(EngineError) -> Range<Int>? {
        guard page < pageCount else { return nil }
        do throws(Errno) {
            guard let extent = try poolFile.nextExtent(from: firstPage + page, below: firstPage + pageCount) else { return nil }
            return extent.lowerBound - firstPage..<extent.upperBound - firstPage
        } catch {
            throw .poolFile("finding the resident pages of \(id) failed", error)
        }
    }

    private func readPool(_ run: Range<Int>, _ content: Staging.Block) throws(EngineError) {
        do throws(Errno) {
            let n = try Files.read(poolFile.number, into: content.pages(0..<run.count), at: poolOffset(run.lowerBound))
            guard n == run.count * basePageSize else { throw Errno.ioError }
        } catch {
            throw EngineError(.system, "reading pages of \(id) from the pool failed", errno: error)
        }
    }

    /// How often a run that finds the first tier full makes room there.
    static let writebacks = 4

    /// Gaps of zeros up to this length are written with the run where the backup makes holes of them: a call costs more than so many zeros.
    private static let zeroGapPages = 16

    /// Stores the pages of a run that need it. Returns how many pages from the start are safe, zeros included, and why it stopped there.
    private func copyOut(
        _ run: Range<Int>, _ resident: RunMask, _ content: Staging.Block, _ writeback: Bool, _ file: BackupFile, _ staging: Staging
    ) -> (done: Int, failure: EngineError?) {
        var i = 0
        while i < run.count {
            if !resident.contains(i) || !needsBackup(run.lowerBound + i, content.pages(i..<i + 1)) {
                i += 1
                continue
            }
            let end = endOfWrite(run, resident, from: i, content)
            let written = file.write(content, i..<end, at: (run.lowerBound + i) * basePageSize, writeback: writeback, staging)
            if let error = written.error {
                return (
                    i + written.bytes / basePageSize,
                    .backup("backing up page \(run.lowerBound + i + written.bytes / basePageSize) of \(id)", error)
                )
            }
            i = end
        }
        return (run.count, nil)
    }

    /// Where the write that begins with page `i` of the run ends: behind a page that needs it.
    private func endOfWrite(_ run: Range<Int>, _ resident: RunMask, from i: Int, _ content: Staging.Block) -> Int {
        let longestGap = backup.makesHolesOfZeros ? Self.zeroGapPages : 0
        var end = i + 1
        var page = end
        while page < run.count {
            // The backup has a stray page's valid content: never write over it.
            if table.isBackedUp(run.lowerBound + page) { break }
            if needsBackup(run.lowerBound + page, content.pages(page..<page + 1)) {
                // Of a page that came since the run was looked for nothing is stored, or the backup had what no word tells of.
                guard resident.contains(page) else { break }
                end = page + 1
            } else if page - end >= longestGap {
                break
            }
            page += 1
        }
        return end
    }

    /// False for a page of zeros, which is only freed and noted, and for a stray page, whose valid content the backup has.
    @inline(__always)
    private func needsBackup(_ page: Int, _ content: UnsafeMutableRawBufferPointer) -> Bool {
        guard let base = content.baseAddress else { return false }
        return !table.isBackedUp(page) && !isZero(base, basePageSize)
    }

    private func setWords(_ run: Range<Int>, _ pages: RunMask, _ content: Staging.Block, _ outcome: inout ShrinkOutcome)
        throws(EngineError)
    {
        for i in 0..<run.count where pages.contains(i) {
            let page = run.lowerBound + i
            if faults != nil, i > 0 { try at(.betweenWords, page) }
            if table.isBackedUp(page) {
                outcome.strayPages += 1
            } else if needsBackup(page, content.pages(i..<i + 1)) {
                if table.isZero(page) { outcome.zeroWordsDelta -= 1 }
                table.set(page, .backedUp(Handle(PageIndex(rawValue: page))))
                outcome.backedUpPages += 1
            } else {
                if !table.isZero(page) { outcome.zeroWordsDelta += 1 }
                table.set(page, .zero)
                outcome.zeroPages += 1
            }
        }
    }

    func free(_ pages: Range<Int>, _ afterwards: FileCall.Afterwards = .nothing) throws(EngineError) {
        do throws(Errno) {
            try poolFile.punch(at: poolOffset(pages.lowerBound), length: pages.count * unitBytes, afterwards)
        } catch { throw freeFailed(error) }
    }
}
