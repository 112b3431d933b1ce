import ShrinkLinux

/// The invariants of reference §1.5 and what this engine adds, checked from the outside: at quiet points, by tests.
extension Engine {
    /// Sentences about what does not agree; empty if all does. Every object must be unreserved.
    func brokenInvariants() -> [String] {
        state.withLock { state in
            var broken: [String] = []
            var tally = EngineState.Tally()
            var hugeTally = EngineState.Tally()
            for pool in state.pools.values.sorted(by: { $0.id < $1.id }) {
                var sums = PageCounts()
                var objectCount = 0
                var pinned = 0
                for id in pool.ids.ids {
                    guard let slot = state.objects.slot(of: ObjectID(rawValue: id)) else { continue }
                    let object = state.objects[slot]
                    objectCount += 1
                    pinned += object.pinCount > 0 ? 1 : 0
                    broken += Self.broken(object, pool)
                    sums.backedUp += Int(object.backedUpPages)
                    sums.zero += Int(object.zeroPages)
                    if object.isShrinkable != state.lru.contains(slot) { broken.append("object \(id) is on the wrong side of the list") }
                    if object.isHuge != pool.isHuge { broken.append("object \(id) counts other pages than its pool") }
                    var counted = object.isHuge ? hugeTally : tally
                    if object.isShrinkable, object.isExpendable { counted.expendablePages += object.reclaimablePages }
                    if object.isShrinkable, !object.isExpendable {
                        counted.shrinkablePages += object.reclaimablePages
                        counted.shrinkableObjects += 1
                    }
                    if object.isHuge { hugeTally = counted } else { tally = counted }
                }
                if pool.isHuge { hugeTally.readyPages += pool.readyPages * pool.unitPages } else { tally.readyPages += pool.readyPages }
                if sums.backedUp != pool.backedUpPages || sums.zero != pool.zeroPages {
                    broken.append(
                        "\(pool.id) counts \(pool.backedUpPages) and \(pool.zeroPages), its objects \(sums.backedUp) and \(sums.zero)")
                }
                if objectCount != pool.objectCount { broken.append("\(pool.id) counts \(pool.objectCount) objects, has \(objectCount)") }
                if pinned != pool.pinnedObjects { broken.append("\(pool.id) counts \(pool.pinnedObjects) pinned objects, has \(pinned)") }
            }
            let stored = state.backends.reduce(0) { $0 + $1.shrinkablePages }
            if stored != state.tally.shrinkablePages { broken.append("the backends count \(stored), all is \(state.tally)") }
            if tally != state.tally { broken.append("the counters say \(state.tally), the objects \(tally)") }
            if hugeTally != state.hugeTally { broken.append("of huge pages the counters say \(state.hugeTally), the objects \(hugeTally)") }
            return broken
        }
    }

    private static func broken(_ object: BufferObject, _ pool: Pool) -> [String] {
        var broken: [String] = []
        if object.reservation != .free { broken.append("object \(object.id) is still reserved") }
        let table = pool.ledger.table(firstPage: Int(object.firstPage), count: Int(object.pageCount))
        let words = table.countByState()
        if words.backedUp != Int(object.backedUpPages) || words.zero != Int(object.zeroPages)
            || table.purgedPages != Int(object.purgedPages)
        {
            broken.append(
                "object \(object.id) counts \(object.backedUpPages) out, \(object.zeroPages) zero, \(object.purgedPages) purged; its words say \(words)"
            )
        }
        if object.pinCount > 0, words.backedUp + words.zero + table.purgedPages > 0 {
            broken.append("object \(object.id) is pinned and not whole: \(words)")
        }
        if object.areGatesOpen, object.isExhausted || words.backedUp + words.zero + table.purgedPages > 0 {
            broken.append("object \(object.id) has open gates and is not whole: \(words)")
        }
        let record = pool.ledger.record(Int(object.record))
        if record.id != object.id || record.content != object.content { broken.append("object \(object.id) is not what its record says") }
        return broken
    }
}

extension Engine {
    /// Bytes that this engine's tables take for objects, the ledgers' records (128 bytes an object) included.
    public var memoryBytes: Int {
        state.withLock { $0.memoryBytes + $0.objects.count * ObjectRecord.stride }
    }
}
