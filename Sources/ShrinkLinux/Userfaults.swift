import CShrinkLinux
import Glibc
public import SystemPackage

/// Page faults of a process that another one resolves (userfaultfd(2), ioctl_userfaultfd(2)).
///
/// A userfaultfd belongs to the memory of the process that made it, whoever holds the descriptor: the calls below act on that memory.
/// Addresses and lengths are whole pages. A call on a process that is gone fails with ESRCH, one beyond what is registered with ENOENT, and one
/// that meets a mapping in the middle of a change with EAGAIN: read the events, then try again.
public enum Userfaults {
    public struct Features: OptionSet, Sendable {
        public let rawValue: UInt64
        public init(rawValue: UInt64) { self.rawValue = rawValue }
        /// Write faults on protected pages are told.
        public static let writeProtect = Features(rawValue: SHL_UFFD_FEATURE_WP)
        /// A fork is told; its child gets a userfaultfd too. Needs CAP_SYS_PTRACE of who calls `begin`.
        public static let forkEvents = Features(rawValue: SHL_UFFD_FEATURE_FORK)
        public static let remapEvents = Features(rawValue: SHL_UFFD_FEATURE_REMAP)
        public static let removeEvents = Features(rawValue: SHL_UFFD_FEATURE_REMOVE)
        public static let unmapEvents = Features(rawValue: SHL_UFFD_FEATURE_UNMAP)
        public static let missingInHugePages = Features(rawValue: SHL_UFFD_FEATURE_MISSING_HUGETLBFS)
        public static let missingInSharedMemory = Features(rawValue: SHL_UFFD_FEATURE_MISSING_SHMEM)
        public static let writeProtectShared = Features(rawValue: SHL_UFFD_FEATURE_WP_SHARED)
        public static let poison = Features(rawValue: SHL_UFFD_FEATURE_POISON)
    }

    /// Whose faults are told.
    public enum Reach: Sendable, Equatable {
        /// The program's own only: a system call that meets a missing page fails with EFAULT. Everybody may have this.
        case userMode
        /// Those of system calls too. Needs a privilege (`vm.unprivileged_userfaultfd`, or the right to open /dev/userfaultfd).
        case full
    }

    /// A userfaultfd of the calling process. The corresponding C function is `userfaultfd`.
    public static func open(_ reach: Reach) throws(Errno) -> OwnedDescriptor {
        let mode = reach == .userMode ? SHL_UFFD_USER_MODE_ONLY : 0
        return OwnedDescriptor(owning: try check(shl_userfaultfd(O_CLOEXEC | O_NONBLOCK | mode)))
    }

    /// The device that gives full userfaultfds to whoever may open it, or was handed it open.
    public static let device = "/dev/userfaultfd"

    /// A full userfaultfd of the calling process from the open device. The corresponding C function is `ioctl(USERFAULTFD_IOC_NEW)`.
    public static func open(device: CInt) throws(Errno) -> OwnedDescriptor {
        OwnedDescriptor(owning: try check(shl_userfaultfd_new(device, O_CLOEXEC | O_NONBLOCK)))
    }

    /// Makes a new userfaultfd ready with exactly these features; once in its life. EINVAL: the kernel lacks one, or it was done before.
    /// The corresponding C function is `ioctl(UFFDIO_API)`.
    public static func begin(_ fd: CInt, _ features: Features) throws(Errno) {
        var got: UInt64 = 0
        try check(shl_uffd_api(fd, features.rawValue, &got))
    }

    /// The features of a userfaultfd of any process, nil if it was not begun; EINVAL if the descriptor is none. From /proc/self/fdinfo.
    public static func features(_ fd: CInt) throws(Errno) -> Features? {
        let text = String(decoding: try Files.contents(of: "/proc/self/fdinfo/\(fd)"), as: UTF8.self)
        for line in text.split(separator: "\n") where line.hasPrefix("API:") {
            // "API:\taa:<features>:<all>"
            let parts = line.dropFirst(4).split(separator: ":", omittingEmptySubsequences: false)
            guard parts.count >= 2, let bits = UInt64(parts[1].drop { $0 == " " || $0 == "\t" }, radix: 16) else { break }
            return bits == 0 ? nil : Features(rawValue: bits)
        }
        throw .invalidArgument
    }

    /// What is told of a range.
    public struct Mode: OptionSet, Sendable {
        public let rawValue: UInt64
        public init(rawValue: UInt64) { self.rawValue = rawValue }
        public static let missing = Mode(rawValue: 1)
        public static let writeProtect = Mode(rawValue: 2)
    }

    /// The corresponding C function is `ioctl(UFFDIO_REGISTER)`.
    public static func register(_ fd: CInt, _ range: Range<UInt>, _ mode: Mode) throws(Errno) {
        try outcome(shl_uffd_register(fd, UInt64(range.lowerBound), UInt64(range.count), mode.rawValue))
    }

    /// The corresponding C function is `ioctl(UFFDIO_UNREGISTER)`.
    public static func unregister(_ fd: CInt, _ range: Range<UInt>) throws(Errno) {
        try outcome(shl_uffd_unregister(fd, UInt64(range.lowerBound), UInt64(range.count)))
    }

    /// Lets every thread that waits in the range fault again. The corresponding C function is `ioctl(UFFDIO_WAKE)`.
    public static func wake(_ fd: CInt, _ range: Range<UInt>) throws(Errno) {
        try outcome(shl_uffd_wake(fd, UInt64(range.lowerBound), UInt64(range.count)))
    }

    /// How far a call came, and why it stopped there.
    public struct Placed: Sendable, Equatable {
        public var bytes: Int
        public var error: Errno?
    }

    public enum Waking: Sendable { case wakes, leavesAsleep }
    public enum Protection: Sendable { case writable, writeProtected }

    /// Places copies of pages, each whole or not at all; a page that is there already is EEXIST. The corresponding C function is
    /// `ioctl(UFFDIO_COPY)`.
    @inline(__always)
    public static func copy(_ fd: CInt, to address: UInt, from: UnsafeRawBufferPointer, _ protection: Protection, _ waking: Waking)
        -> Placed
    {
        var done: Int64 = 0
        let mode: UInt64 = (waking == .leavesAsleep ? 1 : 0) | (protection == .writeProtected ? 2 : 0)
        return placed(shl_uffd_copy(fd, UInt64(address), from.baseAddress, UInt64(from.count), mode, &done), done)
    }

    /// Places pages of zeros. The corresponding C function is `ioctl(UFFDIO_ZEROPAGE)`.
    @inline(__always)
    public static func zero(_ fd: CInt, _ range: Range<UInt>, _ waking: Waking = .wakes) -> Placed {
        var done: Int64 = 0
        return placed(
            shl_uffd_zeropage(fd, UInt64(range.lowerBound), UInt64(range.count), waking == .leavesAsleep ? 1 : 0, &done), done)
    }

    /// Whoever touches these pages gets SIGBUS, until they are replaced. A page that is there, or write-protected, is EEXIST. The corresponding C
    /// function is `ioctl(UFFDIO_POISON)` (Linux 6.6).
    public static func poison(_ fd: CInt, _ range: Range<UInt>) -> Placed {
        var done: Int64 = 0
        return placed(shl_uffd_poison(fd, UInt64(range.lowerBound), UInt64(range.count), 0, &done), done)
    }

    /// Shows pages that are in the file already, also where a poisoned page's mark is. One that is shown is EEXIST, one that is not in the file EFAULT. The
    /// corresponding C function is `ioctl(UFFDIO_CONTINUE)`.
    public static func show(_ fd: CInt, _ range: Range<UInt>) -> Placed {
        var done: Int64 = 0
        return placed(shl_uffd_continue(fd, UInt64(range.lowerBound), UInt64(range.count), 0, &done), done)
    }

    /// From now on writes to the range wait, missing pages included. The corresponding C function is `ioctl(UFFDIO_WRITEPROTECT)`.
    public static func protect(_ fd: CInt, _ range: Range<UInt>) throws(Errno) {
        try outcome(shl_uffd_writeprotect(fd, UInt64(range.lowerBound), UInt64(range.count), 1))
    }

    /// Undoes `protect` and wakes who waits in the range. The corresponding C function is `ioctl(UFFDIO_WRITEPROTECT)`.
    @inline(__always)
    public static func unprotect(_ fd: CInt, _ range: Range<UInt>) throws(Errno) {
        try outcome(shl_uffd_writeprotect(fd, UInt64(range.lowerBound), UInt64(range.count), 0))
    }

    /// What happened in the process.
    public enum Message: Sendable {
        /// A thread waits for a page that is not there.
        case missing(UInt)
        /// A thread waits to write to a protected page.
        case protected(UInt)
        /// The process forked; its child's memory has this userfaultfd.
        case fork(CInt)
        case remap(from: UInt, to: UInt, count: UInt)
        /// Pages are about to be dropped from the range (madvise(2)).
        case remove(Range<UInt>)
        case unmap(Range<UInt>)
        case other
    }

    /// Calls `body` with up to 16 messages without waiting; returns how many there were. The corresponding C function is `read`.
    public static func read(_ fd: CInt, _ body: (Message) -> Void) throws(Errno) -> Int {
        try withUnsafeTemporaryAllocation(of: shl_uffd_message.self, capacity: 16) { (buffer) throws(Errno) -> Int in
            let count: Int
            do throws(Errno) { count = try retrying { shl_uffd_read(fd, buffer.baseAddress, 16) } } catch {
                if error == .wouldBlock { return 0 }
                throw error
            }
            for i in 0..<count { body(message(buffer[i])) }
            return count
        }
    }

    private static func message(_ m: shl_uffd_message) -> Message {
        switch m.event {
        case 0x12:
            // UFFD_PAGEFAULT_FLAG_WP
            m.first & 2 != 0 ? .protected(UInt(m.second)) : .missing(UInt(m.second))
        case 0x13: .fork(CInt(truncatingIfNeeded: m.first))
        case 0x14: .remap(from: UInt(m.first), to: UInt(m.second), count: UInt(m.third))
        case 0x15: .remove(UInt(m.first)..<UInt(m.second))
        case 0x16: .unmap(UInt(m.first)..<UInt(m.second))
        default: .other
        }
    }

    // Another process's addresses may be wrong through no fault of ours: EFAULT is an answer here, not a bug.
    private static func outcome(_ result: CInt) throws(Errno) {
        if result < 0 { throw Errno(rawValue: errno) }
    }

    @inline(__always)
    private static func placed(_ result: CInt, _ done: Int64) -> Placed {
        if result >= 0 { return Placed(bytes: Int(max(0, done)), error: nil) }
        return Placed(bytes: Int(max(0, done)), error: Errno(rawValue: errno))
    }
}

extension ProcessMemory {
    /// A child of fork(2) does not get this mapping. The corresponding C function is `madvise(MADV_DONTFORK)`.
    public static func keepFromForks(_ memory: UnsafeMutableRawBufferPointer) throws(Errno) {
        try check(shl_madvise(memory.baseAddress, memory.count, SHL_MADV_DONTFORK.rawInt))
    }

    /// Moves a mapping, or part of one, to an address that the kernel chooses. The corresponding C function is `mremap`.
    public static func move(_ memory: UnsafeMutableRawBufferPointer) throws(Errno) -> UnsafeMutableRawPointer {
        guard let moved = shl_move_mapping(memory.baseAddress, memory.count), shl_map_failed(moved) == 0 else { throw lastErrno }
        return moved
    }
}
