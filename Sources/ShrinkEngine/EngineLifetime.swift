import Logging
public import ShrinkLinux
import SystemPackage

extension Engine {
    /// Takes over the pool of an engine that is gone, by its two memory files, and heals it: afterwards each page has one home again.
    ///
    /// Pins ended with the processes that held them.
    ///
    /// `backup`: where its pages are, if not in the engine's own backup.
    public func adoptPool(
        file: consuming OwnedDescriptor, ledger ledgerFile: consuming OwnedDescriptor, backup: (any Backup)? = nil
    ) throws(EngineError) -> (pool: PoolID, healing: HealingReport) {
        let backup = backup ?? self.backup
        let ledger = try Ledger(reopening: ledgerFile)
        let id = ledger.pool
        let buffers = ledger.geometry.pageSize == basePageSize ? nil : try hugeBuffers(backup)
        let pool = try Pool(
            id: id, file: file, ledger: ledger, backup: backup, isGuarded: configuration.clientsAreStrangers, huge: buffers)
        var report = HealingReport()
        var live: Set<UInt32> = []
        var seen: Set<UInt32> = []
        var highest: UInt32 = 0
        var objects: [BufferObject] = []
        for index in 0..<ledger.geometry.recordCapacity {
            let record = ledger.record(index)
            switch record.state {
            case ObjectRecord.State.free: continue
            case ObjectRecord.State.dying:
                guard record.id > 0, record.pageCount > 0, Int(record.firstPage) + Int(record.pageCount) <= ledger.geometry.pageCount else {
                    throw EngineError(.foreignLedger, "record \(index) of the ledger is damaged: its range is beyond the pool")
                }
                try backup.remove(ObjectID(rawValue: record.id))
                ledger.table(firstPage: Int(record.firstPage), count: Int(record.pageCount)).clear()
                record.state = ObjectRecord.State.free
                report.finishedDestructions += 1
            default:
                guard record.id > 0, record.pageCount > 0,
                    record.sizeBytes <= UInt64(record.pageCount) * UInt64(ledger.geometry.pageSize), seen.insert(record.id).inserted,
                    pool.allocator.reserve(first: Int(record.firstPage), count: Int(record.pageCount))
                else {
                    throw EngineError(
                        .foreignLedger,
                        "record \(index) of the ledger is damaged: its id or its range is taken, or its size or its range is beyond what it can be"
                    )
                }
                live.insert(UInt32(index))
                highest = UInt32(index) + 1
                objects.append(
                    BufferObject(
                        id: record.id, pool: id.rawValue, record: UInt32(index), firstPage: record.firstPage, pageCount: record.pageCount,
                        purgeGeneration: record.purgeGeneration,
                        priority: Priority(rawValue: UInt8(truncatingIfNeeded: record.priority)) ?? .normal, content: record.content,
                        isHuge: ledger.geometry.pageSize != basePageSize, isLeased: record.lease != 0))
            }
        }
        pool.adoptRecords(live: live, highest: highest)
        for index in objects.indices {
            let object = objects[index]
            let table = ledger.table(firstPage: Int(object.firstPage), count: Int(object.pageCount))
            let reserved = ReservedObject(
                id: ObjectID(rawValue: object.id), poolFile: pool.file, placing: pool.placing, firstPage: Int(object.firstPage),
                table: table, backup: backup,
                touch: pool.touch, faults: nil)
            if objects[index].content == .purged || objects[index].content == .replaced {
                // Given up already: finished, so that nothing of it is taken for content.
                try reserved.forget()
                objects[index].purgedPages = UInt32(table.count)
                objects[index].isExhausted = true
                continue
            }
            let healed = try reserved.heal()
            report += healed
            objects[index].damagedPages = UInt32(healed.lost)
            try reserved.noteHoles()
            let counts = table.countByState()
            objects[index].backedUpPages = UInt32(counts.backedUp)
            objects[index].zeroPages = UInt32(counts.zero)
        }
        var resident = 0
        for object in objects {
            resident += (try? pool.file.residentPages(first: Int(object.firstPage), count: Int(object.pageCount))) ?? 0
        }
        let ready = max(0, pool.allocatedPages - resident)
        objects.sort { $0.id < $1.id }
        if let last = objects.last { noteUsed(ObjectID(rawValue: last.id)) }
        let available = backup.availableBytes
        try state.withLock { [objects] state throws(EngineError) in
            guard state.pools[id] == nil else { throw EngineError(.nameTaken, "\(id) is here already") }
            for object in objects where state.objects.slot(of: ObjectID(rawValue: object.id)) != nil {
                throw EngineError(.foreignLedger, "object \(object.id) is here already; the pools' ledgers do not belong to one engine")
            }
            state.enter(pool, availableBytes: available)
            state.nextPool = max(state.nextPool, id.rawValue + 1)
            for object in objects {
                _ = state.insert(object, in: pool)
            }
            state.addReady(ready, to: pool)
            state.damagedPages += report.lost
        }
        logger.notice(
            "pool taken over",
            metadata: [
                "pool": "\(id.rawValue)", "objects": "\(objects.count)", "punched_in_pool": "\(report.punchedInPool)",
                "punched_in_store": "\(report.punchedInStore)", "lost_pages": "\(report.lost)",
            ])
        return (id, report)
    }

    /// Duplicates of a pool's memory file and ledger, to be kept by whoever outlives this process.
    public func persistentDescriptors(of id: PoolID) throws(EngineError) -> PersistentPool {
        let pool = try state.withLock { state throws(EngineError) in try state.pool(id) }
        do throws(Errno) {
            return PersistentPool(file: try pool.file.duplicate(), ledger: try pool.ledger.descriptor.duplicate())
        } catch {
            throw EngineError(.limitReached, "no descriptor left to keep \(id); raise LimitNOFILE", errno: error)
        }
    }

    /// From now on nothing new begins: making pools and objects fails with `shuttingDown`. What is recovered from now on no longer counts against the
    /// configured limit, and no other object is shrunk for it: all of it is to be in memory in the end, as far as that goes.
    public func beginShutdown() {
        state.withLock { $0.isShuttingDown = true }
        room.liftLimit()
    }

    /// A clean end: removes the backups of all objects but some. Their content is gone. Returns those that could not be removed.
    public func removeAllBackups(except kept: Set<ObjectID> = []) -> [ObjectID] {
        beginShutdown()
        let ids = state.withLock { state in
            state.objectIDs(in: nil).compactMap { id in state.objects.slot(of: id).map { (id, state.pool(of: $0).backup) } }
        }
        return ids.filter { !kept.contains($0.0) }.filter { id, backup in
            do throws(EngineError) {
                try backup.remove(id)
                return false
            } catch {
                logger.error("the backup of an object can't be removed", metadata: ["object": "\(id.rawValue)", "error": "\(error)"])
                return true
            }
        }.map(\.0)
    }
}

/// What a pool is made of.
public struct PersistentPool: ~Copyable {
    public var file: OwnedDescriptor
    public var ledger: OwnedDescriptor
}
