import Logging
import ShrinkLinux
import Synchronization
import SystemPackage

// One fault in a mapping of a pool of huge pages. As with base pages: copy in, write-protected → word → un-protect and wake → drop; but always one unit,
// placed through the engine's own mapping, so that every mapping of the pool sees it whole or not at all.

extension Engine {
    /// Brings a unit that is claimed, and ends the claim. False if it must be tried again later: nobody was woken.
    func bring(unit: Int, _ claim: UInt64, _ huge: HugeMemory, _ server: FaultServer, _ fault: FaultServer.Fault) -> Bool {
        let pool = fault.pool
        let table = pool.words
        switch table.state(unit) {
        case .purged:
            poison(fault, unit, server)
            pool.touch.end(claim)
            return true
        case .empty, .zero, .resident: return bringZeros(unit, claim, huge, server, fault)
        case .backedUp: break
        }
        guard let object = touchedObject(unit, of: pool) else {
            // A word that belongs to nobody: whatever it was, it is not zeros.
            poison(fault, unit, server)
            pool.touch.end(claim)
            return true
        }
        let index = unit - object.firstPage
        func tryLater() -> Bool {
            pool.touch.end(claim, .quiet)
            return false
        }
        do throws(EngineError) {
            try server.at(.touchBeforeCopyIn, object.id, index)
            let reserved = ReservedObject(
                id: object.id, poolFile: pool.file, placing: pool.placing, firstPage: object.firstPage,
                table: pool.ledger.table(firstPage: object.firstPage, count: object.end - object.firstPage), backup: pool.backup,
                touch: pool.touch, faults: nil)
            let content = huge.buffers.faultUnit
            do throws(Errno) { try reserved.fetch(unit: index, try pool.backup.open(object.id, as: Errno.self), into: content) } catch {
                switch error {
                case .socketNotConnected, .connectionAbort:
                    pool.backup.reconnect()
                    return tryLater()
                case .tooManyOpenFiles, .tooManyOpenFilesInSystem, .noMemory: return tryLater()
                default:
                    refuse(
                        unit, object, pool, claim, .backup("bringing page \(index) of \(object.id) back on touch", error), fault, server)
                    return true
                }
            }
            // From when it is there until the word says so nobody may write, or the next engine would take the backup's content for the newer.
            guard pool.touch.protect(unit..<unit + 1, .none) else { return tryLater() }
            do throws(Errno) { try huge.place(unit, UnsafeRawBufferPointer(content)) } catch {
                // Here as well as in the backup: a recover that stopped half way left it, protected since.
                guard error == .fileExists else { return tryLater() }
            }
            try server.at(.touchAfterCopyIn, object.id, index)
            table.set(unit, .resident)
            server.counters.recoveredPages.add(HugeMemory.basePages, ordering: .relaxed)
            count(object, backedUp: 1, zero: 0)
            try server.at(.touchAfterWords, object.id, index)
        } catch {
            // A test stops here, or the backup can't be opened now.
            return tryLater()
        }
        pool.touch.end(claim)
        server.ahead.drop(pool, object, unit..<unit + 1)
        return true
    }

    /// A hole that nothing is stored of.
    private func bringZeros(
        _ unit: Int, _ claim: UInt64, _ huge: HugeMemory, _ server: FaultServer, _ fault: FaultServer.Fault
    ) -> Bool {
        do throws(Errno) { try huge.placeZeros(unit) } catch {
            if error != .fileExists {
                fault.pool.touch.end(claim, .quiet)
                return false
            }
        }
        server.counters.zeroPages.add(HugeMemory.basePages, ordering: .relaxed)
        if fault.pool.words.isZero(unit), let object = touchedObject(unit, of: fault.pool) {
            fault.pool.words.set(unit, .resident)
            count(object, backedUp: 0, zero: 1)
        }
        fault.pool.touch.end(claim)
        return true
    }
}

extension Backup {
    /// The file, with the plain errno of what went wrong.
    fileprivate func open(_ id: ObjectID, as: Errno.Type) throws(Errno) -> BackupFile {
        do throws(EngineError) { return try open(id) } catch { throw error.errno ?? .ioError }
    }
}

extension ReservedObject {
    /// Units that are not in the pool and not in the backup are zeros, whatever their words say: nobody pins such an object without a call (its gates stay
    /// closed), for there may be no page for the hole. For the object of an engine that is gone.
    func noteHoles() throws(EngineError) {
        guard let huge = poolFile.huge else { return }
        do throws(Errno) {
            for unit in 0..<pageCount {
                switch table.state(unit) {
                case .empty, .resident: if try !huge.isPresent(firstPage + unit) { table.set(unit, .zero) }
                case .zero, .backedUp, .purged: break
                }
            }
        } catch { throw .poolFile("looking for the pages of \(id) failed", error) }
    }
}
