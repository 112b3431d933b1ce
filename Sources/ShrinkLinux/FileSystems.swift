import CShrinkLinux
import Glibc
public import SystemPackage

/// What kind of file system a descriptor lies on, and how much room it has.
public struct FileSystem: Sendable {
    public enum Kind: Sendable, Equatable {
        /// Pages live in memory (or swap): tmpfs, ramfs.
        case memory
        case hugePages
        case fuse
        /// Anything else: a write is in the page cache until it is synced.
        case other
    }

    public var kind: Kind
    /// Bytes an unprivileged writer may still store; `UInt64.max` if the file system has no limit of its own.
    public var availableBytes: UInt64
    public var totalBytes: UInt64
    public var blockSize: Int

    /// The corresponding C functions are `fstatfs` and `fstatvfs`.
    public init(of fd: CInt) throws(Errno) {
        var fs = statfs()
        try retrying { fstatfs(fd, &fs) }
        let magic = UInt64(UInt32(truncatingIfNeeded: fs.f_type))
        switch magic {
        case SHL_TMPFS_MAGIC, SHL_RAMFS_MAGIC: kind = .memory
        case SHL_HUGETLBFS_MAGIC: kind = .hugePages
        case SHL_FUSE_MAGIC: kind = .fuse
        default: kind = .other
        }
        blockSize = Int(fs.f_bsize)
        totalBytes = Self.bytes(UInt64(fs.f_blocks), blockSize)
        // A tmpfs mounted with size=0 (and every ramfs) has no limit and reports no blocks.
        availableBytes = fs.f_blocks == 0 && kind == .memory ? .max : Self.bytes(UInt64(fs.f_bavail), blockSize)
    }

    /// The largest number where a file system claims more.
    private static func bytes(_ blocks: UInt64, _ blockSize: Int) -> UInt64 {
        let (bytes, isTooLarge) = blocks.multipliedReportingOverflow(by: UInt64(max(0, blockSize)))
        return isTooLarge ? .max : bytes
    }
}

/// Extended attributes of an open file. The corresponding C functions are `fgetxattr` and `fsetxattr`.
public enum ExtendedAttributes {
    /// The value, or nil where the attribute is missing or the file system has none.
    public static func value(_ name: String, of fd: CInt) throws(Errno) -> [UInt8]? {
        var buffer = [UInt8](repeating: 0, count: 256)
        while true {
            do {
                let capacity = buffer.count
                let n = try retrying { fgetxattr(fd, name, &buffer, capacity) }
                return Array(buffer[0..<n])
            } catch {
                if error == .noData || error == .notSupported { return nil }
                guard error == .outOfRange, buffer.count < 65536 else { throw error }
                buffer = [UInt8](repeating: 0, count: 65536)
            }
        }
    }

    public static func set(_ name: String, to value: [UInt8], of fd: CInt) throws(Errno) {
        try retrying { fsetxattr(fd, name, value, value.count, 0) }
    }
}
