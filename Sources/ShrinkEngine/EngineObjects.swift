import Logging
import ShrinkLinux
import ShrinkProtocol
import SystemPackage

extension Engine {
    // MARK: Making and destroying

    /// A new object, all zeros, pinned once. Its size is rounded up to pages of its pool. Huge pages are taken now: inside a pin there are no
    /// holes that a client could find no page for.
    ///
    /// `announce` hears its id before the object counts: whoever writes down that it is pinned has done so when a later engine finds it.
    public func createObject(
        in poolID: PoolID, name: String, size: ByteCount, priority: Priority = .normal, announce: (ObjectID) -> Void = { _ in }
    ) throws(EngineError) -> ObjectInfo {
        try Self.checkName(name)
        guard size.rawValue > 0, size.rawValue <= EngineLimits.pagesPerObject * basePageSize else {
            throw EngineError(.invalidSize, "an object of \(size) is not possible; give 1 byte to 1 TiB")
        }
        try at(.allocate)
        let pool = try state.withLock { state throws(EngineError) in try state.pool(poolID) }
        let count = (size.rawValue + pool.unitBytes - 1) / pool.unitBytes
        // A client may fill it at once and asks nobody then, so the configured limit is met now.
        if !pool.isHuge {
            try staging.withStaging { (staging) throws(EngineError) in
                try room.admit(count * basePageSize, engine: self, staging)
            }
        }
        let place = state.wait { state -> Result<(first: Int, record: UInt32), EngineError>? in
            do throws(EngineError) {
                try state.checkRunning()
                try checkRoomForObject(in: pool, state)
                guard try state.pool(poolID) === pool, let record = pool.takeRecord() else {
                    throw EngineError(.limitReached, "\(poolID) has \(EngineLimits.objectsPerPool) objects already; use a second pool")
                }
                if let first = pool.allocator.allocate(count: count) { return .success((first, record)) }
                pool.giveBackRecord(record)
                if pool.blocksOut > 0 { return nil }
                throw EngineError(
                    .poolFull,
                    "\(poolID) has no free range of \(count * pool.unitBytes) bytes (\(pool.allocator.freePages * pool.unitBytes) are free in all); destroy objects or make a larger pool"
                )
            } catch {
                return .failure(error)
            }
        }
        let (first, record) = try place.get()
        let giveBack: @Sendable () -> Void = { [self] in
            state.withLock { _ in
                pool.allocator.release(first: first, count: count)
                pool.giveBackRecord(record)
            }
        }
        let entry = pool.ledger.record(Int(record))
        let id: ObjectID
        var madeBackup: ObjectID?
        do throws(EngineError) {
            try pool.ledger.populate(record: Int(record), firstPage: first, count: count)
            try clean(pool, first, count, giveBack: giveBack)
            if pool.isHuge { try populateNew(pool, first..<first + count) }
            id = try nextID(from: pool.backup)
            entry.id = id.rawValue
            entry.firstPage = UInt32(first)
            entry.pageCount = UInt32(count)
            // Until it is live, a later engine takes it for one whose end was begun, and removes the backup, if that was made already.
            entry.state = ObjectRecord.State.dying
            try pool.backup.create(
                id, sizeBytes: count * pool.unitBytes, hints: BackupHints(owner: pool.owner, name: name, priority: priority))
            madeBackup = id
            try at(.afterBackupMade)
            entry.priority = UInt32(priority.rawValue)
            entry.content = .kept
            entry.purgeGeneration = 0
            entry.lease = 0
            entry.sizeBytes = UInt64(size.rawValue)
            entry.name = name
            announce(id)
            entry.state = ObjectRecord.State.live
            try at(.afterRecordLive)
            let isEntered = state.withLock { state in
                // The pool may have been destroyed while this one was made.
                guard state.pools[poolID] === pool, !pool.isDying else { return false }
                _ = state.insert(
                    BufferObject(
                        id: id.rawValue, pool: poolID.rawValue, record: record, firstPage: UInt32(first), pageCount: UInt32(count),
                        pinCount: 1, priority: priority),
                    in: pool)
                return true
            }
            guard isEntered else { throw EngineError(.noSuchPool, "\(poolID) is being destroyed; nothing new is made in it") }
        } catch {
            if let madeBackup { try? pool.backup.remove(madeBackup) }
            // A range that is being cleaned by a call that is stuck comes back, with its record, when that ends.
            if error.errno == .timedOut && madeBackup == nil { throw error }
            if pool.isHuge { _ = try? pool.file.freePages(first: first, count: count) }
            entry.state = ObjectRecord.State.free
            giveBack()
            throw error
        }
        return try object(id)
    }

    /// What an earlier object left in the range goes: a new object reads as zeros.
    private func clean(_ pool: Pool, _ first: Int, _ count: Int, giveBack: @escaping @Sendable () -> Void) throws(EngineError) {
        do throws(Errno) {
            let freed = try pool.file.freePages(first: first, count: count, .run(giveBack))
            state.withLock { state in state.addReady(-freed, to: pool) }
        } catch {
            throw .poolFile("cleaning a recycled range of \(pool.id) failed", error)
        }
    }

    /// Destroys an object and its content. Busy while others than the caller, who says how many pins are its own and which gates, have it
    /// pinned.
    ///
    /// Who shrinks it meanwhile frees its pages without a copy, and a recover of it stops at its next run.
    public func destroyObject(_ id: ObjectID, ownPins: Int = 0, gates client: GateClientID? = nil) throws(EngineError) {
        try state.withLock { state throws(EngineError) in
            let slot = try state.slot(id)
            guard Int(state.objects[slot].pinCount) <= ownPins else { throw EngineError(.busy, "\(id) is pinned; unpin it first") }
            guard state.closeGatesForEnd(slot, of: client) else {
                throw EngineError(.busy, "\(id) is pinned through a gate; its user has to unpin it first")
            }
            state.change(slot) { $0.life = .ending }
        }
        guard case .reserved(let slot) = reserve(id, .wait, isEnding: true) else {
            state.withLock { state in
                if let slot = state.objects.slot(of: id), state.objects[slot].life == .ending { state.change(slot) { $0.life = .live } }
            }
            state.notifyAll()
            throw EngineError(.interrupted, "the wait for \(id) was stopped; nothing changed, ask again")
        }
        let (object, pool) = state.withLock { state in
            state.change(slot) { $0.life = .gone }
            return (state.objects[slot], state.pool(of: slot))
        }
        defer { state.notifyAll() }
        let record = pool.ledger.record(Int(object.record))
        record.state = ObjectRecord.State.dying
        try at(.afterDyingMark)
        do throws(EngineError) { try pool.backup.remove(id) } catch {
            // The content is unwanted anyway; what stays behind is counted as an orphan.
            logger.warning("the backup of a destroyed object stays behind", metadata: ["object": "\(id.rawValue)", "error": "\(error)"])
        }
        try at(.afterBackupRemoved)
        let first = Int(object.firstPage)
        let count = Int(object.pageCount)
        let claim = pool.touch.claim(first..<first + count, .ending)
        defer { pool.touch.end(claim) }
        pool.ledger.table(firstPage: first, count: count).clear()
        pool.touch.heal(first..<first + count, pool.file.huge)
        try at(.afterWordsCleared)
        let ready = (try? pool.file.residentPages(first: first, count: count)) ?? count
        record.state = ObjectRecord.State.free
        state.withLock { state in
            state.release(slot)
            state.remove(slot, from: pool)
            pool.allocator.release(first: first, count: count)
            pool.giveBackRecord(object.record)
            state.addReady(ready, to: pool)
        }
    }

    // MARK: Looking

    /// What is known of an object. `countingPages`: false leaves out the pages by state, which takes a look at each extent of the object's memory.
    public func object(_ id: ObjectID, countingPages: Bool = true) throws(EngineError) -> ObjectInfo {
        let (object, pool, gatePins) = try state.withLock { state throws(EngineError) -> (BufferObject, Pool, Int) in
            let slot = try state.slot(id)
            let object = state.objects[slot]
            return (object, try state.pool(PoolID(rawValue: object.pool)), state.gatePins(slot))
        }
        let count = Int(object.pageCount)
        // Of a pool that is stalled only the words tell.
        let resident =
            !countingPages
            ? 0
            : (try? pool.file.residentPages(first: Int(object.firstPage), count: count))
                ?? max(0, count - Int(object.zeroPages) - Int(object.backedUpPages))
        let record = pool.ledger.record(Int(object.record))
        let pages =
            !countingPages
            ? PageCounts()
            : PageCounts(
                resident: resident, zero: Int(object.zeroPages), backedUp: Int(object.backedUpPages),
                empty: max(0, count - resident - Int(object.zeroPages) - Int(object.backedUpPages)))
        return ObjectInfo(
            id: id, pool: pool.id, name: record.name, owner: pool.owner, sizeBytes: ByteCount(Int(record.sizeBytes)),
            pageBytes: ByteCount(pool.unitBytes), pageCount: count,
            offsetBytes: ByteCount(Int(object.firstPage) * pool.unitBytes), priority: object.priority,
            pinCount: Int(object.pinCount) + gatePins,
            isPurgeable: object.content == .purgeable, isPurged: object.content == .purged,
            purgeGeneration: object.purgeGeneration % GateWord.generations, isLeased: object.isLeased, pages: pages)
    }

    /// Objects in ascending order of id, those after `after`, at most `limit`.
    public func objects(in pool: PoolID?, after: ObjectID? = nil, limit: Int) -> [ObjectInfo] {
        state.withLock { $0.objectIDs(in: pool, after: after?.rawValue ?? 0, limit: limit) }.compactMap { try? object($0) }
    }

    /// Copies an object's content without changing any page's state; returns the bytes read, less at the object's end.
    public func read(_ id: ObjectID, at offset: ByteCount, into buffer: UnsafeMutableRawBufferPointer) throws(EngineError) -> Int {
        try staging.withStaging { (staging) throws(EngineError) -> Int in
            let slot = try reserve(id)
            defer { release(slot) }
            let reserved = reservedObject(slot)
            let size = sizeBytes(slot)
            guard !state.withLock({ $0.objects[slot].content == .purged || $0.objects[slot].content == .replaced }) else {
                throw EngineError(.purged, "the content of \(id) was given up; pin it to have it as zeros")
            }
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

    private func sizeBytes(_ slot: UInt32) -> Int {
        state.withLock { state in Int(state.pool(of: slot).ledger.record(Int(state.objects[slot].record)).sizeBytes) }
    }

    /// The object as shrink and recover see it. The caller holds the reservation, so the object and its pool stay.
    func reservedObject(_ slot: UInt32) -> ReservedObject {
        state.withLock { state in
            let object = state.objects[slot]
            let pool = state.pool(of: slot)
            return ReservedObject(
                id: ObjectID(rawValue: object.id), poolFile: pool.file, placing: pool.placing, firstPage: Int(object.firstPage),
                table: pool.ledger.table(firstPage: Int(object.firstPage), count: Int(object.pageCount)), backup: pool.backup,
                touch: pool.touch, faults: configuration.faults)
        }
    }

    /// A fault point that belongs to no object.
    func at(_ point: FaultPoint) throws(EngineError) {
        if let error = configuration.faults?(point, ObjectID(rawValue: 0), PageIndex(rawValue: 0)) { throw error }
    }
}

extension PageTable {
    /// All words to empty, touching only those that are not.
    func clear() {
        for page in 0..<count where state(page) != .empty { set(page, .empty) }
    }
}
