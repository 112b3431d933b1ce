import ShrinkLinux

// What a reclaim does with an object that it has, and what the outcome means for the rest of the walk.

extension ReclaimWalk {
    /// A backup that fails so many objects in a row fails the next one too; other backups need not.
    private static let failuresThatEnd = 8

    /// Shrinks one object by name, whose reservation is held, with its device awake; releases it.
    func shrinkAlone(_ slot: UInt32, _ staging: Staging) {
        let pool = engine.state.withLock { $0.pool(of: slot) }
        let power = PowerHolds(pools: [pool], caller: context.caller)
        defer { power.release() }
        guard power.asleep.isEmpty else {
            engine.release(slot)
            progress.withLock { progress in
                progress.result.deferredObjects = 1
                progress.result.failure = EngineError(.busy, "the device under the backup of \(pool.id) does not wake; look at its power/")
            }
            return
        }
        progress.withLock { $0.pass = .idle }
        shrinkReserved(slot, goalPages: .max, staging)
    }

    /// Shrinks an object whose reservation is held, enters the outcome, and releases it.
    func shrinkReserved(_ slot: UInt32, goalPages: Int, _ staging: Staging, claimed: Int = 0) {
        let pass = progress.withLock { $0.pass }
        // The first pass has asked no device to wake, and not every caller may use the file system; later passes come after both questions.
        let mayUseBackup = pass != .purge || context.mayUseFileSystem && engine.state.withLock { $0.pool(of: slot).backup.power == nil }
        let outcome = engine.shrinkReserved(
            slot, goalPages: goalPages, writeback: pass == .writeback, mayUseBackup: mayUseBackup, staging
        ) { id, outcome in
            reporting.withLock { _ in
                let total = progress.withLock { progress -> ShrinkProgress? in
                    if progress.isStopped { return nil }
                    return ShrinkProgress(
                        scannedPages: progress.result.scannedPages + outcome.scannedBasePages,
                        freedBytes: ByteCount((progress.freedPages + outcome.freedBasePages) * basePageSize), currentObject: id)
                }
                guard let total else { return false }
                guard report(total) == .proceed, cancellation?.isCancelled != true else {
                    progress.withLock { $0.isStopped = true }
                    return false
                }
                return true
            }
        }
        let (backend, samePools) = poolsThatFare(alike: outcome.failure?.code, slot)
        engine.release(slot)
        progress.withLock { progress in
            progress.claimedPages -= claimed
            progress.freedPages += outcome.freedBasePages
            progress.result.add(outcome)
            progress.result.freedBytes = ByteCount(progress.freedPages * basePageSize)
            guard let failure = outcome.failure else {
                progress.failuresInARow[backend] = nil
                return
            }
            // One bad object is that object's affair, and what it freed counts; a full backup is full for the next one too.
            switch failure.code {
            case .busy where claimed > 0:
                progress.gatePinnedObjects += 1
                return
            case .noSuchObject: return
            case .interrupted: progress.isStopped = true
            case .backupFull:
                progress.full.formUnion(samePools)
                progress.leftAlone.formUnion(samePools)
            case .limitReached:
                // One owner's limit is nobody else's failure.
                progress.full.formUnion(samePools)
                progress.leftAlone.formUnion(samePools)
                progress.result.failure = progress.result.failure ?? failure
                return
            default: break
            }
            // The object that went out in part is the one to tell of; the next ones only met the same wall.
            if progress.result.failure == nil || (outcome.freedPages > 0 && !progress.failureCutShort) {
                progress.result.failure = failure
                progress.failureCutShort = outcome.freedPages > 0
            }
            let failures = (progress.failuresInARow[backend] ?? 0) + 1
            progress.failuresInARow[backend] = failures
            if failures >= Self.failuresThatEnd { progress.leftAlone.formUnion(samePools) }
        }
        progress.notifyAll()
    }

    /// An object's backend, and the pools of which the next object would fail for the same reason: those that share the backup, or whose owner's limit is
    /// reached.
    private func poolsThatFare(alike code: EngineError.Code?, _ slot: UInt32) -> (backend: Int, pools: [UInt32]) {
        engine.state.withLock { state in
            let pool = state.pool(of: slot)
            let pools: [Pool] =
                switch code {
                case nil: []
                case .limitReached?: state.pools.values.filter { $0.owner == pool.owner && engine.backupRoomPages(of: $0, state) == 0 }
                default: state.pools.values.filter { $0.backup === pool.backup }
                }
            return (pool.backend, pools.map(\.id.rawValue))
        }
    }
}

extension ShrinkResult {
    mutating func add(_ outcome: ShrinkOutcome) {
        scannedPages += outcome.scannedBasePages
        backedUpPages += outcome.backedUpPages * outcome.unitPages
        zeroPages += outcome.zeroPages * outcome.unitPages
        purgedPages += outcome.purgedPages * outcome.unitPages
        storedBytes = storedBytes + ByteCount(outcome.storedBytes)
        if outcome.isStoredInMemory { netFreedBytes = netFreedBytes - ByteCount(outcome.storedBytes) }
        let freed = ByteCount(outcome.freedBasePages * basePageSize)
        // A huge page goes back to the others of its kind; the machine has no more memory than before.
        if outcome.unitPages > 1 { hugePageBytes = hugePageBytes + freed } else { netFreedBytes = netFreedBytes + freed }
    }
}
