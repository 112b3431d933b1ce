public import ShrinkLinux
public import SystemPackage

/// The name of an object in a store and in the tree: 1 … 2^32-1, never used again while the store lives.
public struct StoredObjectID: RawRepresentable, Hashable, Comparable, Sendable, CustomStringConvertible {
    public let rawValue: UInt32

    public init?(rawValue: UInt32) {
        guard rawValue > 0 else { return nil }
        self.rawValue = rawValue
    }

    /// Plain decimal without sign, space or leading zero; anything else is not the name of an object.
    public init?(name: some StringProtocol) {
        guard !name.isEmpty, name.utf8.allSatisfy({ (48...57).contains($0) }), name.utf8.first != 48,
            let value = UInt32(name)
        else { return nil }
        rawValue = value
    }

    public var description: String { String(rawValue) }
    public static func < (a: StoredObjectID, b: StoredObjectID) -> Bool { a.rawValue < b.rawValue }
}

/// The position of a page in its object, counted in pages of `basePageSize`.
public struct StoredPageIndex: RawRepresentable, Hashable, Comparable, Sendable {
    public let rawValue: UInt32

    /// Pages of one object: 2^28, which makes 1 TiB. A node id has that many bits for the page.
    public static let limit: UInt32 = 1 << 28

    public init?(rawValue: UInt32) {
        guard rawValue < Self.limit else { return nil }
        self.rawValue = rawValue
    }

    /// Plain decimal; anything else is not the name of a page.
    public init?(name: some StringProtocol) {
        guard !name.isEmpty, name.utf8.allSatisfy({ (48...57).contains($0) }), name == "0" || name.utf8.first != 48,
            let value = UInt32(name), value < Self.limit
        else { return nil }
        rawValue = value
    }

    public static func < (a: StoredPageIndex, b: StoredPageIndex) -> Bool { a.rawValue < b.rawValue }
}

/// The largest object: `StoredPageIndex.limit` pages.
public let maxObjectSizeBytes = Int(StoredPageIndex.limit) * basePageSize

/// Objects of bytes that know which of their pages hold data: what a mounted backup shows and the engine's eight calls reach.
///
/// All methods may be called from several threads at once, also on one object, and block. Errors are errno values a file call may
/// return. Nothing here is called on the cooperative pool.
public protocol ObjectStore: AnyObject, Sendable {
    associatedtype Object: StoredObject

    /// The object, or nil if there is none of that id.
    func object(_ id: StoredObjectID) throws(Errno) -> Object?

    /// Ids after `id` (all if nil) in ascending order, at most `limit`.
    func objects(after id: StoredObjectID?, limit: Int) -> [StoredObjectID]

    /// A new empty object. EEXIST if it is there or was ever there: ids are not used again.
    func create(_ id: StoredObjectID) throws(Errno) -> Object

    /// Removes an object with its pages. Descriptors and snapshots taken before stay readable where the layout allows it.
    func remove(_ id: StoredObjectID) throws(Errno)

    /// The highest id ever created here.
    var highestID: UInt32 { get }

    var space: StoreSpace { get }

    /// As `space`, without the sums: cheap enough for every statfs(2).
    var room: StoreRoom { get }

    /// A nameless file like those that `backingFile` gives, to find out whether the kernel takes such a one; nil if there are none.
    func makeBackingProbe() throws(Errno) -> OwnedDescriptor?

    /// Facts for `stats`, in the order they are shown.
    func facts() -> [(key: String, value: String)]

    /// Writes out what a clean stop owes the directory. No call follows.
    func close()
}

/// Room and use of a store; bytes.
public struct StoreSpace: Sendable {
    public var totalBytes: UInt64
    public var availableBytes: UInt64
    /// Bytes that pages take, as stored.
    public var storedBytes: UInt64
    public var pageCount: UInt64
    public var objectCount: UInt64

    public init(totalBytes: UInt64, availableBytes: UInt64, storedBytes: UInt64, pageCount: UInt64, objectCount: UInt64) {
        self.totalBytes = totalBytes
        self.availableBytes = availableBytes
        self.storedBytes = storedBytes
        self.pageCount = pageCount
        self.objectCount = objectCount
    }
}

/// One object of a store: a sparse file whose holes are exact to the page.
public protocol StoredObject: AnyObject, Sendable {
    var id: StoredObjectID { get }

    var attributes: StoredObjectAttributes { get throws(Errno) }

    /// Sets the size; pages beyond it are gone, the part of a page beyond it reads as zeros if the object grows again. EFBIG beyond `maxObjectSizeBytes`.
    func setSize(_ bytes: Int) throws(Errno)

    /// Reads up to the object's end; holes read as zeros. Returns the bytes read. No read mixes two versions of a page.
    func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int) throws(Errno) -> Int

    /// Writes and extends the size if need be. What is written before an error stays and is counted: a short count first, the error on the next call.
    func write(_ buffer: UnsafeRawBufferPointer, at offset: Int, _ durability: Durability) throws(Errno) -> Int

    /// Makes whole pages in the range holes and zeroes the parts of pages at its ends; the size stays.
    func punch(at offset: Int, length: Int) throws(Errno)

    /// The first offset at or after `offset` with data (a page that is there), or nil if none before the end. ENXIO is the caller's.
    func nextData(from offset: Int) throws(Errno) -> Int?

    /// The first offset at or after `offset` in a hole; the end of the object counts as one.
    func nextHole(from offset: Int) throws(Errno) -> Int

    /// Puts what is written where it survives a power cut, or in the next tier if there is one.
    func sync() throws(Errno)

    /// What is known of a page that is there, or nil for a hole.
    func page(_ index: StoredPageIndex) throws(Errno) -> StoredPageInfo?

    /// Pages that are there, at or after `first`, in ascending order, at most `limit`.
    func pages(from first: StoredPageIndex, limit: Int) throws(Errno) -> [StoredPageIndex]

    /// Pages as `pages(from:limit:)` gives them, each with what stat(2) shows of it.
    func listing(from first: StoredPageIndex, limit: Int) throws(Errno) -> [ListedPage]

    /// Copies one page as it is at some moment during the call, zeros after the object's end; nil if it is not there. `page` is `basePageSize` bytes.
    func snapshot(of index: StoredPageIndex, into page: UnsafeMutableRawBufferPointer) throws(Errno) -> StoredPageInfo?

    /// Pages that are there, counted by tier, the fastest first. May walk over the whole object.
    func pagesByTier() throws(Errno) -> [Int]

    /// Sets the time of the last change of the object's bytes (utimensat(2)).
    func setTimes(modified: FileTime) throws(Errno)

    /// A file that holds the object's bytes at their own offsets, if the layout has one: for FUSE passthrough.
    var backingFile: SharedDescriptor? { get }

    /// The hint's value (`owner`, `name`, `priority`), or nil if none was set.
    func hint(_ hint: ObjectHint) -> String?

    /// Keeps a hint. EOPNOTSUPP where the directory can't.
    func setHint(_ hint: ObjectHint, to value: String) throws(Errno)
}

public enum Durability: Sendable {
    /// In the store; a disk may not have it yet.
    case buffered
    /// On the device, or in the next tier, when the call returns (RWF_DSYNC).
    case durable
}

/// What the daemon may say about an object (`user.shrinkd.<name>`).
public enum ObjectHint: String, Sendable, CaseIterable {
    /// A uid in decimal.
    case owner
    case name
    /// 0 … 3.
    case priority
}

public struct StoredObjectAttributes: Sendable {
    public var sizeBytes: Int
    public var pageCount: Int
    /// Bytes the object's pages take in the store.
    public var storedBytes: Int
    public var created: FileTime
    public var modified: FileTime
    public var changed: FileTime

    public init(sizeBytes: Int, pageCount: Int, storedBytes: Int, created: FileTime, modified: FileTime, changed: FileTime) {
        self.sizeBytes = sizeBytes
        self.pageCount = pageCount
        self.storedBytes = storedBytes
        self.created = created
        self.modified = modified
        self.changed = changed
    }
}

public struct StoredPageInfo: Sendable {
    /// When it was backed up (raw: the file's time).
    public var modified: FileTime
    public var storedBytes: Int
    /// Position of the tier in the store's list, 0 the fastest.
    public var tier: Int?
    public var codec: String?
    public var checksum: UInt32?

    public init(modified: FileTime, storedBytes: Int, tier: Int? = nil, codec: String? = nil, checksum: UInt32? = nil) {
        self.modified = modified
        self.storedBytes = storedBytes
        self.tier = tier
        self.codec = codec
        self.checksum = checksum
    }
}

/// A page in a listing.
public struct ListedPage: Sendable {
    public var index: StoredPageIndex
    /// When it was backed up (raw: the file's time).
    public var modified: FileTime
    public var storedBytes: Int

    public init(index: StoredPageIndex, modified: FileTime, storedBytes: Int) {
        self.index = index
        self.modified = modified
        self.storedBytes = storedBytes
    }
}

extension StoredObject {
    public func listing(from first: StoredPageIndex, limit: Int) throws(Errno) -> [ListedPage] {
        var listed: [ListedPage] = []
        var next: StoredPageIndex? = first
        // Pages may go away between the two calls; empty means that there are no more.
        while listed.isEmpty, let from = next {
            let found = try pages(from: from, limit: limit)
            for index in found {
                guard let page = try page(index) else { continue }
                listed.append(ListedPage(index: index, modified: page.modified, storedBytes: page.storedBytes))
            }
            next = found.last.flatMap { StoredPageIndex(rawValue: $0.rawValue + 1) }
        }
        return listed
    }
}

/// Why a store can't be opened or served: one sentence with cause and way out.
public struct StoreError: Error, Sendable, CustomStringConvertible {
    public struct Code: Hashable, Sendable {
        private enum Value: Hashable, Sendable { case missing, busy, foreign, newer, readOnly, damaged, unsupported, usage, system }
        private let value: Value
        /// The directory is not there.
        public static let missing = Code(value: .missing)
        /// Another server has it open.
        public static let busy = Code(value: .busy)
        /// The directory holds something else.
        public static let foreign = Code(value: .foreign)
        /// Written by a later version.
        public static let newer = Code(value: .newer)
        public static let readOnly = Code(value: .readOnly)
        public static let damaged = Code(value: .damaged)
        /// The file system lacks what the layout needs.
        public static let unsupported = Code(value: .unsupported)
        /// What was asked for makes no sense for this store.
        public static let usage = Code(value: .usage)
        public static let system = Code(value: .system)
    }

    public var code: Code
    public var message: String
    public var errno: Errno?

    public init(_ code: Code, _ message: String, errno: Errno? = nil) {
        self.code = code
        self.message = message
        self.errno = errno
    }

    public var description: String { errno.map { "\(message) (\($0))" } ?? message }
}
