public import ShrinkLinux
public import SystemPackage

/// The raw layout: one sparse file per object in a directory of any Linux file system.
///
///     DIR/format          what this is
///     DIR/lock            held by the server
///     DIR/used-ids        which ids were ever used
///     DIR/high-water      ids up to here count as used if the machine went down without notice
///     DIR/objects/<id>    the object's bytes at their own offsets; hints in user.shrinkd.* attributes
///
/// Every answer comes from the file system itself, so nothing has to be repaired after a crash. Memory: 4 bytes an object, and what is open.
public final class RawStore: ObjectStore {
    public static let layout = "raw"
    public static let version = 1

    private let directory: StoreDirectory
    private let objectsDirectory: OwnedDescriptor
    private let state: Monitor<State>
    /// Names in `objects` that are no ids. They are left alone.
    private let strangers: Int

    fileprivate struct State {
        /// Ascending.
        var ids: [UInt32]
        var used: UsedIdentifiers
        var highWater: HighWater
        var journal: IdentifierJournal
        var open: OpenObjects
        var usage = Usage()
    }

    /// Sums over all objects, walked at most once in `Usage.freshNanoseconds`.
    fileprivate struct Usage {
        static let freshNanoseconds: UInt64 = 500_000_000
        var storedBytes: UInt64 = 0
        var pageCount: UInt64 = 0
        var taken: MonotonicTime?
    }

    /// Opens or makes a store; `openFiles` is how many object files may be kept open.
    public init(_ path: String, openFiles: Int = 1024) throws(StoreError) {
        directory = try StoreDirectory(opening: path, layout: Self.layout, version: Self.version)
        try SparseProbe.check(directory.descriptor.number, path: path)
        var ids: [UInt32] = []
        var strangers = 0
        do throws(Errno) {
            do { try Files.makeDirectory("objects", at: directory.descriptor.number, mode: 0o700) } catch {
                guard error == .fileExists else { throw error }
            }
            objectsDirectory = try Files.open("objects", [.readOnly, .directory, .noFollow], at: directory.descriptor.number)
            try Files.forEachName(in: objectsDirectory.number) { name in
                if let id = StoredObjectID(name: name) { ids.append(id.rawValue) } else { strangers += 1 }
            }
        } catch {
            throw StoreDirectory.cannotWrite(path + "/objects", error)
        }
        ids.sort()
        let highWater = try HighWater(in: directory.descriptor.number, path: path, atLeast: ids.last ?? 0)
        self.strangers = strangers
        let used: UsedIdentifiers
        let journal: IdentifierJournal
        do throws(Errno) {
            if let known = try IdentifierJournal.read(in: directory.descriptor.number) {
                used = UsedIdentifiers(merging: known + ids.map { $0...$0 })
            } else {
                used = UsedIdentifiers(upTo: highWater.reserved)
            }
            journal = try IdentifierJournal(in: directory.descriptor.number, used)
        } catch {
            throw StoreDirectory.cannotWrite(path, error)
        }
        state = Monitor(
            State(ids: ids, used: used, highWater: highWater, journal: journal, open: OpenObjects(limit: openFiles)))
    }

    public func object(_ id: StoredObjectID) throws(Errno) -> RawObject? {
        try state.withLock { (state) throws(Errno) -> RawObject? in
            if let open = state.open[id] { return open }
            guard state.ids[safe: state.position(of: id)] == id.rawValue else { return nil }
            let object = RawObject(id, try Files.open(id.description, [.readWrite, .noFollow], at: objectsDirectory.number))
            state.open.insert(object)
            return object
        }
    }

    public func objects(after id: StoredObjectID?, limit: Int) -> [StoredObjectID] {
        state.withLock { state in
            var i = 0
            if let id {
                i = state.position(of: id)
                if state.ids[safe: i] == id.rawValue { i += 1 }
            }
            return state.ids[i...].prefix(limit).compactMap { StoredObjectID(rawValue: $0) }
        }
    }

    public func create(_ id: StoredObjectID) throws(Errno) -> RawObject {
        try state.withLock { (state) throws(Errno) -> RawObject in
            guard !state.used.contains(id.rawValue) else { throw .fileExists }
            try state.highWater.cover(id.rawValue, in: directory.descriptor.number)
            let file = try Files.open(
                id.description, [.readWrite, .create, .exclusive, .noFollow], at: objectsDirectory.number, mode: 0o600)
            // After the file: a server that dies between leaves the file, which says the same; the other way round it would leave an id that
            // is used by nothing, and the caller's request, asked again, would fail.
            do throws(Errno) { try state.journal.append(id.rawValue, state.used, in: directory.descriptor.number) } catch {
                try? Files.remove(id.description, at: objectsDirectory.number)
                throw error
            }
            _ = state.used.insert(id.rawValue)
            state.ids.insert(id.rawValue, at: state.position(of: id))
            let object = RawObject(id, file)
            state.open.insert(object)
            return object
        }
    }

    public func remove(_ id: StoredObjectID) throws(Errno) {
        try state.withLock { (state) throws(Errno) in
            let i = state.position(of: id)
            guard state.ids[safe: i] == id.rawValue else { throw .noSuchFileOrDirectory }
            do throws(Errno) { try Files.remove(id.description, at: objectsDirectory.number) } catch {
                // Somebody took the file away behind us: then it is gone, as wanted.
                guard error == .noSuchFileOrDirectory else { throw error }
            }
            state.ids.remove(at: i)
            state.open.remove(id)
        }
    }

    public var highestID: UInt32 { state.withLock { $0.used.highest } }

    public var room: StoreRoom { roomOfDirectory(directory.descriptor.number) }

    public var space: StoreSpace {
        let now = MonotonicTime.now()
        let known = state.withLock { state -> Usage? in
            guard let taken = state.usage.taken, now.nanoseconds(since: taken) < Usage.freshNanoseconds else { return nil }
            return state.usage
        }
        let usage = known ?? walk(at: now)
        let room = self.room
        return StoreSpace(
            totalBytes: room.totalBytes, availableBytes: room.availableBytes, storedBytes: usage.storedBytes, pageCount: usage.pageCount,
            objectCount: UInt64(state.withLock { $0.ids.count }))
    }

    private func walk(at now: MonotonicTime) -> Usage {
        var usage = Usage(taken: now)
        // The lock is not held meanwhile: requests go on.
        for id in state.withLock({ $0.ids }) {
            guard let status = try? Files.status(of: String(id), at: objectsDirectory.number) else { continue }
            usage.storedBytes += UInt64(status.allocatedBytes)
            usage.pageCount += UInt64(RawObject.pageCount(status))
        }
        state.withLock { $0.usage = usage }
        return usage
    }

    public func makeBackingProbe() throws(Errno) -> OwnedDescriptor? { try Files.openUnnamed(in: objectsDirectory.number) }

    public func facts() -> [(key: String, value: String)] {
        state.withLock { state in
            [
                ("raw.open_files", "\(state.open.count)"),
                ("raw.open_files_limit", "\(state.open.limit)"),
                ("raw.ids_reserved", "\(state.highWater.reserved)"),
                ("raw.strange_names", "\(strangers)"),
            ]
        }
    }

    public func close() {
        state.withLock { state in
            // Without these the next start may lose ids that nobody used, and nothing else.
            try? state.journal.close(state.used, in: directory.descriptor.number)
            try? state.highWater.settle(at: state.used.highest, in: directory.descriptor.number)
        }
    }
}

extension RawStore.State {
    /// Where `id` is in `ids`, or belongs.
    fileprivate func position(of id: StoredObjectID) -> Int {
        if let last = ids.last, last < id.rawValue { return ids.count }
        var (low, high) = (0, ids.count)
        while low < high {
            let middle = (low + high) / 2
            if ids[middle] < id.rawValue { low = middle + 1 } else { high = middle }
        }
        return low
    }
}

extension Array {
    fileprivate subscript(safe index: Int) -> Element? { indices.contains(index) ? self[index] : nil }
}
