import ShrinkLinux
import SystemPackage

// Content that may be given up. The ledger's record says so before the first page goes, so whoever finds the object later,
// also after a crash, gives up the rest: an object is never half its old content and half zeros.

extension Engine {
    /// Says whether an object's content may be given up when memory is short; returns whether it is still there. Once it was given up, it stays so: the
    /// next pin says it, whatever is set here.
    @discardableResult
    public func setPurgeable(_ id: ObjectID, _ isPurgeable: Bool, cancellation: Cancellation? = nil) throws(EngineError) -> PinAnswer {
        let slot = try reserve(id, cancellation: cancellation)
        defer { release(slot) }
        return state.withLock { state in
            let content = state.objects[slot].content
            guard content == .kept || content == .purgeable else { return PinAnswer(retained: false) }
            setContent(slot, isPurgeable ? .purgeable : .kept, &state)
            return PinAnswer(retained: true)
        }
    }

    /// Says that the owner will replace the whole content (the kernel's ghost): from now on it is never copied, the next pin has zeros and says
    /// `retained: false`. Busy while pinned.
    public func discardContent(_ id: ObjectID, cancellation: Cancellation? = nil) throws(EngineError) {
        let slot = try reserve(id, cancellation: cancellation)
        defer { release(slot) }
        try state.withLock { state throws(EngineError) in
            guard state.objects[slot].pinCount == 0 else { throw EngineError(.busy, "\(id) is pinned; unpin it first") }
            guard state.closeGates(slot) else {
                throw EngineError(.busy, "\(id) is pinned through a gate; its user has to unpin it first")
            }
            if state.objects[slot].content != .purged { setContent(slot, .replaced, &state) }
        }
    }

    /// Record and object together; subtract, set, add happens in `change`.
    func setContent(_ slot: UInt32, _ content: BufferObject.Content, _ state: inout EngineState) {
        state.pool(of: slot).ledger.record(Int(state.objects[slot].record)).content = content
        state.change(slot) { $0.content = content }
    }

    /// Makes given-up content zeros. The caller holds the reservation; nobody has it pinned.
    func clearContent(_ slot: UInt32) throws(EngineError) {
        let reserved = reservedObject(slot)
        let claim = reserved.touch.claim(reserved.poolPages(0..<reserved.pageCount), .ending)
        defer { reserved.touch.end(claim) }
        let object = state.withLock { $0.objects[slot] }
        reserved.touch.heal(reserved.poolPages(0..<reserved.pageCount), reserved.poolFile.huge)
        do throws(Errno) {
            _ = try reserved.poolFile.freePages(first: reserved.firstPage, count: reserved.pageCount)
        } catch {
            throw .poolFile("clearing the given-up content of \(reserved.id) failed", error)
        }
        try reserved.at(.afterClearFree, 0)
        if object.backedUpPages > 0 { try reserved.dropEverything() }
        try reserved.at(.afterClearDrop, 0)
        reserved.table.clear()
        try reserved.at(.afterClearWords, 0)
        state.withLock { state in
            let pool = state.pool(of: slot)
            state.addBackedUp(-Int(object.backedUpPages), to: pool)
            pool.zeroPages -= Int(object.zeroPages)
            state.change(slot) { object in
                (object.backedUpPages, object.zeroPages, object.purgedPages) = (0, 0, 0)
                object.touched = BufferObject.Touched()
                object.purgeGeneration &+= 1
            }
            pool.ledger.record(Int(object.record)).purgeGeneration = object.purgeGeneration &+ 1
            setContent(slot, .kept, &state)
        }
    }
}

extension ReservedObject {
    /// Frees pages without a copy until the goal is reached or none is left, then drops what the backup has. Whoever calls has noted that the content is
    /// given up.
    ///
    /// `mayUseBackup`: false leaves the backup alone; what it has goes with the next call that may. What is in the pool needs no backup to go, so one
    /// that fails keeps nothing in memory.
    func purge(goalPages: Int, mayUseBackup: Bool, progress: (ShrinkOutcome) -> Bool) -> ShrinkOutcome {
        var outcome = ShrinkOutcome()
        let claim = touch.claim(poolPages(0..<pageCount), .purging)
        defer { touch.end(claim) }
        do throws(EngineError) {
            try at(.afterPurgeMark, 0)
            try purgeResident(goalPages, &outcome, progress)
            let isLeftInBackup = table.backedUpPages(in: 0..<pageCount) > 0
            if isLeftInBackup, mayUseBackup { try purgeBackedUp(&outcome) }
            let isLeftInPool = try nextExtent(from: 0) != nil
            outcome.isExhausted = !isLeftInPool && (mayUseBackup || !isLeftInBackup)
        } catch {
            if error.errno == .socketNotConnected { backup.reconnect() }
            outcome.failure = error
        }
        return outcome
    }

    private func purgeResident(
        _ goalPages: Int, _ outcome: inout ShrinkOutcome, _ progress: (ShrinkOutcome) -> Bool
    ) throws(EngineError) {
        var page = 0
        while outcome.freedPages < goalPages, let extent = try nextExtent(from: page) {
            let length = min(EngineLimits.runPages, goalPages - outcome.freedPages)
            let run = extent.lowerBound..<min(extent.upperBound, extent.lowerBound + length)
            // A page that the backup has too is a stray one: it goes, its word stays until the backup's goes.
            for page in run where !table.isBackedUp(page) {
                if table.isZero(page) { outcome.zeroWordsDelta -= 1 }
                if table.state(page) != .purged { outcome.purgedWordsDelta += 1 }
                table.set(page, .purged)
            }
            try free(run)
            outcome.scannedPages += run.count
            outcome.freedPages += run.count
            outcome.purgedPages += run.count
            page = run.upperBound
            try at(.betweenPurgeRuns, run.lowerBound)
            if !progress(outcome) { throw EngineError(.interrupted, "shrinking \(id) was stopped; it goes on when asked again") }
        }
    }

    private func purgeBackedUp(_ outcome: inout ShrinkOutcome) throws(EngineError) {
        try dropEverything()
        for page in 0..<pageCount where table.isBackedUp(page) {
            table.set(page, .purged)
            outcome.droppedPages += 1
            outcome.purgedWordsDelta += 1
        }
    }

    /// Content that was given up goes entirely, in whatever state it is.
    func forget() throws(EngineError) {
        do throws(Errno) { _ = try poolFile.freePages(first: firstPage, count: pageCount) } catch {
            throw EngineError(.system, "clearing the given-up content of \(id) failed", errno: error)
        }
        try dropEverything()
        for page in 0..<pageCount { table.set(page, .purged) }
    }

    /// All of the object's pages in the backup go. A backup that has nothing of it any more leaves nothing to drop.
    func dropEverything() throws(EngineError) {
        let file: BackupFile
        do throws(EngineError) { file = try backup.open(id) } catch {
            if error.errno == .noSuchFileOrDirectory { return }
            throw error
        }
        do throws(Errno) { try file.drop(at: 0, length: pageCount * unitBytes) } catch {
            throw .backup("dropping the given-up pages of \(id)", error)
        }
    }
}
