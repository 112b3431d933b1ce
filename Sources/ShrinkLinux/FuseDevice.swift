import CShrinkLinux
import Glibc
public import SystemPackage

/// The kernel's end of a FUSE file system: `/dev/fuse` and its ioctls (fuse(4), linux/fuse.h), as far as libfuse 3.14 does not know them.
public enum FuseDevice {
    /// A connection not yet mounted. The corresponding C function is `open("/dev/fuse")`.
    public static func open() throws(Errno) -> OwnedDescriptor { try Files.open("/dev/fuse", .readWrite) }

    /// The next request, whole. Not retried: EINTR ends the call so that a stopping server notices, ENOENT is a request that was withdrawn,
    /// ENODEV is the end of the mount. The corresponding C function is `read`.
    public static func read(_ device: CInt, into buffer: UnsafeMutableRawBufferPointer) throws(Errno) -> Int {
        try check(Glibc.read(device, buffer.baseAddress, buffer.count))
    }

    /// Sends one reply made of `count` iovecs. Leaves errno as it is, for libfuse's writev hook. The corresponding C function is `writev`.
    public static func reply(_ device: CInt, vectors: UnsafeRawPointer, count: CInt) -> Int {
        Glibc.writev(device, vectors.assumingMemoryBound(to: iovec.self), count)
    }

    /// Registers a file for passthrough and returns its id in this connection. EPERM without CAP_SYS_ADMIN or without negotiation, ELOOP on a
    /// stacked file system, EOPNOTSUPP for a file that can't be read this way. The corresponding C function is `ioctl(FUSE_DEV_IOC_BACKING_OPEN)`.
    public static func registerBacking(_ file: CInt, at device: CInt) throws(Errno) -> UInt32 {
        UInt32(try retrying { shl_fuse_backing_open(device, file) })
    }

    /// Ends a registration; files open through it keep working. The corresponding C function is `ioctl(FUSE_DEV_IOC_BACKING_CLOSE)`.
    public static func releaseBacking(_ id: UInt32, at device: CInt) throws(Errno) {
        try retrying { shl_fuse_backing_close(device, id) }
    }

    /// Asks for every request again that was read and never answered; they come with the highest bit of `unique` set (Linux 6.9).
    /// The corresponding C function is `write` of FUSE_NOTIFY_RESEND.
    public static func requestResend(_ device: CInt) throws(Errno) {
        var header = shl_fuse_out_header(
            len: UInt32(MemoryLayout<shl_fuse_out_header>.size), error: Int32(SHL_FUSE_NOTIFY_RESEND), unique: 0)
        let size = MemoryLayout<shl_fuse_out_header>.size
        try retrying { Glibc.write(device, &header, size) }
    }

    /// True once the connection was aborted or its mount is gone: nothing can be served through it any more. `poll` reports POLLERR.
    public static func isDead(_ device: CInt) throws(Errno) -> Bool {
        var entry = pollfd(fd: device, events: 0, revents: 0)
        try retrying { poll(&entry, 1, 0) }
        return CInt(entry.revents) & CInt(POLLERR) != 0
    }

    // Layouts and bits of the protocol (linux/fuse.h, protocol 7.45).

    /// The first bytes of every request.
    public struct RequestHeader: Sendable {
        public static let size = MemoryLayout<shl_fuse_in_header>.size
        public let opcode: UInt32
        public let unique: UInt64

        /// Reads it at the start of a request.
        public init(_ bytes: UnsafeRawBufferPointer) {
            let header = bytes.loadUnaligned(as: shl_fuse_in_header.self)
            opcode = header.opcode
            unique = header.unique
        }

        public var isInit: Bool { opcode == SHL_FUSE_INIT_OPCODE }
        /// It was read before by a server that died before it answered; its effect may be there already.
        public var isResent: Bool { unique & SHL_FUSE_UNIQUE_RESEND != 0 }
    }

    /// Turns FUSE_COPY_FILE_RANGE_64 (protocol 7.45), which libfuse 3.14 answers with ENOSYS, into the older FUSE_COPY_FILE_RANGE. The requests are alike; so
    /// are the answers up to 4 GiB, more than which nobody here copies. Left to itself, the kernel tries the older one after the first ENOSYS,
    /// but two threads that get theirs at once make it believe that there is neither, for the life of the mount.
    public static func useOlderCopyRange(_ request: UnsafeMutableRawBufferPointer) {
        let place = MemoryLayout<shl_fuse_in_header>.offset(of: \.opcode) ?? 4
        guard request.count >= RequestHeader.size,
            request.loadUnaligned(fromByteOffset: place, as: UInt32.self) == SHL_FUSE_COPY_FILE_RANGE_64
        else { return }
        request.storeBytes(of: SHL_FUSE_COPY_FILE_RANGE, toByteOffset: place, as: UInt32.self)
    }

    /// What the kernel asks for and offers in FUSE_INIT.
    public struct InitRequest: Sendable {
        public let offered: Capabilities

        /// `request` is the whole INIT request with its header.
        public init?(request: UnsafeRawBufferPointer) {
            let start = RequestHeader.size
            guard request.count >= start + MemoryLayout<shl_fuse_init_in>.size else { return nil }
            let body = request.loadUnaligned(fromByteOffset: start, as: shl_fuse_init_in.self)
            let high = body.flags & SHL_FUSE_INIT_EXT != 0 ? UInt64(body.flags2) << 32 : 0
            offered = Capabilities(rawValue: UInt64(body.flags) | high)
        }
    }

    /// Bits of FUSE_INIT; the upper half is `flags2`.
    public struct Capabilities: OptionSet, Sendable {
        public let rawValue: UInt64
        public init(rawValue: UInt64) { self.rawValue = rawValue }
        public static let parallelDirectoryOperations = Capabilities(rawValue: UInt64(SHL_FUSE_PARALLEL_DIROPS))
        public static let handleKillPrivileges2 = Capabilities(rawValue: UInt64(SHL_FUSE_HANDLE_KILLPRIV_V2))
        public static let extended = Capabilities(rawValue: UInt64(SHL_FUSE_INIT_EXT))
        public static let passthrough = Capabilities(rawValue: UInt64(SHL_FUSE2_PASSTHROUGH) << 32)
        public static let resend = Capabilities(rawValue: UInt64(SHL_FUSE2_HAS_RESEND) << 32)
    }

    /// Adds capabilities to a reply to FUSE_INIT that libfuse has filled in. False if the bytes are not such a reply.
    public static func extendInitReply(_ body: UnsafeMutableRawBufferPointer, with capabilities: Capabilities) -> Bool {
        guard body.count == MemoryLayout<shl_fuse_init_out>.size else { return false }
        var reply = body.loadUnaligned(as: shl_fuse_init_out.self)
        guard reply.major == 7 else { return false }
        reply.flags |= UInt32(truncatingIfNeeded: capabilities.rawValue)
        reply.flags2 |= UInt32(truncatingIfNeeded: capabilities.rawValue >> 32)
        // Backing files must not be stacked themselves; a file system stacked on ours may be.
        if capabilities.contains(.passthrough) { reply.max_stack_depth = 1 }
        body.storeBytes(of: reply, as: shl_fuse_init_out.self)
        return true
    }

    /// The header of a reply: `error` is 0 or a negated errno.
    public static func replyUnique(_ header: UnsafeRawPointer) -> (unique: UInt64, error: Int32) {
        let header = header.loadUnaligned(as: shl_fuse_out_header.self)
        return (header.unique, header.error)
    }

    /// Bits of the reply to OPEN.
    public struct OpenFlags: OptionSet, Sendable {
        public let rawValue: UInt32
        public init(rawValue: UInt32) { self.rawValue = rawValue }
        public static let directIO = OpenFlags(rawValue: SHL_FOPEN_DIRECT_IO)
        public static let noFlush = OpenFlags(rawValue: SHL_FOPEN_NOFLUSH)
        public static let parallelDirectWrites = OpenFlags(rawValue: SHL_FOPEN_PARALLEL_DIRECT_WRITES)
        public static let passthrough = OpenFlags(rawValue: SHL_FOPEN_PASSTHROUGH)
    }

    /// The body of a reply to OPEN, newer than libfuse 3.14's.
    public struct OpenReply {
        var raw: shl_fuse_open_out
        public var handle: UInt64 { raw.fh }

        public init(handle: UInt64, flags: OpenFlags, backing: UInt32 = 0) {
            raw = shl_fuse_open_out(fh: handle, open_flags: flags.rawValue, backing_id: Int32(bitPattern: backing))
        }
    }

    /// The body of a reply to CREATE: an entry that the kernel must not keep, and an open file.
    public struct CreateReply {
        var raw: shl_fuse_create_out

        /// `node` is a regular file; name and attributes are asked for again at their next use.
        public init(node: UInt64, generation: UInt64, mode: UInt32, uid: UInt32, gid: UInt32, sizeBytes: Int, open: OpenReply) {
            raw = shl_fuse_create_out()
            raw.nodeid = node
            raw.generation = generation
            raw.attr.ino = node
            raw.attr.size = UInt64(sizeBytes)
            raw.attr.mode = mode
            raw.attr.nlink = 1
            raw.attr.uid = uid
            raw.attr.gid = gid
            raw.attr.blksize = UInt32(basePageSize)
            raw.open = open.raw
        }
    }
}
