import CShrinkLinux
import Glibc
public import SystemPackage

extension Files {
    /// When the file was made, or nil where its file system does not keep that. The corresponding C function is `statx(STATX_BTIME)`.
    public static func created(_ fd: CInt) throws(Errno) -> FileTime? {
        var time = timespec()
        do { try check(shl_birth_time(fd, &time)) } catch {
            if error == .noData || error == .noFunction { return nil }
            throw error
        }
        return FileTime(seconds: Int(time.tv_sec), nanoseconds: Int(time.tv_nsec))
    }

    /// Sets both times; nil leaves one as it is. The corresponding C function is `futimens`.
    public static func setTimes(_ fd: CInt, accessed: FileTime?, modified: FileTime?) throws(Errno) {
        let omit = timespec(tv_sec: 0, tv_nsec: Int((1 << 30) - 2))  // UTIME_OMIT, a macro that is not imported.
        let times = [accessed, modified].map { $0.map { timespec(tv_sec: $0.seconds, tv_nsec: $0.nanoseconds) } ?? omit }
        try retrying { futimens(fd, times) }
    }

    /// The absolute path without links, `.` and `..`. It touches every directory on the way. The corresponding C function is `realpath`.
    public static func resolved(_ path: String) throws(Errno) -> String {
        guard let real = realpath(path, nil) else { throw lastErrno }
        defer { free(real) }
        return String(cString: real)
    }

    /// True for a symbolic link. Unlike stat(2) it asks no file system that is mounted there. The corresponding C function is `readlink`.
    public static func isSymbolicLink(_ path: String) throws(Errno) -> Bool {
        var byte: CChar = 0
        do {
            try check(readlink(path, &byte, 1))
            return true
        } catch {
            if error == .invalidArgument { return false }
            throw error
        }
    }

    /// A file without a name in that directory, gone with its descriptor; where the file system has no such thing, one whose name is removed at once.
    /// The corresponding C function is `openat(O_TMPFILE)`.
    public static func openUnnamed(in directory: CInt) throws(Errno) -> OwnedDescriptor {
        do { return try open(".", OpenFlags(rawValue: SHL_O_TMPFILE.rawInt | O_RDWR), at: directory) } catch {
            guard error == .notSupported || error == .isDirectory else { throw error }
        }
        let name = "unnamed.\(getpid())"
        let file = try open(name, [.readWrite, .create, .exclusive], at: directory)
        try remove(name, at: directory)
        return file
    }
}

extension ThisProcess {
    /// The number of a system group, or nil if there is none of that name. The corresponding C function is `getgrnam_r`.
    public static func groupID(named name: String) -> UInt32? {
        var entry = group()
        var found: UnsafeMutablePointer<group>?
        var buffer = [CChar](repeating: 0, count: 16384)
        let capacity = buffer.count
        guard getgrnam_r(name, &entry, &buffer, capacity, &found) == 0, found != nil else { return nil }
        return entry.gr_gid
    }
}

extension Files {
    /// For `allocate`: beyond the end without moving it (FALLOC_FL_KEEP_SIZE).
    public static var keepSize: CInt { SHL_KEEP_SIZE.rawInt }
}
