public import SystemPackage

/// What a fault can be set on: the calls of a store and of its objects, in groups that a person can name.
public enum FaultOperation: String, Sendable, CaseIterable {
    /// Finding an object: nearly every request begins with it.
    case open
    case create
    case remove
    /// ftruncate(2), and unlink(2) of `data`, which cuts it to nothing.
    case resize
    /// Bytes out, a page file's included.
    case read
    case write
    case punch
    /// fsync(2). A write that is to be durable is a `write`.
    case sync
    /// SEEK_DATA and SEEK_HOLE.
    case seek
    /// Size, times and page facts, as stat(2) and getfattr(1) show them.
    case status
    /// Names of pages.
    case list
    /// Setting owner, name or priority.
    case hint

    /// One bit each, to tell with one load and one test whether anything is set on an operation.
    @inline(__always)
    var bit: UInt32 {
        switch self {
        case .open: 1 << 0
        case .create: 1 << 1
        case .remove: 1 << 2
        case .resize: 1 << 3
        case .read: 1 << 4
        case .write: 1 << 5
        case .punch: 1 << 6
        case .sync: 1 << 7
        case .seek: 1 << 8
        case .status: 1 << 9
        case .list: 1 << 10
        case .hint: 1 << 11
        }
    }
}

/// The errors that a fault may give, by the names of errno(3).
///
/// ENOSYS is not among them: the kernel would take it as "this file system never does that", and ask no more until it is mounted again.
/// Nor is EINTR: callers ask again at once, for ever if the fault strikes every time.
public struct FaultError: Sendable, Equatable {
    public let name: String
    public let errno: Errno

    public init?(name: String) {
        guard let found = Self.known.first(where: { $0.0 == name }) else { return nil }
        (self.name, errno) = found
    }

    public static var names: [String] { known.map { $0.0 } }

    private static let known: [(String, Errno)] = [
        ("EIO", .ioError), ("ENOSPC", .noSpace), ("EDQUOT", .diskQuotaExceeded), ("EROFS", .readOnlyFileSystem), ("ENOMEM", .noMemory),
        ("EAGAIN", .resourceTemporarilyUnavailable), ("EACCES", .permissionDenied), ("EPERM", .notPermitted),
        ("ENOENT", .noSuchFileOrDirectory), ("EBUSY", .resourceBusy), ("EFBIG", .fileTooLarge), ("EMFILE", .tooManyOpenFiles),
        ("ENFILE", .tooManyOpenFilesInSystem), ("ENODEV", .operationNotSupportedByDevice), ("ESTALE", .staleNFSFileHandle),
        ("ETIMEDOUT", .timedOut), ("EOPNOTSUPP", .notSupported),
    ]
}
