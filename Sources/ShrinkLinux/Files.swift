import CShrinkLinux
import Glibc
public import SystemPackage

/// Calls on files and directories. Offsets and lengths are bytes; a directory is a descriptor or `currentDirectory`.
public enum Files {
    /// The corresponding C constant is `AT_FDCWD`.
    public static var currentDirectory: CInt { AT_FDCWD }

    public struct OpenFlags: OptionSet, Sendable {
        public let rawValue: CInt
        public init(rawValue: CInt) { self.rawValue = rawValue }
        public static let readOnly = OpenFlags([])
        public static let writeOnly = OpenFlags(rawValue: O_WRONLY)
        public static let readWrite = OpenFlags(rawValue: O_RDWR)
        public static let create = OpenFlags(rawValue: O_CREAT)
        public static let exclusive = OpenFlags(rawValue: O_EXCL)
        public static let truncate = OpenFlags(rawValue: O_TRUNC)
        public static let append = OpenFlags(rawValue: O_APPEND)
        public static let directory = OpenFlags(rawValue: O_DIRECTORY)
        public static let noFollow = OpenFlags(rawValue: O_NOFOLLOW)
        public static let nonBlocking = OpenFlags(rawValue: O_NONBLOCK)
        /// Bypasses the page cache; buffers, offsets and lengths must be aligned to the file system's block.
        public static let direct = OpenFlags(rawValue: SHL_O_DIRECT.rawInt)
        public static let path = OpenFlags(rawValue: SHL_O_PATH.rawInt)
    }

    /// The corresponding C function is `openat`, with O_CLOEXEC.
    public static func open(
        _ path: String, _ flags: OpenFlags, at directory: CInt = currentDirectory, mode: UInt32 = 0o600
    ) throws(Errno) -> OwnedDescriptor {
        OwnedDescriptor(owning: try retrying { shl_openat(directory, path, flags.rawValue | O_CLOEXEC, mode) })
    }

    /// Reads until `buffer` is full or the file ends; returns the bytes read. The corresponding C function is `pread`.
    public static func read(
        _ fd: CInt, into buffer: UnsafeMutableRawBufferPointer, at offset: Int
    ) throws(Errno) -> Int {
        var done = 0
        while done < buffer.count {
            let n = try retrying { pread(fd, buffer.baseAddress! + done, buffer.count - done, offset + Int(done)) }
            if n == 0 { break }
            done += n
        }
        return done
    }

    /// The outcome of a write that may stop half way: what is in the file, and why it stopped.
    public struct Written: Sendable {
        public var bytes: Int
        public var error: Errno?

        public init(bytes: Int, error: Errno?) {
            self.bytes = bytes
            self.error = error
        }
    }

    public struct WriteFlags: OptionSet, Sendable {
        public let rawValue: CInt
        public init(rawValue: CInt) { self.rawValue = rawValue }
        /// Data, and what is needed to find it again, are on the device when the call returns (RWF_DSYNC).
        public static let dataSync = WriteFlags(rawValue: SHL_RWF_DSYNC.rawInt)
    }

    /// Writes all of `buffer`, going on after short writes. The corresponding C function is `pwrite`, with flags `pwritev2`.
    public static func write(
        _ fd: CInt, _ buffer: UnsafeRawBufferPointer, at offset: Int, _ flags: WriteFlags = []
    ) -> Written {
        var done = 0
        while done < buffer.count {
            let (base, count) = (buffer.baseAddress! + done, buffer.count - done)
            do {
                let n: Int
                if flags.isEmpty {
                    n = try retrying { pwrite(fd, base, count, offset + done) }
                } else {
                    var vector = iovec(iov_base: UnsafeMutableRawPointer(mutating: base), iov_len: count)
                    n = try retrying { shl_pwritev2(fd, &vector, 1, offset + done, flags.rawValue) }
                }
                if n == 0 { return Written(bytes: done, error: .noSpace) }
                done += n
            } catch {
                return Written(bytes: done, error: error)
            }
        }
        return Written(bytes: done, error: nil)
    }

    /// Has the kernel, or the file server of both, copy from one file into another; may copy less than asked. The corresponding C function is
    /// `copy_file_range`.
    public static func copyRange(from source: CInt, at offset: Int, to target: CInt, at targetOffset: Int, count: Int) throws(Errno) -> Int
    {
        var (from, to) = (off_t(offset), off_t(targetOffset))
        return try retrying { copy_file_range(source, &from, target, &to, count, 0) }
    }

    /// Frees a byte range; it reads as zeros afterwards. The corresponding C function is `fallocate(PUNCH_HOLE|KEEP_SIZE)`.
    public static func punch(_ fd: CInt, at offset: Int, length: Int) throws(Errno) {
        try retrying { shl_fallocate(fd, SHL_PUNCH_HOLE.rawInt, offset, length) }
    }

    /// As `punch`, through a mapping that nobody touches. Where the file is one of FUSE that is passed through, the mapping is of the file behind it, so
    /// that its server need not be asked; `punch` always asks it. The corresponding C functions are `mmap`, `munlock` (what is locked is not removed),
    /// `madvise(MADV_REMOVE)` and `munmap`.
    public static func punchThroughMapping(_ fd: CInt, at offset: Int, length: Int) throws(Errno) {
        let mapping = mmap(nil, length, PROT_NONE, MAP_SHARED | SHL_MAP_NORESERVE.rawInt, fd, off_t(offset))
        guard let mapping, shl_map_failed(mapping) == 0 else { throw lastErrno }
        defer { munmap(mapping, length) }
        munlock(mapping, length)
        try retrying { madvise(mapping, length, MADV_REMOVE) }
    }

    /// The corresponding C function is `fallocate` with the given mode bits.
    public static func allocate(_ fd: CInt, mode: CInt, at offset: Int, length: Int) throws(Errno) {
        try retrying { shl_fallocate(fd, mode, offset, length) }
    }

    /// The first byte at or after `offset` that holds data, or nil if there is none. `lseek(SEEK_DATA)`.
    public static func nextData(_ fd: CInt, from offset: Int) throws(Errno) -> Int? {
        do { return try check(lseek(fd, offset, SHL_SEEK_DATA.rawInt)) } catch {
            if error == .noSuchAddressOrDevice { return nil }
            throw error
        }
    }

    /// The first byte at or after `offset` that is a hole (the end of the file counts), or nil beyond the end. `lseek(SEEK_HOLE)`.
    public static func nextHole(_ fd: CInt, from offset: Int) throws(Errno) -> Int? {
        do { return try check(lseek(fd, offset, SHL_SEEK_HOLE.rawInt)) } catch {
            if error == .noSuchAddressOrDevice { return nil }
            throw error
        }
    }

    /// The corresponding C function is `ftruncate`.
    public static func truncate(_ fd: CInt, to size: Int) throws(Errno) { try retrying { ftruncate(fd, size) } }

    /// The corresponding C function is `fdatasync` or `fsync`.
    public static func sync(_ fd: CInt, dataOnly: Bool = false) throws(Errno) {
        try retrying { dataOnly ? fdatasync(fd) : fsync(fd) }
    }

    /// The corresponding C function is `fstat`.
    public static func status(_ fd: CInt) throws(Errno) -> FileStatus {
        var status = stat()
        try check(fstat(fd, &status))
        return FileStatus(status)
    }

    /// The corresponding C function is `fstatat` without following a final link.
    public static func status(of path: String, at directory: CInt = currentDirectory) throws(Errno) -> FileStatus {
        var status = stat()
        try check(fstatat(directory, path, &status, AT_SYMLINK_NOFOLLOW))
        return FileStatus(status)
    }

    /// The corresponding C function is `mkdirat`.
    public static func makeDirectory(_ path: String, at directory: CInt = currentDirectory, mode: UInt32 = 0o700) throws(Errno) {
        try retrying { mkdirat(directory, path, mode) }
    }

    /// Makes a directory and its missing parents; one that is there already is fine.
    public static func makeDirectories(_ path: String, mode: UInt32 = 0o700) throws(Errno) {
        var prefix = path.hasPrefix("/") ? "/" : ""
        for part in path.split(separator: "/") {
            prefix += prefix.isEmpty || prefix.hasSuffix("/") ? String(part) : "/" + part
            do { try makeDirectory(prefix, mode: mode) } catch {
                if error != .fileExists { throw error }
            }
        }
    }

    /// The corresponding C function is `unlinkat`.
    public static func remove(_ path: String, at directory: CInt = currentDirectory) throws(Errno) {
        try retrying { unlinkat(directory, path, 0) }
    }

    /// The corresponding C function is `unlinkat(AT_REMOVEDIR)`.
    public static func removeDirectory(_ path: String, at directory: CInt = currentDirectory) throws(Errno) {
        try retrying { unlinkat(directory, path, AT_REMOVEDIR) }
    }

    /// The corresponding C function is `renameat`.
    public static func rename(_ old: String, to new: String, at directory: CInt = currentDirectory) throws(Errno) {
        try retrying { renameat(directory, old, directory, new) }
    }

    /// Calls `body` with every name in a directory but `.` and `..`, in no order. The corresponding C function is `readdir`.
    public static func forEachName(in directory: CInt, _ body: (String) -> Void) throws(Errno) {
        // A descriptor of its own: fdopendir takes it over, and the reading position is not shared.
        let own = try open(".", [.readOnly, .directory], at: directory).release()
        guard let stream = fdopendir(own) else {
            let error = lastErrno
            _ = close(own)
            throw error
        }
        defer { closedir(stream) }
        while true {
            errno = 0
            guard let entry = readdir(stream) else {
                if errno != 0 { throw lastErrno }
                return
            }
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != "." && name != ".." { body(name) }
        }
    }

    /// The whole of a small file, at most `limit` bytes (more is EFBIG).
    public static func contents(of path: String, at directory: CInt = currentDirectory, limit: Int = 1 << 20) throws(Errno) -> [UInt8] {
        let file = try open(path, .readOnly, at: directory)
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 16384)
        while true {
            // /proc and FUSE files have no useful size or offset: read on until the end.
            let n = try retrying { Glibc.read(file.number, &chunk, 16384) }
            if n == 0 { return bytes }
            bytes.append(contentsOf: chunk[0..<n])
            if bytes.count > limit { throw .fileTooLarge }
        }
    }

    /// Writes a small file whole or not at all: into a temporary name, synced, then renamed over `path`.
    public static func replaceContents(of path: String, at directory: CInt = currentDirectory, with bytes: [UInt8], mode: UInt32 = 0o600)
        throws(Errno)
    {
        let temporary = path + ".new"
        let file = try open(temporary, [.writeOnly, .create, .truncate], at: directory, mode: mode)
        let written = bytes.withUnsafeBytes { write(file.number, $0, at: 0) }
        if let error = written.error { throw error }
        try sync(file.number, dataOnly: true)
        try rename(temporary, to: path, at: directory)
    }

    /// Takes the file's exclusive lock; false if another open file holds it. It goes with the last descriptor. `flock`.
    public static func tryLock(_ fd: CInt) throws(Errno) -> Bool {
        do {
            try retrying { shl_lock_exclusive_nonblocking(fd) }
            return true
        } catch {
            if error == .wouldBlock { return false }
            throw error
        }
    }

    /// The corresponding C function is `fchmod`.
    public static func setMode(_ fd: CInt, _ mode: UInt32) throws(Errno) { try retrying { fchmod(fd, mode) } }

    /// The corresponding C function is `fchownat`.
    public static func setOwner(_ path: String, at directory: CInt = currentDirectory, uid: UInt32, gid: UInt32) throws(Errno) {
        try retrying { fchownat(directory, path, uid, gid, AT_SYMLINK_NOFOLLOW) }
    }
}

extension BinaryInteger {
    /// C enumerators import with the type their values need; the calls want an int.
    var rawInt: CInt { CInt(truncatingIfNeeded: self) }
    var rawUnsigned: CUnsignedInt { CUnsignedInt(truncatingIfNeeded: self) }
}

extension Files {
    /// Writes all of `buffer` to a file without offsets: a pipe, a control file of the kernel. The corresponding C function is `write`.
    public static func writeStream(_ fd: CInt, _ buffer: UnsafeRawBufferPointer) -> Written {
        var done = 0
        while done < buffer.count {
            do throws(Errno) { done += try retrying { Glibc.write(fd, buffer.baseAddress! + done, buffer.count - done) } } catch {
                return Written(bytes: done, error: error)
            }
        }
        return Written(bytes: done, error: nil)
    }
}
