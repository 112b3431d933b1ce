import Logging
import ShrinkLinux
import SystemPackage

extension Engine {
    // MARK: Making and destroying

    /// A new object, all zeros, pinned once. Its size is rounded up to pages.
    public func createObject(in poolID: PoolID, name: String, size: ByteCount, priority: Priority = .normal) throws(EngineError)
        -> ObjectInfo
    {
        try Self.checkName(name)
        guard size.rawValue > 0, size.rawValue <= EngineLimits.pagesPerObject * basePageSize else {
            throw EngineError(.invalidSize, "an object of \(size) is not possible; give 1 byte to 1 TiB")
        }
        let count = (size.rawValue + basePageSize - 1) / basePageSize
        let (pool, first, record) = try state.withLock { state throws(EngineError) -> (Pool, Int, UInt32) in
            try state.checkRunning()
            let pool = try state.pool(poolID)
            guard let record = state.pools[poolID]?.takeRecord() else {
                throw EngineError(.limitReached, "\(poolID) has \(EngineLimits.objectsPerPool) objects already; use a second pool")
            }
            guard let first = state.pools[poolID]?.allocator.allocate(count: count) else {
                state.pools[poolID]?.giveBackRecord(record)
                throw EngineError(
                    .poolFull,
                    "\(poolID) has no free range of \(count * basePageSize) bytes (\(pool.allocator.freePages * basePageSize) are free in all); destroy objects or make a larger pool"
                )
            }
            return (pool, first, record)
        }
        do throws(EngineError) {
            try clean(pool, first, count)
            let id = try backup.nextID()
            try backup.create(id, sizeBytes: count * basePageSize, hints: BackupHints(owner: pool.owner, name: name, priority: priority))
            let slot = pool.ledger.record(Int(record))
            slot.id = id.rawValue
            slot.firstPage = UInt32(first)
            slot.pageCount = UInt32(count)
            slot.priority = UInt32(priority.rawValue)
            slot.sizeBytes = UInt64(size.rawValue)
            slot.name = name
            slot.state = ObjectRecord.State.live
            state.withLock { state in
                _ = state.objects.insert(
                    BufferObject(
                        id: id.rawValue, pool: poolID.rawValue, record: record, firstPage: UInt32(first), pageCount: UInt32(count),
                        pinCount: 1,
                        priority: priority))
                state.lru.reserveSlots(state.objects.capacity)
                state.pools[poolID]?.objectCount += 1
                state.pools[poolID]?.objectPages += count
            }
            return try object(id)
        } catch {
            state.withLock { state in
                state.pools[poolID]?.allocator.release(first: first, count: count)
                state.pools[poolID]?.giveBackRecord(record)
            }
            throw error
        }
    }

    /// What an earlier object left in the range goes: a new object reads as zeros.
    private func clean(_ pool: Pool, _ first: Int, _ count: Int) throws(EngineError) {
        do throws(Errno) {
            let freed = try pool.file.freePages(first: first, count: count)
            state.withLock { state in
                let ready = state.pools[pool.id]?.readyPages ?? 0
                state.pools[pool.id]?.readyPages = max(0, ready - freed)
            }
        } catch {
            throw EngineError(.system, "cleaning a recycled range of \(pool.id) failed", errno: error)
        }
    }

    /// Destroys an object and its content. Busy while others than the caller, who says how many pins are its own, have it pinned.
    public func destroyObject(_ id: ObjectID, ownPins: Int = 0) throws(EngineError) {
        let slot = try reserve(id)
        let (object, pool) = try state.withLock { state throws(EngineError) -> (BufferObject, Pool) in
            let object = state.objects[slot]
            guard Int(object.pinCount) <= ownPins, let pool = state.pools[PoolID(rawValue: object.pool)] else {
                state.objects[slot].reservation = .free
                throw EngineError(.busy, "\(id) is pinned; unpin it first")
            }
            state.objects[slot].reservation = .dying
            state.lru.remove(slot)
            return (object, pool)
        }
        defer { state.notifyAll() }
        let record = pool.ledger.record(Int(object.record))
        record.state = ObjectRecord.State.dying
        do throws(EngineError) { try backup.remove(id) } catch {
            // The content is unwanted anyway; what stays behind is counted as an orphan.
            logger.warning("the backup of a destroyed object stays behind", metadata: ["object": "\(id.rawValue)", "error": "\(error)"])
        }
        let first = Int(object.firstPage)
        let count = Int(object.pageCount)
        pool.ledger.table(firstPage: first, count: count).clear()
        let ready = (try? pool.file.residentPages(first: first, count: count)) ?? count
        record.state = ObjectRecord.State.free
        state.withLock { state in
            state.objects.remove(slot)
            guard state.pools[pool.id] != nil else { return }
            state.pools[pool.id]?.allocator.release(first: first, count: count)
            state.pools[pool.id]?.giveBackRecord(object.record)
            state.pools[pool.id]?.objectCount -= 1
            state.pools[pool.id]?.objectPages -= count
            state.pools[pool.id]?.backedUpPages -= Int(object.backedUpPages)
            state.pools[pool.id]?.zeroPages -= Int(object.zeroPages)
            state.pools[pool.id]?.readyPages += ready
        }
    }

    // MARK: Pins

    /// Brings the object's pages back if need be, then keeps them until `unpin`. Pins count.
    public func pin(_ id: ObjectID) throws(EngineError) {
        while try !pinIfResident(id) {
            try staging.withStaging { (staging) throws(EngineError) in
                let slot = try reserve(id)
                defer { release(slot) }
                let outcome = recoverReserved(slot, staging) { _ in true }
                if let failure = outcome.failure { throw failure }
            }
        }
    }

    /// False if pages are in the backup.
    private func pinIfResident(_ id: ObjectID) throws(EngineError) -> Bool {
        let slot = try reserve(id)
        defer { release(slot) }
        let isResident = state.withLock { state -> Bool in
            guard state.objects[slot].backedUpPages == 0 else { return false }
            state.objects[slot].pinCount += 1
            state.lru.remove(slot)
            return true
        }
        if isResident { forgetZeroWords(slot) }
        return isResident
    }

    /// Zero words are a hint that a writer may now make untrue.
    private func forgetZeroWords(_ slot: UInt32) {
        let (object, ledger) = state.withLock { state in
            (state.objects[slot], state.pools[PoolID(rawValue: state.objects[slot].pool)]?.ledger)
        }
        guard object.zeroPages > 0, let ledger else { return }
        let table = ledger.table(firstPage: Int(object.firstPage), count: Int(object.pageCount))
        for page in 0..<table.count where table.isZero(page) { table.set(page, .resident) }
        state.withLock { state in
            state.objects[slot].zeroPages = 0
            state.pools[PoolID(rawValue: object.pool)]?.zeroPages -= Int(object.zeroPages)
        }
    }

    /// Undoes one `pin`. The last one makes the object shrinkable.
    public func unpin(_ id: ObjectID) throws(EngineError) {
        try state.withLock { state throws(EngineError) in
            let slot = try state.slot(id)
            guard state.objects[slot].pinCount > 0 else { throw EngineError(.notPinned, "\(id) is not pinned") }
            state.objects[slot].pinCount -= 1
            if state.objects[slot].pinCount == 0 { state.lru.touch(slot, state.objects[slot].priority) }
        }
    }

    // MARK: Looking

    public func object(_ id: ObjectID) throws(EngineError) -> ObjectInfo {
        let (object, pool) = try state.withLock { state throws(EngineError) -> (BufferObject, Pool) in
            let object = state.objects[try state.slot(id)]
            return (object, try state.pool(PoolID(rawValue: object.pool)))
        }
        let count = Int(object.pageCount)
        let resident = (try? pool.file.residentPages(first: Int(object.firstPage), count: count)) ?? 0
        let record = pool.ledger.record(Int(object.record))
        let pages = PageCounts(
            resident: resident, zero: Int(object.zeroPages), backedUp: Int(object.backedUpPages),
            empty: max(0, count - resident - Int(object.zeroPages) - Int(object.backedUpPages)))
        return ObjectInfo(
            id: id, pool: pool.id, name: record.name, owner: pool.owner, sizeBytes: ByteCount(Int(record.sizeBytes)), pageCount: count,
            offsetBytes: ByteCount(Int(object.firstPage) * basePageSize), priority: object.priority, pinCount: Int(object.pinCount),
            pages: pages)
    }

    /// Objects in ascending order of id, those after `after`, at most `limit`.
    public func objects(in pool: PoolID?, after: ObjectID? = nil, limit: Int) -> [ObjectInfo] {
        let ids = state.withLock { $0.objectIDs(in: pool) }
        let start = after.map { after in ids.partitioningIndex { $0 > after } } ?? 0
        return ids[start...].prefix(max(0, limit)).compactMap { try? object($0) }
    }

    /// Copies an object's content without changing any page's state; returns the bytes read, less at the object's end.
    public func read(_ id: ObjectID, at offset: ByteCount, into buffer: UnsafeMutableRawBufferPointer) throws(EngineError) -> Int {
        try staging.withStaging { (staging) throws(EngineError) -> Int in
            let slot = try reserve(id)
            defer { release(slot) }
            let reserved = try reservedObject(slot)
            let size = try sizeBytes(slot)
            guard offset.rawValue >= 0, offset.rawValue <= size else {
                throw EngineError(.invalidSize, "offset \(offset.rawValue) is beyond the end of \(id), which has \(size) bytes")
            }
            let count = min(buffer.count, size - offset.rawValue)
            if count > 0 {
                try reserved.read(into: UnsafeMutableRawBufferPointer(rebasing: buffer[0..<count]), at: offset.rawValue, staging)
            }
            return count
        }
    }

    private func sizeBytes(_ slot: UInt32) throws(EngineError) -> Int {
        try state.withLock { state throws(EngineError) in
            let object = state.objects[slot]
            return Int(try state.pool(PoolID(rawValue: object.pool)).ledger.record(Int(object.record)).sizeBytes)
        }
    }

    // MARK: Reservations

    /// Waits for the object's reservation and takes it. Who needs a staging buffer takes that first, or two could wait for each other.
    func reserve(_ id: ObjectID) throws(EngineError) -> UInt32 {
        let result = state.wait { state -> Result<UInt32, EngineError>? in
            do throws(EngineError) {
                let slot = try state.slot(id)
                guard state.objects[slot].reservation == .free else { return nil }
                state.objects[slot].reservation = .held
                return .success(slot)
            } catch {
                return .failure(error)
            }
        }
        return try result.get()
    }

    func release(_ slot: UInt32) {
        state.withLock { $0.objects[slot].reservation = .free }
        state.notifyAll()
    }

    /// The object as shrink and recover see it. The caller holds the reservation.
    func reservedObject(_ slot: UInt32) throws(EngineError) -> ReservedObject {
        try state.withLock { state throws(EngineError) in
            let object = state.objects[slot]
            guard let pool = state.pools[PoolID(rawValue: object.pool)] else {
                throw EngineError(.noSuchPool, "there is no \(PoolID(rawValue: object.pool))")
            }
            return ReservedObject(
                id: ObjectID(rawValue: object.id), poolFile: pool.file, firstPage: Int(object.firstPage),
                table: pool.ledger.table(firstPage: Int(object.firstPage), count: Int(object.pageCount)), backup: backup,
                faults: configuration.faults)
        }
    }
}

extension Engine.State {
    /// An object that is not being destroyed.
    func slot(_ id: ObjectID) throws(EngineError) -> UInt32 {
        guard let slot = objects.slot(of: id), objects[slot].reservation != .dying else {
            throw EngineError(.noSuchObject, "there is no \(id)")
        }
        return slot
    }
}

extension PageTable {
    /// All words to empty, touching only those that are not.
    func clear() {
        for page in 0..<count where state(page) != .empty { set(page, .empty) }
    }
}

extension Array {
    /// The first index whose element satisfies a predicate that holds for a suffix of the array.
    func partitioningIndex(where predicate: (Element) -> Bool) -> Int {
        var low = 0
        var high = count
        while low < high {
            let middle = low + (high - low) / 2
            if predicate(self[middle]) { high = middle } else { low = middle + 1 }
        }
        return low
    }
}
