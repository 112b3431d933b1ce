import ShrinkLinux
import SystemPackage

/// A backup in a directory: a mounted backupfs, a tmpfs, a disk, any file system with sparse files and page-exact holes.
///
/// Layout: `objects/<id>/data`. A mounted backupfs also has `stats`, which tells the store's use and the highest id; a plain directory gets
/// a small file `id-high-water` from us.
public final class BackupDirectory: Backup {
    public let path: String
    public var location: String { path }
    private let directories: Monitor<Directories>
    public let isMemory: Bool
    public let makesHolesOfZeros: Bool
    /// Of the disk under a directory that is one; nil for memory and for a mount, whose tiers are the server's.
    public let power: (any PowerGate)?
    private let opensDirect: Bool
    let isMounted: Bool
    private let isPassedThrough: Bool
    private let features: [Feature]
    private let ids: Monitor<IDs>
    private let files: Monitor<OpenBackupFiles>

    /// The directory and `objects` in it, open. Replaced when a file server comes back on a mount of its own.
    struct Directories: Sendable {
        var root: SharedDescriptor
        var objects: SharedDescriptor
        /// nil if the server has none.
        var windows: BackupWindows?
    }

    private struct IDs: ~Copyable {
        var next: UInt64
        /// Ids below this are reserved on disk already.
        var reserved: UInt64
    }

    private static let idBlock: UInt64 = 1024
    private static let highWaterFile = "id-high-water"

    /// Opens and probes a directory. It is refused, with the reason, if it can't keep sparse objects whose holes are exact to the page.
    public init(path: String) throws(EngineError) {
        self.path = path
        let descriptors = (try? ThisProcess.descriptorLimit()).map { Int(clamping: $0.soft) } ?? 1024
        files = Monitor(OpenBackupFiles(limit: max(16, min(EngineLimits.openBackupFiles, descriptors / 2))))
        let root: SharedDescriptor
        do throws(Errno) { root = SharedDescriptor(try Files.open(path, [.readOnly, .directory])) } catch {
            throw EngineError(.unsuitableDirectory, "the backup directory \(path) can't be opened; make it, or name another", errno: error)
        }
        let stats = Self.readStats(root.number)
        isMounted = stats["id_high_water"] != nil
        isPassedThrough = stats["passthrough"] == "yes"
        let objects: SharedDescriptor
        do throws(Errno) {
            do throws(Errno) { try Files.makeDirectory("objects", at: root.number) } catch {
                if error != .fileExists { throw error }
            }
            objects = SharedDescriptor(try Files.open("objects", [.readOnly, .directory], at: root.number))
        } catch {
            throw EngineError(
                .unsuitableDirectory, "the backup directory \(path) can't hold objects/; make it writable, or name another", errno: error)
        }
        directories = Monitor(
            Directories(root: root, objects: objects, windows: stats["windows"] == "yes" ? BackupWindows(root: root) : nil))
        let kind: FileSystem.Kind
        do throws(Errno) { kind = try FileSystem(of: root.number).kind } catch {
            throw EngineError(.unsuitableDirectory, "the backup directory \(path) does not tell its file system", errno: error)
        }
        isMemory = isMounted ? stats["first_tier"] == "memory" : kind == .memory
        makesHolesOfZeros = stats["zero_pages"] == "holes"
        power = isMemory || isMounted ? nil : SysfsPowerGate.under(path: path)
        let first = try Self.firstID(stats: stats, root: root.number, objects: objects.number)
        ids = Monitor(IDs(next: first, reserved: isMounted ? .max : first))

        // On a mount the probe is an object like any other, made and removed.
        let probe = DirectoryProbe(objects: objects.number, path: path)
        guard let id = UInt32(exactly: first) else { throw Self.idsUsedUp(path) }
        opensDirect = try probe.run(id: ObjectID(rawValue: id), isMounted: isMounted, isMemory: isMemory)
        ids.withLock { $0.next = first + 1 }

        var features: [Feature] = []
        if let passthrough = stats["passthrough"] {
            features.append(Feature("passthrough", verdict: passthrough))
        } else {
            features.append(Feature("passthrough", isAvailable: false, reason: "the backup is a plain directory, not a mounted backupfs"))
        }
        if let windows = stats["windows"], stats["passthrough"] != "yes" { features.append(Feature("windows", verdict: windows)) }
        if let huge = stats["huge_segments"] { features.append(Feature("huge_segments", verdict: huge)) }
        features.append(
            Feature(
                "direct_io", isAvailable: opensDirect,
                reason: opensDirect
                    ? nil : isMemory ? "the backup is memory" : "the file system refuses O_DIRECT; writes are synced instead"))
        self.features = features
        if !isMounted { try reserveIDs(upTo: first + 1) }
    }

    public var windows: BackupWindows? { directories.withLock { $0.windows } }

    // MARK: Objects

    public func create(_ id: ObjectID, sizeBytes: Int, hints: BackupHints) throws(EngineError) {
        let name = "\(id.rawValue)"
        do throws(Errno) {
            let file = try connected { (directories) throws(Errno) -> BackupFile in
                let objects = directories.objects.number
                try Files.makeDirectory(name, at: objects)
                do throws(Errno) {
                    let data = try Files.open(name + "/data", openFlags.union(.create), at: objects)
                    try Files.truncate(data.number, to: sizeBytes)
                    setHints(hints, data.number)
                    return BackupFile(
                        data, isStableOnlyWhenSynced: !isMemory, isPassedThrough: isPassedThrough, isPlainMemory: !isMounted,
                        windows: directories.windows)
                } catch {
                    // Leave nothing half made; what can't be removed either is an orphan and counted as one.
                    try? Files.remove(name + "/data", at: objects)
                    try? Files.removeDirectory(name, at: objects)
                    throw error
                }
            }
            // Open from now on, so that shrinking need not open it: an open file takes kernel memory.
            files.withLock { $0.keep(file, of: id) }
        } catch {
            throw .backup("making \(id) in \(path)", error)
        }
    }

    /// Hints are for people who look; a directory that refuses them loses nothing else.
    private func setHints(_ hints: BackupHints, _ fd: CInt) {
        guard isMounted else { return }
        for (name, value) in [("name", hints.name), ("priority", "\(hints.priority.rawValue)"), ("owner", "\(hints.owner)")] {
            try? ExtendedAttributes.set("user.shrinkd.\(name)", to: Array(value.utf8), of: fd)
        }
    }

    public func open(_ id: ObjectID) throws(EngineError) -> BackupFile {
        if let file = files.withLock({ $0[id] }) { return file }
        do throws(Errno) {
            let file = try connected { (directories) throws(Errno) -> BackupFile in
                let descriptor = try Files.open("\(id.rawValue)/data", openFlags, at: directories.objects.number)
                return BackupFile(
                    descriptor, isStableOnlyWhenSynced: !isMemory, isPassedThrough: isPassedThrough, isPlainMemory: !isMounted,
                    windows: directories.windows)
            }
            files.withLock { $0.keep(file, of: id) }
            return file
        } catch {
            throw .backup("opening \(id) in \(path)", error)
        }
    }

    private var openFlags: Files.OpenFlags { opensDirect ? [.readWrite, .direct] : .readWrite }

    public func remove(_ id: ObjectID) throws(EngineError) {
        files.withLock { $0.forget(id) }
        do throws(Errno) {
            try connected { (directories) throws(Errno) in
                let objects = directories.objects.number
                do throws(Errno) { try Files.remove("\(id.rawValue)/data", at: objects) } catch {
                    if error != .noSuchFileOrDirectory { throw error }
                }
                do throws(Errno) { try Files.removeDirectory("\(id.rawValue)", at: objects) } catch {
                    if error != .noSuchFileOrDirectory { throw error }
                }
            }
        } catch {
            throw .backup("removing \(id) from \(path)", error)
        }
    }

    public func objects() throws(EngineError) -> [ObjectID] {
        do throws(Errno) {
            return try connected { (directories) throws(Errno) in try Self.list(directories.objects.number) }
        } catch {
            throw .backup("listing \(path)/objects", error)
        }
    }

    // MARK: A file server that comes back

    /// Runs calls on the directory. A mount whose server is gone for good answers ENOTCONN for ever; where another one is mounted on the same
    /// path meanwhile, the calls are made once more on that.
    func connected<R>(_ body: (Directories) throws(Errno) -> R) throws(Errno) -> R {
        do throws(Errno) { return try body(directories.withLock { $0 }) } catch {
            guard error == .socketNotConnected, reconnect() else { throw error }
            return try body(directories.withLock { $0 })
        }
    }

    /// Opens the directory anew and forgets files of the old mount. False if what is there is not the same kind of directory: with the server
    /// still away the path is a bare mount point, where nothing may be stored.
    @discardableResult
    public func reconnect() -> Bool {
        guard isMounted, let root = try? Files.open(path, [.readOnly, .directory]) else { return false }
        let stats = Self.readStats(root.number)
        guard stats["id_high_water"] != nil, let objects = try? Files.open("objects", [.readOnly, .directory], at: root.number)
        else { return false }
        let shared = SharedDescriptor(root)
        let new = Directories(
            root: shared, objects: SharedDescriptor(objects), windows: stats["windows"] == "yes" ? BackupWindows(root: shared) : nil)
        directories.withLock { $0 = new }
        files.withLock { $0.forgetAll() }
        return true
    }

    private static func list(_ directory: CInt) throws(Errno) -> [ObjectID] {
        var ids: [ObjectID] = []
        try Files.forEachName(in: directory) { name in
            if let id = UInt32(name), id > 0 { ids.append(ObjectID(rawValue: id)) }
        }
        return ids.sorted()
    }

    // MARK: Ids

    public func nextID() throws(EngineError) -> ObjectID {
        let id = try ids.withLock { ids throws(EngineError) -> UInt64 in
            defer { ids.next += 1 }
            if ids.next >= ids.reserved {
                try reserveIDs(upTo: ids.next + 1)
                ids.reserved = ids.next + Self.idBlock
            }
            return ids.next
        }
        guard let id = UInt32(exactly: id) else { throw Self.idsUsedUp(path) }
        return ObjectID(rawValue: id)
    }

    public func nextID(above floor: ObjectID) throws(EngineError) -> ObjectID {
        ids.withLock { ids in
            if ids.next <= UInt64(floor.rawValue) { ids.next = UInt64(floor.rawValue) + 1 }
        }
        return try nextID()
    }

    private static func idsUsedUp(_ path: String) -> EngineError {
        EngineError(.limitReached, "all 4294967295 object ids of \(path) are used up; start with a new store")
    }

    /// Written ahead in blocks, so that a crash skips ids and never repeats one.
    private func reserveIDs(upTo id: UInt64) throws(EngineError) {
        do throws(Errno) {
            try Files.replaceContents(
                of: Self.highWaterFile, at: directories.withLock { $0.root }.number, with: Array("\(id - 1 + Self.idBlock)\n".utf8))
        } catch {
            throw .backup("noting used ids in \(path)/\(Self.highWaterFile)", error)
        }
    }

    private static func firstID(stats: [String: String], root: CInt, objects: CInt) throws(EngineError) -> UInt64 {
        do throws(Errno) {
            if let mark = stats["id_high_water"].flatMap({ UInt64($0) }) { return min(mark, UInt64(UInt32.max)) + 1 }
            var highest = try list(objects).last.map { UInt64($0.rawValue) } ?? 0
            do throws(Errno) {
                let text = String(decoding: try Files.contents(of: highWaterFile, at: root), as: UTF8.self)
                if let mark = text.split(separator: "\n").first.flatMap({ UInt64($0) }) { highest = max(highest, mark) }
            } catch {
                if error != .noSuchFileOrDirectory { throw error }
            }
            // Beyond the last id there is none: who asks for it is told so.
            return min(highest, UInt64(UInt32.max)) + 1
        } catch {
            throw .backup("reading the ids in use", error)
        }
    }

    // MARK: Status

    /// `key: value` lines of a mounted backupfs; empty for a plain directory.
    private static func readStats(_ root: CInt) -> [String: String] {
        guard let bytes = try? Files.contents(of: "stats", at: root) else { return [:] }
        var stats: [String: String] = [:]
        for line in String(decoding: bytes, as: UTF8.self).split(separator: "\n") {
            guard let colon = line.firstIndex(of: ":") else { continue }
            stats[String(line[..<colon])] = String(line[line.index(after: colon)...].drop { $0 == " " })
        }
        return stats
    }

    public var availableBytes: UInt64 {
        do throws(Errno) {
            return try connected { (directories) throws(Errno) in try FileSystem(of: directories.root.number).availableBytes }
        } catch { return 0 }
    }

    public func status() -> BackupStatus {
        let stats = isMounted ? Self.readStats(directories.withLock { $0.root }.number) : [:]
        return BackupStatus(
            path: path, storedBytes: stats["stored_bytes"].flatMap { UInt64($0) } ?? plainStoredBytes(), availableBytes: availableBytes,
            features: features)
    }

    /// What our own objects take in a plain directory.
    private func plainStoredBytes() -> UInt64? {
        let objects = directories.withLock { $0.objects }
        guard !isMounted, let ids = try? Self.list(objects.number) else { return nil }
        return ids.reduce(into: UInt64(0)) { sum, id in
            if let status = try? Files.status(of: "\(id.rawValue)/data", at: objects.number) {
                sum += UInt64(status.allocatedBytes)
            }
        }
    }
}
