import Logging
public import ShrinkLinux
import SystemPackage

extension Engine {
    /// Takes over the pool of an engine that is gone, by its two memory files, and heals it: afterwards each page has one home again.
    ///
    /// Pins ended with the processes that held them.
    public func adoptPool(file: consuming OwnedDescriptor, ledger ledgerFile: consuming OwnedDescriptor) throws(EngineError) -> (
        pool: PoolID, healing: HealingReport
    ) {
        let ledger = try Ledger(reopening: ledgerFile)
        let id = ledger.pool
        var pool = try Pool(id: id, file: file, ledger: ledger)
        var report = HealingReport()
        var live: Set<UInt32> = []
        var highest: UInt32 = 0
        var objects: [BufferObject] = []
        for index in 0..<ledger.geometry.recordCapacity {
            let record = ledger.record(index)
            switch record.state {
            case ObjectRecord.State.free: continue
            case ObjectRecord.State.dying:
                try backup.remove(ObjectID(rawValue: record.id))
                ledger.table(firstPage: Int(record.firstPage), count: Int(record.pageCount)).clear()
                record.state = ObjectRecord.State.free
                report.finishedDestructions += 1
            default:
                guard record.id > 0, record.pageCount > 0,
                    pool.allocator.reserve(first: Int(record.firstPage), count: Int(record.pageCount))
                else {
                    throw EngineError(.foreignLedger, "record \(index) of the ledger is damaged: its range is taken or beyond the pool")
                }
                live.insert(UInt32(index))
                highest = UInt32(index) + 1
                objects.append(
                    BufferObject(
                        id: record.id, pool: id.rawValue, record: UInt32(index), firstPage: record.firstPage, pageCount: record.pageCount,
                        priority: Priority(rawValue: UInt8(truncatingIfNeeded: record.priority)) ?? .normal))
            }
        }
        pool.adoptRecords(live: live, highest: highest)
        for index in objects.indices {
            let object = objects[index]
            let table = ledger.table(firstPage: Int(object.firstPage), count: Int(object.pageCount))
            let reserved = ReservedObject(
                id: ObjectID(rawValue: object.id), poolFile: pool.file, firstPage: Int(object.firstPage), table: table, backup: backup,
                faults: nil)
            report += try reserved.heal()
            for page in 0..<table.count {
                switch table.state(page) {
                case .backedUp: objects[index].backedUpPages += 1
                case .zero: objects[index].zeroPages += 1
                default: break
                }
            }
            pool.backedUpPages += Int(objects[index].backedUpPages)
            pool.zeroPages += Int(objects[index].zeroPages)
            pool.objectPages += table.count
        }
        pool.objectCount = objects.count
        pool.readyPages = max(
            0,
            pool.allocatedPages
                - (objects.reduce(0) { $0 + ((try? pool.file.residentPages(first: Int($1.firstPage), count: Int($1.pageCount))) ?? 0) }))
        try state.withLock { [pool, objects] state throws(EngineError) in
            guard state.pools[id] == nil else { throw EngineError(.nameTaken, "\(id) is here already") }
            state.pools[id] = pool
            state.nextPool = max(state.nextPool, id.rawValue + 1)
            for object in objects {
                let slot = state.objects.insert(object)
                state.lru.reserveSlots(state.objects.capacity)
                state.lru.touch(slot, object.priority)
            }
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

    /// From now on nothing new begins: making pools and objects fails with `shuttingDown`.
    public func beginShutdown() { state.withLock { $0.isShuttingDown = true } }

    /// A clean end: removes the backups of all objects. Their content is gone. Returns those that could not be removed.
    public func removeAllBackups() -> [ObjectID] {
        beginShutdown()
        let ids = state.withLock { $0.objectIDs(in: nil) }
        return ids.filter { id in
            do throws(EngineError) {
                try backup.remove(id)
                return false
            } catch {
                logger.error("the backup of an object can't be removed", metadata: ["object": "\(id.rawValue)", "error": "\(error)"])
                return true
            }
        }
    }
}

/// What a pool is made of.
public struct PersistentPool: ~Copyable {
    public var file: OwnedDescriptor
    public var ledger: OwnedDescriptor
}
