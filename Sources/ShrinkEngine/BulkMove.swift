import ShrinkLinux

/// A group of objects that one move puts at the recently used end together, however many they are: what a program uses as a whole.
///
/// The kernel's counterpart is `ttm_lru_bulk_move`. Members keep their order; each priority has a range of its own. A pinned or fully backed-up member
/// is off the list and comes back to the end of its range.
public struct BulkMoveID: Hashable, Sendable {
    let index: UInt32
    let generation: UInt32
}

extension BulkRanges {
    /// False once it was destroyed, also if another one has its place.
    fileprivate func isInUse(_ bulk: BulkMoveID) -> Bool { isInUse(bulk.index) && generation(bulk.index) == bulk.generation }
}

extension Engine {
    public func createBulkMove() throws(EngineError) -> BulkMoveID {
        let made = state.withLock { state in
            state.lru.makeBulk().map { BulkMoveID(index: $0, generation: state.lru.bulks.generation($0)) }
        }
        guard let made else {
            throw EngineError(.limitReached, "there are \(EngineLimits.bulkMoves) bulk moves already; destroy one first")
        }
        return made
    }

    /// Its members stay where they are and move alone from now on. Takes as long as there are objects.
    public func destroyBulkMove(_ bulk: BulkMoveID) {
        state.withLock { state in
            guard state.lru.bulks.isInUse(bulk) else { return }
            for slot in 0..<UInt32(state.objects.capacity) where state.lru.bulk(of: slot) == bulk.index { state.lru.setBulk(slot, nil) }
            state.lru.removeBulk(bulk.index)
        }
    }

    /// Enters an object, or takes it out (nil). It counts as used now.
    public func setBulkMove(_ bulk: BulkMoveID?, of id: ObjectID) throws(EngineError) {
        try state.withLock { state throws(EngineError) in
            if let bulk, !state.lru.bulks.isInUse(bulk) {
                throw EngineError(.invalidSize, "that bulk move was destroyed; make a new one")
            }
            state.lru.setBulk(try state.slot(id), bulk?.index)
        }
    }

    /// All members were used now: O(1), whatever their number. Walks that stand among them go on behind their old place.
    public func bump(_ bulk: BulkMoveID) {
        state.withLock { state in
            if state.lru.bulks.isInUse(bulk) { state.lru.bump(bulk: bulk.index) }
        }
    }
}
