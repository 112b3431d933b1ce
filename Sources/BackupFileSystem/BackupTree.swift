import CFuse3
import Glibc
import Logging
public import PageStore
import ShrinkLinux
public import SystemPackage

/// A store to serve, and what the tree says about it.
public struct ServedStore: Sendable {
    public var store: any ObjectStore
    /// `raw` or `packed`.
    public var layout: String
    /// The store's directories, the fastest tier first.
    public var directories: [Directory]
    /// Where faults are set; nil unless they are allowed.
    private(set) var faults: FaultRules?

    public struct Directory: Sendable {
        public var path: String
        /// `memory` where pages live in memory or swap, `disk` otherwise.
        public var kind: String
    }

    /// Looks at the directories now: later, something that hangs may be mounted on the way to them.
    public init(_ store: any ObjectStore, layout: String, directories paths: [String]) throws(Errno) {
        precondition(!paths.isEmpty, "a store has a directory")
        self.store = store
        self.layout = layout
        directories = []
        for path in paths {
            let directory = try Files.open(path, [.readOnly, .directory])
            let fileSystem = try FileSystem(of: directory.number)
            directories.append(Directory(path: try Files.resolved(path), kind: fileSystem.kind == .memory ? "memory" : "disk"))
        }
    }

    /// Lets the daemon set faults from now on (`user.shrinkd.faults` on the root). Every byte then goes through the server.
    public mutating func allowFaults() {
        guard faults == nil else { return }
        let rules = FaultRules()
        func wrapped(_ store: some ObjectStore) -> any ObjectStore { FaultyStore(store, rules) }
        store = wrapped(store)
        faults = rules
    }
}

/// The tree that a mount shows: every operation of the file system, by node, without any state per node.
///
/// Methods are called on serving threads, several at once, and answer before they return.
final class BackupTree: Sendable {
    let served: ServedStore
    let ownership = Ownership()
    let counters = RequestCounters()
    let snapshots: SnapshotTable
    let windows: TransferWindows
    let errors: ErrorLog
    let passthrough: Passthrough
    /// Tells a node from one of the same number in another life of the store or of the object (FUSE's `generation`).
    let incarnations: Incarnations
    let started = FileTime.now()
    let version: String
    /// False if the operator wants every byte to go through the server.
    let allowsPassthrough: Bool
    /// Objects whose `data` was unlinked and whose directory is still there. Their content is gone; a restart shows them empty.
    private let unlinked = Monitor(Set<UInt32>())

    var store: any ObjectStore { served.store }

    init(_ served: ServedStore, _ options: ServeOptions, passthrough: Passthrough, saved: SessionState, logger: Logger) {
        self.served = served
        version = options.version
        allowsPassthrough = options.allowsPassthrough
        self.passthrough = passthrough
        incarnations = Incarnations(in: saved)
        snapshots = SnapshotTable(firstHandle: saved.firstHandle)
        windows = TransferWindows(firstHandle: saved.firstHandle)
        errors = ErrorLog(logger)
    }

    // MARK: Objects

    func object(_ id: StoredObjectID) throws(Errno) -> any StoredObject {
        guard let object = try store.object(id) else { throw .noSuchFileOrDirectory }
        return object
    }

    func isUnlinked(_ id: StoredObjectID) -> Bool { unlinked.withLock { $0.contains(id.rawValue) } }

    func setUnlinked(_ id: StoredObjectID, _ value: Bool) {
        unlinked.withLock { set in
            if value { set.insert(id.rawValue) } else { set.remove(id.rawValue) }
        }
    }

    // MARK: Names

    /// In bytes, as statvfs(3) says.
    static let longestName = 255

    /// What `name` in the directory `parent` stands for; nil if it can't be a name there.
    func node(named name: String, in parent: Node) throws(Errno) -> Node? {
        guard name.utf8.count <= Self.longestName else { throw .fileNameTooLong }
        switch parent {
        case .root:
            return switch name {
            case "stats": .stats
            case "objects": .objects
            default: Self.window(named: name)
            }
        case .objects: return StoredObjectID(name: name).map { .object($0) }
        case .object(let id):
            return switch name {
            case "data": .data(id)
            case "content": .content(id)
            case "info": .info(id)
            case "pages": .pages(id)
            default: nil
            }
        case .pages(let id): return StoredPageIndex(name: name).map { .page(id, $0) }
        case .stats, .data, .content, .info, .page, .window: throw .notDirectory
        }
    }

    func lookup(_ reply: consuming Reply, in parent: Node?, _ name: String) {
        counters.count(.lookup)
        let entry: fuse_entry_param
        do throws(Errno) {
            guard let parent, let node = try node(named: name, in: parent) else { throw .noSuchFileOrDirectory }
            if let id = parent.objectID, isUnlinked(id) { throw .noSuchFileOrDirectory }
            entry = try self.entry(for: node)
        } catch {
            return reply.fail(errors.noting(error, .lookup, parent))
        }
        reply.entry(entry)
    }

    // MARK: Attributes

    func getattr(_ reply: consuming Reply, _ node: Node?) {
        counters.count(.getattr)
        let status: stat
        do throws(Errno) {
            guard let node else { throw .staleNFSFileHandle }
            status = try statusWhileOpen(of: node)
        } catch {
            return reply.fail(errors.noting(error, .getattr, node))
        }
        reply.attributes(status, validSeconds: node.map { attributesValidSeconds($0) } ?? 0)
    }

    /// Sizes, times and owners of objects change behind the kernel's back (passthrough, ageing), so it asks every time.
    ///
    /// The directories on the way to a page are looked at with every page of `ls -l`: their owner and mode hold for a moment. Not before the object
    /// has its owner, who would be turned away for that moment.
    func attributesValidSeconds(_ node: Node) -> Double {
        switch node {
        case .root, .objects: 1
        case .object(let id), .pages(let id): (try? store.object(id))??.hint(.owner) == nil ? 0 : Self.listedValidSeconds
        default: 0
        }
    }

    /// What a listing said of a page may be believed this long, which is what `ls -l` needs from the listing to its look at the page. Opening a page
    /// always asks.
    static let listedValidSeconds = 0.1

    func nameValidSeconds(_ node: Node) -> Double {
        switch node {
        // Two names that are there as long as the mount is.
        case .stats, .objects: 3600
        // Removed through this mount only; the kernel then knows.
        case .object: 1
        // There until `data` is unlinked, which is on the object's way out.
        case .pages: attributesValidSeconds(node)
        default: 0
        }
    }

    func entry(for node: Node) throws(Errno) -> fuse_entry_param {
        var entry = fuse_entry_param()
        entry.ino = node.number
        entry.generation = incarnations.generation(of: node)
        entry.attr = try status(of: node)
        entry.attr_timeout = attributesValidSeconds(node)
        entry.entry_timeout = nameValidSeconds(node)
        return entry
    }

    /// fstat(2) of an open page file whose page went away meanwhile: the file is there until it is closed, without a name.
    private func statusWhileOpen(of node: Node) throws(Errno) -> stat {
        do throws(Errno) { return try self.status(of: node) } catch {
            guard error == .noSuchFileOrDirectory, case .page(let id, _) = node, snapshots.isOpen(node.number) else { throw error }
            var status = stat()
            status.st_ino = UInt(node.number)
            status.st_nlink = 0
            status.st_size = basePageSize
            status.st_blksize = Int(basePageSize)
            let owner = (try? store.object(id))??.hint(.owner).flatMap { UInt32($0) } ?? ownership.daemon
            let access = ownership.access(to: node, owner: owner)
            status.st_mode = access.mode
            status.st_uid = access.uid
            status.st_gid = ownership.group
            return status
        }
    }

    func owner(of object: any StoredObject) -> UInt32 { object.hint(.owner).flatMap { UInt32($0) } ?? ownership.daemon }

    /// What stat(2) shows. ENOENT if the node is not there.
    func status(of node: Node) throws(Errno) -> stat {
        var status = stat()
        status.st_ino = UInt(node.number)
        status.st_nlink = node.isDirectory ? 2 : 1
        status.st_blksize = Int(basePageSize)
        var owner = ownership.daemon
        var (modified, changed) = (started, started)
        if let id = node.objectID {
            let object = try self.object(id)
            let attributes = try object.attributes
            owner = self.owner(of: object)
            (modified, changed) = (attributes.modified, attributes.changed)
            switch node {
            case .data, .content:
                status.st_size = attributes.sizeBytes
                // `du` counts every page once: in `pages`.
                status.st_blocks = 0
                // What programs should move at once.
                status.st_blksize = Worker.maxTransferBytes
                if isUnlinked(id) { status.st_nlink = 0 }
            case .page(_, let index):
                guard let page = try object.page(index) else { throw .noSuchFileOrDirectory }
                return self.status(
                    of: node, owner: owner, ListedPage(index: index, modified: page.modified, storedBytes: page.storedBytes))
            default: break
            }
        } else if node == .objects {
            // One means: not counted.
            status.st_nlink = 1
        } else if case .window = node {
            status.st_size = TransferWindows.sizeBytes
        } else if node == .stats {
            (modified, changed) = (FileTime.now(), FileTime.now())
        }
        finish(&status, node, owner: owner, modified: modified, changed: changed)
        return status
    }

    /// What stat(2) shows of a page file.
    func status(of node: Node, owner: UInt32, _ page: ListedPage) -> stat {
        var status = stat()
        status.st_ino = UInt(node.number)
        status.st_nlink = 1
        status.st_blksize = Int(basePageSize)
        status.st_size = basePageSize
        status.st_blocks = (page.storedBytes + 511) / 512
        finish(&status, node, owner: owner, modified: page.modified, changed: page.modified)
        return status
    }

    private func finish(_ status: inout stat, _ node: Node, owner: UInt32, modified: FileTime, changed: FileTime) {
        let access = ownership.access(to: node, owner: owner)
        status.st_mode = access.mode
        status.st_uid = access.uid
        status.st_gid = ownership.group
        status.st_mtim = timespec(tv_sec: modified.seconds, tv_nsec: modified.nanoseconds)
        status.st_atim = status.st_mtim
        status.st_ctim = timespec(tv_sec: changed.seconds, tv_nsec: changed.nanoseconds)
    }

    func statfs(_ reply: consuming Reply) {
        counters.count(.statfs)
        let room = store.room
        var status = statvfs()
        status.f_bsize = UInt(basePageSize)
        status.f_frsize = UInt(basePageSize)
        status.f_blocks = fsblkcnt_t(room.totalBytes / UInt64(basePageSize))
        status.f_bfree = fsblkcnt_t(min(room.availableBytes, UInt64(Int64.max)) / UInt64(basePageSize))
        status.f_bavail = status.f_bfree
        // Every object id not yet given.
        status.f_files = fsfilcnt_t(UInt32.max)
        status.f_ffree = fsfilcnt_t(UInt32.max - store.highestID)
        status.f_favail = status.f_ffree
        status.f_namemax = UInt(Self.longestName)
        reply.fileSystem(status)
    }
}
