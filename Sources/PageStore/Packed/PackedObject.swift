public import ShrinkLinux
import Synchronization
public import SystemPackage

/// An object of a packed store: an index file whose entries say where each page is.
///
/// Writes, reads and punches run side by side, also on one page: an entry is replaced in one atomic step, and what it refers to never
/// changes. Only what moves the end of the object or its index works alone.
public final class PackedObject: StoredObject, @unchecked Sendable {
    // Sendable: the index is replaced under the exclusive lock only; the rest is atomic or has its lock.

    public let id: StoredObjectID
    let core: StoreCore
    let lock = ReadWriteLock()
    let index: UnsafeMutablePointer<ObjectIndex>

    let size: Atomic<Int>
    let pageCount = Atomic<Int>(0)
    let storedBytes = Atomic<Int>(0)
    private let modifiedNanoseconds: Atomic<Int>
    private let header: Mutex<ObjectHeader>
    /// Held while the index is copied to the last tier (`IndexCopies`).
    let copying = Mutex<Void>(())
    private let removed = Atomic<Bool>(false)

    /// Takes over a mapped index. `pages` and `bytes` of it are counted here; what they add to the store's sums is the caller's.
    init(_ id: StoredObjectID, _ core: StoreCore, _ index: consuming ObjectIndex, _ header: ObjectHeader) {
        self.id = id
        self.core = core
        self.header = Mutex(header)
        size = Atomic(header.sizeBytes)
        modifiedNanoseconds = Atomic(header.modified.seconds * 1_000_000_000 + header.modified.nanoseconds)
        self.index = .allocate(capacity: 1)
        self.index.initialize(to: index)
        var pages = 0
        var bytes = 0
        forEachEntry(in: 0..<self.index.pointee.capacity) { page, entry in
            switch entry.kind(object: id.rawValue, page: page) {
            case .absent: break
            case .block:
                pages += 1
                bytes += entry.share
            case .fill, .damaged: pages += 1
            }
        }
        pageCount.store(pages, ordering: .relaxed)
        storedBytes.store(bytes, ordering: .relaxed)
    }

    deinit {
        if removed.load(ordering: .acquiring) {
            // The last user of a removed object is gone: now its pages are dead.
            removeEntries(0..<index.pointee.capacity)
        } else {
            storeTimes()
        }
        index.deinitialize(count: 1)
        index.deallocate()
    }

    // MARK: Attributes

    public var attributes: StoredObjectAttributes {
        let header = header.withLock { $0 }
        let nanoseconds = modifiedNanoseconds.load(ordering: .relaxed)
        let modified = FileTime(seconds: nanoseconds / 1_000_000_000, nanoseconds: nanoseconds % 1_000_000_000)
        return StoredObjectAttributes(
            sizeBytes: size.load(ordering: .acquiring), pageCount: pageCount.load(ordering: .relaxed),
            storedBytes: storedBytes.load(ordering: .relaxed), created: header.created, modified: modified,
            changed: max(header.changed, modified))
    }

    public var backingFile: SharedDescriptor? { nil }

    public func hint(_ hint: ObjectHint) -> String? {
        header.withLock { header in
            switch hint {
            case .owner: header.owner.map { String(decoding: $0, as: UTF8.self) }
            case .name: header.name.map { String(decoding: $0, as: UTF8.self) }
            case .priority: header.priority.map { String(UnicodeScalar($0)) }
            }
        }
    }

    /// EINVAL for a value that is none, ERANGE for a name of more than 384 bytes.
    public func setHint(_ hint: ObjectHint, to value: String) throws(Errno) {
        let bytes = Array(value.utf8)
        switch hint {
        case .owner: guard UInt32(value) != nil, bytes.count <= ObjectHeader.ownerLimit else { throw .invalidArgument }
        case .name: guard bytes.count <= ObjectHeader.nameLimit else { throw .outOfRange }
        case .priority: guard ["0", "1", "2", "3"].contains(value) else { throw .invalidArgument }
        }
        changeHeader { header in
            switch hint {
            case .owner: header.owner = bytes
            case .name: header.name = bytes
            case .priority: header.priority = bytes[0]
            }
            header.changed = .now()
        }
    }

    private func changeHeader(_ change: (inout ObjectHeader) -> Void) {
        header.withLock { header in
            change(&header)
            header.sizeBytes = size.load(ordering: .relaxed)
            let nanoseconds = modifiedNanoseconds.load(ordering: .relaxed)
            header.modified = FileTime(seconds: nanoseconds / 1_000_000_000, nanoseconds: nanoseconds % 1_000_000_000)
            header.write(to: index.pointee.header, store: core.identity)
        }
        KillPoint.sizeStored.pass()
    }

    /// Calls `body` with the stored header, which doesn't change meanwhile.
    func withHeaderStored(_ body: (UnsafeRawPointer) throws(Errno) -> Void) throws(Errno) {
        let result: Result<Void, Errno> = header.withLock { _ in
            do throws(Errno) { return .success(try body(index.pointee.header)) } catch { return .failure(error) }
        }
        try result.get()
    }

    func storeTimes() {
        let stored = header.withLock { $0.modified.seconds * 1_000_000_000 + $0.modified.nanoseconds }
        if stored != modifiedNanoseconds.load(ordering: .relaxed) { changeHeader { _ in } }
    }

    func noteModified(_ time: FileTime) {
        modifiedNanoseconds.store(time.seconds * 1_000_000_000 + time.nanoseconds, ordering: .relaxed)
    }

    /// Moves the end up, if it isn't there already; stored before anybody is told.
    func extend(to bytes: Int) {
        guard size.load(ordering: .acquiring) < bytes else { return }
        changeHeader { _ in size.max(bytes, ordering: .acquiringAndReleasing) }
    }

    /// Times outside 1970 … 2255 become the nearest inside, as file systems do with what they can't keep (utimensat(2)).
    public func setTimes(modified: FileTime) throws(Errno) {
        let seconds = min(max(modified.seconds, 0), 9_000_000_000)
        noteModified(FileTime(seconds: seconds, nanoseconds: seconds == modified.seconds ? modified.nanoseconds : 0))
        changeHeader { $0.changed = .now() }
    }

    // MARK: Size

    /// Up to this size, 1 GiB, the index is allocated with the size. Larger files may be sparse for good, and their entries come with their pages.
    private static let indexedAheadPages = 1 << 18

    public func setSize(_ bytes: Int) throws(Errno) {
        guard bytes >= 0 else { throw .invalidArgument }
        guard bytes <= maxObjectSizeBytes else { throw .fileTooLarge }
        try lock.exclusive { () throws(Errno) in
            let old = size.load(ordering: .acquiring)
            let pages = (bytes + basePageSize - 1) / basePageSize
            if bytes < old {
                let rest = bytes % basePageSize
                if rest != 0 {
                    try core.writing { context throws(Errno) in try zeroPart(context, page: pages - 1, from: rest, to: basePageSize) }
                }
            } else if pages > index.pointee.capacity {
                try index.pointee.grow(toPages: pages)
            }
            // Room for the entries too, while there is some: pages go out when memory is short, and into the next tier when this one is full.
            if bytes > old, pages <= Self.indexedAheadPages { try? index.pointee.allocate(0, pages) }
            // First the end, then the pages: what lies beyond the end when the store is opened again is dropped.
            changeHeader { header in
                size.store(bytes, ordering: .releasing)
                header.changed = .now()
            }
            if bytes < old {
                removeEntries(pages..<index.pointee.capacity)
                try index.pointee.free(from: pages, to: index.pointee.capacity)
                KillPoint.indexPunched.pass()
            }
            try requireIndex()
        }
        noteModified(.now())
    }

    /// EIO if the index is not what is in its file: what was just stored in it may be nowhere. The caller holds the lock.
    func requireIndex() throws(Errno) {
        guard index.pointee.isLost else { return }
        core.counters.damagedEntries.add(1, ordering: .relaxed)
        core.damage.note(object: id.rawValue, page: 0, tier: nil, "its index was cut short or can't be read, the object takes no changes")
        throw .ioError
    }

    // MARK: Entries

    func forEachEntry(in range: Range<Int>, _ body: (Int, IndexEntry) -> Void) {
        var page = range.lowerBound
        while let run = index.pointee.run(from: page, limit: range.upperBound) {
            for page in run { body(page, index.pointee.entry(page)) }
            page = run.upperBound
        }
    }

    /// Makes pages absent and their bytes dead.
    func removeEntries(_ range: Range<Int>) {
        var changes = Changes()
        forEachEntry(in: range) { page, entry in
            guard !entry.isAbsent else { return }
            let old = IndexEntry(words: PairedWords.exchange(index.pointee.address(page), with: IndexEntry.absent.words))
            KillPoint.entryRemoved.pass()
            changes.remove(old, self, page)
        }
        changes.dead.settle(core)
        KillPoint.entriesRemoved.pass()
        apply(changes)
        // Not every caller has a worker's context, whose return would do it.
        core.table.grace.collectIfWaiting()
    }

    /// Publishes entries of this object, in order, whose bytes are in place.
    @inline(__always)
    func publish(_ pending: UnsafeMutablePointer<WorkerContext.Pending>, _ count: Int) {
        var changes = Changes()
        for i in 0..<count {
            let old = IndexEntry(words: PairedWords.exchange(index.pointee.address(pending[i].page), with: pending[i].entry.words))
            if i == 0 { KillPoint.firstEntryPublished.pass() }
            changes.add(pending[i].entry)
            changes.remove(old, self, pending[i].page)
        }
        changes.dead.settle(core)
        apply(changes)
    }

    /// Replaces one entry if it is still `expected`.
    func replace(_ page: Int, _ expected: IndexEntry, with entry: IndexEntry) -> Bool {
        var seen = expected.words
        guard PairedWords.replace(index.pointee.address(page), &seen, with: entry.words) else { return false }
        var changes = Changes()
        changes.add(entry)
        changes.remove(expected, self, page)
        changes.dead.settle(core)
        apply(changes)
        return true
    }

    /// What a run of changes comes to.
    private struct Changes {
        var pages = 0
        var bytes = 0
        var fills = 0
        var dead = DeadPages()

        @inline(__always) mutating func add(_ entry: IndexEntry) {
            if entry.isAbsent { return }
            pages += 1
            if entry.isFill { fills += 1 } else { bytes += entry.share }
        }

        @inline(__always) mutating func remove(_ old: IndexEntry, _ object: PackedObject, _ page: Int) {
            if old.isAbsent { return }
            pages -= 1
            switch old.kind(object: object.id.rawValue, page: page) {
            // A damaged entry may name another's segment: what it stood for is never counted as dead.
            case .absent, .damaged: break
            case .fill: fills -= 1
            case .block:
                bytes -= old.share
                dead.add(old, object.core)
            }
        }
    }

    /// Pages of one segment that died one after the other: told to the table at once, for neighbours in an object mostly are in a segment.
    private struct DeadPages {
        private var segment = -1
        private var pages = 0
        private var bytes = 0

        @inline(__always) mutating func add(_ old: IndexEntry, _ core: StoreCore) {
            let segment = core.geometry.segment(of: old.location)
            if segment != self.segment {
                settle(core)
                self.segment = segment
            }
            pages += 1
            bytes += old.share
        }

        @inline(__always) mutating func settle(_ core: StoreCore) {
            if pages > 0 { core.table.drop(segment, pages: pages, bytes: bytes) }
            (segment, pages, bytes) = (-1, 0, 0)
        }
    }

    @inline(__always) private func apply(_ changes: Changes) {
        pageCount.add(changes.pages, ordering: .relaxed)
        storedBytes.add(changes.bytes, ordering: .relaxed)
        core.counters.pages.add(changes.pages, ordering: .relaxed)
        core.counters.storedBytes.add(changes.bytes, ordering: .relaxed)
        core.counters.fills.add(changes.fills, ordering: .relaxed)
    }

    /// The object's file is gone; its pages die with its last user.
    var isRemoved: Bool { removed.load(ordering: .acquiring) }

    func markRemoved() { removed.store(true, ordering: .releasing) }
}
