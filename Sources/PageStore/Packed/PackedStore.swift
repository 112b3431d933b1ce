import ShrinkLinux
import Synchronization
public import SystemPackage

/// Objects whose pages are compressed blocks in log-structured segments, in one directory or in a list of them, fastest first.
///
/// Caveats. One process has a store open (the signature files are locked). The directories belong to the store: changing files in
/// them is found out by checksums, not prevented; of an index file that is cut short the touched pages read as errors, and the object takes
/// no more changes. What a disk tier holds outlives a power cut if `sync` or a durable write returned; the rest is found damaged or old then.
public final class PackedStore: ObjectStore, @unchecked Sendable {
    // Sendable: the table of objects has its lock.

    public typealias Object = PackedObject

    let core: StoreCore
    var objectsDirectory: SharedDescriptor { core.objectsDirectory }
    let cleaner: SegmentCleaner
    let mover: TierMover
    private let objectLimit: Int
    private let objectTable: Mutex<ObjectTable>
    private let background: BackgroundWork

    struct ObjectTable: ~Copyable {
        /// All ids, ascending.
        var ids: [UInt32]
        var used: UsedIDs
        /// Those whose index is mapped.
        var mapped: [UInt32: PackedObject] = [:]

        func position(_ id: UInt32) -> Int {
            var low = 0
            var high = ids.count
            while low < high {
                let middle = (low + high) / 2
                if ids[middle] < id { low = middle + 1 } else { high = middle }
            }
            return low
        }
        func contains(_ id: UInt32) -> Bool {
            let position = position(id)
            return position < ids.count && ids[position] == id
        }
    }

    /// Opens the store in these directories, making it in empty ones. They must exist.
    public convenience init(directories: [String], options: PackedOptions = PackedOptions()) throws(StoreError) {
        try self.init(opening: StoreOpening(directories, options))
    }

    init(opening: StoreOpening) throws(StoreError) {
        core = opening.core
        objectLimit = opening.objectLimit
        let core = core
        objectTable = Mutex(ObjectTable(ids: opening.ids, used: opening.takeUsed()))
        let lookup = ObjectLookup()
        cleaner = SegmentCleaner(core, lookup)
        mover = TierMover(core: core)
        background = BackgroundWork(core, cleaner, mover)
        lookup.store.withLock { $0 = WeakStore(self) }
        core.cleanNow.withLock { [cleaner] in $0 = { [weak cleaner] in cleaner?.cleanOne(urgent: true) ?? false } }
        if core.options.runsInBackground {
            do throws(Errno) { try background.start() } catch {
                throw StoreError(.system, "can't start the cleaner's thread", errno: error)
            }
        }
    }

    // MARK: Objects

    public func object(_ id: StoredObjectID) throws(Errno) -> PackedObject? {
        let result: Result<PackedObject?, Errno> = objectTable.withLock { table in
            if let object = table.mapped[id.rawValue] { return .success(object) }
            guard table.contains(id.rawValue) else { return .success(nil) }
            do throws(Errno) {
                let object = try map(id)
                keep(object, &table)
                return .success(object)
            } catch { return .failure(error) }
        }
        return try result.get()
    }

    private func map(_ id: StoredObjectID) throws(Errno) -> PackedObject {
        let file = try Files.open(id.description, [.readWrite, .noFollow], at: objectsDirectory.number)
        var index = try ObjectIndex(file, pages: 0)
        let known = ObjectHeader(reading: index.header, object: id.rawValue, store: core.identity)
        let header = known ?? ObjectHeader.guessed(from: index, object: id.rawValue)
        let pages = (header.sizeBytes + basePageSize - 1) / basePageSize
        let isWhole = known != nil || pages > 0
        if !isWhole || pages > index.capacity {
            core.counters.damagedEntries.add(1, ordering: .relaxed)
            core.damage.note(object: id.rawValue, page: isWhole ? index.capacity : 0, tier: nil, "its index was cut short")
            guard isWhole, try index.mendEnd(toPages: pages) else { throw .ioError }
        }
        return PackedObject(id, core, index, header)
    }

    /// Keeps an object mapped, unmapping others that nobody uses when there are too many.
    private func keep(_ object: PackedObject, _ table: inout ObjectTable) {
        if table.mapped.count >= objectLimit {
            var unused: [UInt32] = []
            // With the lock held nobody gets a new reference: who is alone here is unused.
            // (`indices` would keep a copy of the dictionary, and nobody would be alone.)
            var index = table.mapped.startIndex
            while index != table.mapped.endIndex, unused.count < max(1, objectLimit / 8) {
                if isKnownUniquelyReferenced(&table.mapped.values[index]) { unused.append(table.mapped[index].key) }
                table.mapped.formIndex(after: &index)
            }
            for id in unused { table.mapped[id] = nil }
        }
        table.mapped[object.id.rawValue] = object
    }

    public func objects(after id: StoredObjectID?, limit: Int) -> [StoredObjectID] {
        objectTable.withLock { table in
            let start = id.map { $0.rawValue == .max ? table.ids.count : table.position($0.rawValue + 1) } ?? 0
            return table.ids[start..<min(table.ids.count, start + max(0, limit))].compactMap(StoredObjectID.init(rawValue:))
        }
    }

    public func create(_ id: StoredObjectID) throws(Errno) -> PackedObject {
        var isOurs = false
        while true {
            do throws(Errno) { return try create(id, isOurs: &isOurs) } catch {
                // A full store may hold bytes that nothing refers to. The id is this call's already.
                guard error == .noSpace, core.makeRoom() else { throw error }
            }
        }
    }

    private func create(_ id: StoredObjectID, isOurs: inout Bool) throws(Errno) -> PackedObject {
        let result: Result<PackedObject, Errno> = objectTable.withLock { table in
            do throws(Errno) {
                if !isOurs {
                    guard !table.contains(id.rawValue), try !table.used.contains(id.rawValue) else { return .failure(.fileExists) }
                    isOurs = true
                }
                // The object first, then the mark: a server killed between the two finds the object and marks its id (opening does), while an id
                // marked without its object could never be given to the caller who asks again.
                let object = try make(id)
                do throws(Errno) { _ = try table.used.use(id.rawValue) } catch {
                    try? Files.remove(id.description, at: objectsDirectory.number)
                    throw error
                }
                KillPoint.idMarked.pass()
                table.ids.insert(id.rawValue, at: table.position(id.rawValue))
                keep(object, &table)
                return .success(object)
            } catch { return .failure(error) }
        }
        return try result.get()
    }

    private func make(_ id: StoredObjectID) throws(Errno) -> PackedObject {
        let file = try Files.open(id.description, [.readWrite, .create, .exclusive, .noFollow], at: objectsDirectory.number)
        do throws(Errno) {
            KillPoint.indexFileMade.pass()
            let index = try ObjectIndex(file, pages: 0)
            var header = ObjectHeader(object: id.rawValue)
            header.created = .now()
            header.modified = header.created
            header.changed = header.created
            header.write(to: index.header, store: core.identity)
            KillPoint.headerWritten.pass()
            return PackedObject(id, core, index, header)
        } catch {
            try? Files.remove(id.description, at: objectsDirectory.number)
            throw error
        }
    }

    /// ENOENT if there is none. What is open of it stays readable; its pages die with its last user.
    public func remove(_ id: StoredObjectID) throws(Errno) {
        let result: Result<PackedObject?, Errno> = objectTable.withLock { table in
            do throws(Errno) {
                guard table.contains(id.rawValue) else { return .failure(.noSuchFileOrDirectory) }
                let object = if let mapped = table.mapped[id.rawValue] { mapped } else { try map(id) }
                try Files.remove(id.description, at: objectsDirectory.number)
                KillPoint.indexUnlinked.pass()
                // In this order: who is just copying its index looks for the mark when it is done.
                object.markRemoved()
                if let last = core.tiers.last, last.number > 0 { IndexCopies.remove(id, from: last) }
                table.mapped[id.rawValue] = nil
                table.ids.remove(at: table.position(id.rawValue))
                return .success(object)
            } catch { return .failure(error) }
        }
        // The table's reference goes outside the lock: ending an object walks its index.
        _ = try result.get()
    }

    public var highestID: UInt32 { objectTable.withLock { $0.used.highest } }

    func syncIDs() throws(Errno) {
        let result: Result<Void, Errno> = objectTable.withLock { table in
            do throws(Errno) { return .success(try table.used.sync()) } catch { return .failure(error) }
        }
        try result.get()
    }

    var mappedObjectCount: Int { objectTable.withLock { $0.mapped.count } }

    var objectCount: Int { objectTable.withLock { $0.ids.count } }

    // MARK: Upkeep, which the store's own thread does as well

    /// Compacts the segment with most to gain; false if none has enough dead bytes, or nothing came of it.
    public func cleanOneSegment() -> Bool { cleaner.cleanOne(urgent: false) }

    /// Moves segments of the options' age to the next tier; false if there were none.
    public func moveAgedSegments() -> Bool { mover.moveAged(now: UInt32(truncatingIfNeeded: FileTime.now().seconds)) }

    // MARK: Closing

    public func close() {
        background.stop()
        for context in core.pool.contexts {
            core.pool.withContext(of: context.slot) { context in
                for tier in core.tiers.indices { core.sealOpen(context, tier) }
            }
        }
        let mapped = objectTable.withLock { Array($0.mapped.values) }
        for object in mapped { object.storeTimes() }
        // A clean stop of a store on a disk leaves nothing to the page cache.
        if !core.tiers[0].inMemory {
            for object in mapped { try? object.sync() }
            try? syncIDs()
        }
    }

    deinit { background.stop() }
}
