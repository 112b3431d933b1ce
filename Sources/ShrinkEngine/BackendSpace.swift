import ShrinkLinux

/// What one backend can still take, and what there is for it. Pools may share a backend, and each may have its own.
struct BackendSpace {
    /// Nil: nobody has it; the place is free.
    var backup: (any Backup)?
    var pools = 0
    /// Pages on the lists, of objects whose pages go here, that have to be kept when they go.
    var shrinkablePages = 0
    /// As the backend last said; what has left it since is added.
    var availablePages = 0

    /// The most pages that may go there now.
    var storablePages: Int { min(shrinkablePages, availablePages) }

    static func pages(_ bytes: UInt64) -> Int { Int(clamping: bytes / UInt64(basePageSize)) }
}

extension EngineState {
    /// Enters a pool, whose backend has so much room.
    mutating func enter(_ pool: Pool, availableBytes: UInt64) {
        let place = backends.firstIndex { $0.backup === pool.backup } ?? backends.firstIndex { $0.backup == nil }
        pool.backend = place ?? backends.count
        if place == nil { backends.append(BackendSpace()) }
        backends[pool.backend].backup = pool.backup
        backends[pool.backend].pools += 1
        backends[pool.backend].availablePages = BackendSpace.pages(availableBytes)
        pools[pool.id] = pool
        poolList.append(pool)
    }

    /// Forgets a pool that has no objects.
    mutating func leave(_ id: PoolID) {
        guard let pool = pools.removeValue(forKey: id) else { return }
        poolList.removeAll { $0 === pool }
        backends[pool.backend].pools -= 1
        if backends[pool.backend].pools == 0 { backends[pool.backend] = BackendSpace() }
    }

    /// Pages of a pool, as it counts them, went to its backup, or left it (negative).
    mutating func addBackedUp(_ pages: Int, to pool: Pool) {
        pool.backedUpPages += pages
        // More room than before, at most so much; how much less is asked after each reclaim.
        guard pages < 0 else { return }
        let (sum, isTooMuch) = backends[pool.backend].availablePages.addingReportingOverflow(-pages * pool.unitPages)
        backends[pool.backend].availablePages = isTooMuch ? .max : sum
    }

    /// An upper bound of what all backends together can take of what there is.
    var storablePages: Int {
        var sum = 0
        for index in backends.indices { sum += backends[index].storablePages }
        return sum
    }
}

extension Engine {
    /// Asks each backend for its space, for `Shrinker.count`: asking takes longer than counting may.
    func refreshAvailableBackupBytes() {
        for backup in state.withLock({ $0.backends.compactMap(\.backup) }) {
            let pages = BackendSpace.pages(backup.availableBytes)
            state.withLock { state in
                if let index = state.backends.firstIndex(where: { $0.backup === backup }) { state.backends[index].availablePages = pages }
            }
        }
    }
}
