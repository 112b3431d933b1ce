import CShrinkLinux
import Glibc

/// What stat(2) says of a file.
public struct FileStatus: Sendable, Equatable {
    public enum Kind: Sendable { case regular, directory, socket, fifo, other }

    public var kind: Kind
    /// Permission bits, without the file type.
    public var mode: UInt32
    public var inode: UInt64
    public var device: UInt64
    public var linkCount: UInt64
    public var userID: UInt32
    public var groupID: UInt32
    public var sizeBytes: Int
    /// Bytes really allocated (st_blocks times 512).
    public var allocatedBytes: Int
    /// What the file system would like to be written at once (st_blksize); on tmpfs the size of the pages that the file gets.
    public var preferredBytes: Int
    public var modified: FileTime
    public var changed: FileTime
    public var accessed: FileTime

    init(_ status: stat) {
        switch status.st_mode & S_IFMT {
        case S_IFREG: kind = .regular
        case S_IFDIR: kind = .directory
        case S_IFSOCK: kind = .socket
        case S_IFIFO: kind = .fifo
        default: kind = .other
        }
        mode = status.st_mode & 0o7777
        inode = UInt64(status.st_ino)
        device = UInt64(status.st_dev)
        linkCount = UInt64(status.st_nlink)
        userID = status.st_uid
        groupID = status.st_gid
        sizeBytes = Int(status.st_size)
        allocatedBytes = Int(status.st_blocks) * 512
        preferredBytes = Int(status.st_blksize)
        modified = FileTime(status.st_mtim)
        changed = FileTime(status.st_ctim)
        accessed = FileTime(status.st_atim)
    }
}

/// A wall-clock time as files carry it.
public struct FileTime: Sendable, Equatable, Comparable {
    public var seconds: Int
    public var nanoseconds: Int

    public init(seconds: Int, nanoseconds: Int = 0) {
        self.seconds = seconds
        self.nanoseconds = nanoseconds
    }

    init(_ time: timespec) { self.init(seconds: Int(time.tv_sec), nanoseconds: Int(time.tv_nsec)) }

    /// The corresponding C function is `clock_gettime(CLOCK_REALTIME)`.
    public static func now() -> FileTime {
        var t = timespec()
        clock_gettime(CLOCK_REALTIME, &t)
        return FileTime(t)
    }

    public static func < (a: FileTime, b: FileTime) -> Bool {
        a.seconds != b.seconds ? a.seconds < b.seconds : a.nanoseconds < b.nanoseconds
    }
}
