public import ShrinkLinux
import SystemPackage

/// Where pages go: eight operations, each an ordinary file call on a directory (docs/architecture.md, "The backup contract is POSIX").
///
/// The kernel's counterpart is `ttm_backup`. All calls block; they are made from dedicated threads, several at once, but only one at a
/// time for one object.
public protocol Backup: AnyObject, Sendable {
    /// Makes room for an object's pages (`ttm_tt_setup_backup`): done when the object is made, so that nothing of the kind is left for reclaim.
    func create(_ id: ObjectID, sizeBytes: Int, hints: BackupHints) throws(EngineError)

    /// The object's content. The file may be kept open by the backup between calls.
    func open(_ id: ObjectID) throws(EngineError) -> BackupFile

    /// Removes an object and its pages (`ttm_backup_fini`). One that is gone already is fine.
    func remove(_ id: ObjectID) throws(EngineError)

    /// An id above every id ever used here.
    func nextID() throws(EngineError) -> ObjectID

    /// The same, above a given id as well: pools of one engine may have different backups, their objects' ids are unique all the same.
    func nextID(above floor: ObjectID) throws(EngineError) -> ObjectID

    /// How the backup stands.
    func status() -> BackupStatus

    /// What `status` calls its path; known without asking.
    var location: String { get }

    /// Bytes that may still be stored (`ttm_backup_bytes_avail`); `UInt64.max` if there is no limit.
    var availableBytes: UInt64 { get }

    /// True if what is stored takes memory: then freeing pages nets only what the store saves.
    var isMemory: Bool { get }

    /// True if a page of zeros that is written takes nothing and is a hole afterwards. Then runs may be written over short gaps of zeros.
    var makesHolesOfZeros: Bool { get }

    /// The device under it, if that may sleep.
    var power: (any PowerGate)? { get }

    /// Windows of its server; nil if it has none.
    var windows: BackupWindows? { get }

    /// Ids that lie in the backup.
    func objects() throws(EngineError) -> [ObjectID]

    /// The server behind the backup is gone for good (ENOTCONN): look whether another one is there, and forget files of the old one.
    @discardableResult
    func reconnect() -> Bool
}

extension Backup {
    /// Most backups have no server.
    @discardableResult
    public func reconnect() -> Bool { false }
}

extension Backup {
    public var makesHolesOfZeros: Bool { false }
    public var windows: BackupWindows? { nil }
    public var location: String { "" }

    public func nextID(above floor: ObjectID) throws(EngineError) -> ObjectID {
        var id = try nextID()
        while id <= floor { id = try nextID() }
        return id
    }
}

/// What the backup may show of an object; a directory may refuse it at no loss but the hint.
public struct BackupHints: Sendable {
    public var owner: UInt32
    public var name: String
    public var priority: Priority

    public init(owner: UInt32, name: String, priority: Priority) {
        self.owner = owner
        self.name = name
        self.priority = priority
    }
}

public struct BackupStatus: Sendable {
    /// The directory.
    public var path: String
    public var storedBytes: UInt64?
    public var availableBytes: UInt64
    public var features: [Feature]

    public init(path: String, storedBytes: UInt64?, availableBytes: UInt64, features: [Feature] = []) {
        self.path = path
        self.storedBytes = storedBytes
        self.availableBytes = availableBytes
        self.features = features
    }
}

/// Something a machine may lack, with the reason if it does.
public struct Feature: Sendable, Equatable {
    public var name: String
    public var isAvailable: Bool
    public var reason: String?

    public init(_ name: String, isAvailable: Bool, reason: String? = nil) {
        self.name = name
        self.isAvailable = isAvailable
        self.reason = reason
    }

    /// `verdict`: as a server's `stats` have it, "yes", or "no: " and the reason.
    init(_ name: String, verdict: String) {
        let yes = verdict == "yes"
        self.init(name, isAvailable: yes, reason: yes ? nil : verdict.replacing("no: ", with: ""))
    }
}

/// An object's pages in the backup: an open `data` file.
public final class BackupFile: Sendable {
    private let descriptor: OwnedDescriptor
    /// A write must be on the device before its words flip, since the directory is not memory.
    private let isStableOnlyWhenSynced: Bool
    private let isPassedThrough: Bool
    /// In memory, and a drop is one short system call: little need be here and there at once.
    let dropsWithoutServer: Bool
    /// Where the backup tells what the object takes; otherwise the file's own blocks do.
    private let hasStoredBytesAttribute: Bool
    private let windows: BackupWindows?

    /// `isPassedThrough`: the file of a mount whose server lets the kernel read and write the file behind it. `isPlainMemory`: a memory file, or one of a tmpfs,
    /// with no server before it.
    public convenience init(
        _ descriptor: consuming OwnedDescriptor, isStableOnlyWhenSynced: Bool, isPassedThrough: Bool = false, isPlainMemory: Bool = false
    ) {
        self.init(
            descriptor, isStableOnlyWhenSynced: isStableOnlyWhenSynced, isPassedThrough: isPassedThrough, isPlainMemory: isPlainMemory,
            windows: nil)
    }

    init(
        _ descriptor: consuming OwnedDescriptor, isStableOnlyWhenSynced: Bool, isPassedThrough: Bool, isPlainMemory: Bool,
        windows: BackupWindows?
    ) {
        self.windows = windows
        self.descriptor = descriptor
        self.isPassedThrough = isPassedThrough
        dropsWithoutServer = !isStableOnlyWhenSynced && (isPassedThrough || isPlainMemory)
        self.isStableOnlyWhenSynced = isStableOnlyWhenSynced
        hasStoredBytesAttribute = Self.storedBytesAttribute(self.descriptor.number) != nil
    }

    /// Stores a run of pages (`ttm_backup_backup_page`); when it returns they are as safe as the directory makes them.
    @inline(__always)
    func write(_ pages: UnsafeRawBufferPointer, at offset: Int, writeback: Bool = false) -> Files.Written {
        Files.write(descriptor.number, pages, at: offset, isStableOnlyWhenSynced || writeback ? .dataSync : [])
    }

    /// Where a run is to be put before it is written: where the server takes it from, if it has windows.
    func blockToWrite(_ staging: Staging, writeback: Bool) -> Staging.Block {
        guard let windows, !writeback, !isStableOnlyWhenSynced else { return staging.block }
        return staging.windowBlock(of: windows) ?? staging.block
    }

    /// Stores pages of a block as above.
    func write(_ block: Staging.Block, _ pages: Range<Int>, at offset: Int, writeback: Bool, _ staging: Staging) -> Files.Written {
        let bytes = UnsafeRawBufferPointer(block.pages(pages))
        guard let window = block.window, !writeback, !isStableOnlyWhenSynced else { return write(bytes, at: offset, writeback: writeback) }
        var done = 0
        while done < bytes.count {
            do throws(Errno) {
                let n = try Files.copyRange(
                    from: window.file.number, at: pages.lowerBound * basePageSize + done, to: descriptor.number, at: offset + done,
                    count: bytes.count - done)
                if n == 0 { return Files.Written(bytes: done, error: .noSpace) }
                done += n
            } catch {
                staging.noteWindowError(error)
                guard error == .staleNFSFileHandle else { return Files.Written(bytes: done, error: error) }
                // The pages are still ours: the next server gets them the ordinary way.
                let rest = write(UnsafeRawBufferPointer(rebasing: bytes[done...]), at: offset + done)
                return Files.Written(bytes: done + rest.bytes, error: rest.error)
            }
        }
        return Files.Written(bytes: done, error: nil)
    }

    /// Reads a run back as below, without a copy where the server has windows. Returns the block whose first pages it is; short reads are EIO.
    func read(_ pages: Int, at offset: Int, _ staging: Staging) throws(Errno) -> Staging.Block {
        let count = pages * basePageSize
        if let windows, let block = staging.windowBlock(of: windows), let window = block.window {
            do throws(Errno) {
                let n = try Files.copyRange(from: descriptor.number, at: offset, to: window.file.number, at: 0, count: count)
                if n == count { return block }
            } catch {
                staging.noteWindowError(error)
                if error != .staleNFSFileHandle { throw error }
            }
        }
        guard try read(into: staging.pages(0..<pages), at: offset) == count else { throw .ioError }
        return staging.block
    }

    /// Reads a run back (`ttm_backup_copy_page`); the pages stay.
    func read(into pages: UnsafeMutableRawBufferPointer, at offset: Int) throws(Errno) -> Int {
        try Files.read(descriptor.number, into: pages, at: offset)
    }

    /// Frees a run (`ttm_backup_drop`).
    func drop(at offset: Int, length: Int) throws(Errno) {
        // Either way it is a hole; where a mapping is refused, the file server does it.
        if isPassedThrough, (try? Files.punchThroughMapping(descriptor.number, at: offset, length: length)) != nil { return }
        try Files.punch(descriptor.number, at: offset, length: length)
    }

    func nextData(from offset: Int) throws(Errno) -> Int? { try Files.nextData(descriptor.number, from: offset) }
    func nextHole(from offset: Int) throws(Errno) -> Int? { try Files.nextHole(descriptor.number, from: offset) }

    /// Moves what is there to the next tier, or to the device, now.
    func sync() throws(Errno) { try Files.sync(descriptor.number) }

    /// Bytes the object takes in the store.
    func storedBytes() -> Int {
        if hasStoredBytesAttribute, let bytes = Self.storedBytesAttribute(descriptor.number) { return bytes }
        do { return try Files.status(descriptor.number).allocatedBytes } catch { return 0 }
    }

    private static func storedBytesAttribute(_ fd: CInt) -> Int? {
        guard let value = try? ExtendedAttributes.value("user.shrinkd.stored_bytes", of: fd) else { return nil }
        return Int(String(decoding: value, as: UTF8.self))
    }
}
