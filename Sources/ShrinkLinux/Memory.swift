import CShrinkLinux
import Glibc
public import SystemPackage

/// The page size every pool of base pages uses. (Huge-page pools have a unit of their own.)
public let basePageSize = 4096

/// Anonymous files and their seals.
public enum MemoryFile {
    /// A memory file of fixed size: it can be neither grown nor shrunk, by anybody (F_SEAL_GROW|F_SEAL_SHRINK|F_SEAL_SEAL).
    /// The corresponding C functions are `memfd_create`, `ftruncate` and `fcntl(F_ADD_SEALS)`.
    public static func makeSealed(_ name: String, size: Int) throws(Errno) -> OwnedDescriptor {
        let file = try make(name, size: size)
        try retrying { shl_add_seals(file.number, (SHL_SEAL_GROW.rawInt | SHL_SEAL_SHRINK.rawInt | SHL_SEAL_SEAL.rawInt)) }
        return file
    }

    /// A memory file that can still be resized and sealed.
    public static func make(_ name: String, size: Int) throws(Errno) -> OwnedDescriptor {
        let file = OwnedDescriptor(
            owning: try check(shl_memfd_create(name, SHL_MFD_CLOEXEC.rawUnsigned | SHL_MFD_ALLOW_SEALING.rawUnsigned)))
        try retrying { ftruncate(file.number, size) }
        return file
    }
}

/// A shared or private mapping that is unmapped with its owner.
public struct MappedMemory: ~Copyable, @unchecked Sendable {
    // Sendable: the mapping is plain memory; whoever shares it brings the lock or the atomics.
    public let base: UnsafeMutableRawPointer
    public let count: Int

    /// A shared mapping of a file. The corresponding C function is `mmap(MAP_SHARED)`.
    public init(sharing fd: CInt, count: Int, offset: Int = 0, writable: Bool = true) throws(Errno) {
        let p = mmap(nil, count, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED | SHL_MAP_NORESERVE.rawInt, fd, off_t(offset))
        guard let p, shl_map_failed(p) == 0 else { throw lastErrno }
        base = p
        self.count = count
    }

    /// Private zeroed memory, allocated at once if `populated`, so that its use never faults.
    /// The corresponding C function is `mmap(MAP_PRIVATE|MAP_ANONYMOUS)`.
    public init(anonymous count: Int, populated: Bool) throws(Errno) {
        let p = mmap(
            nil, count, PROT_READ | PROT_WRITE,
            MAP_PRIVATE | MAP_ANONYMOUS | (populated ? SHL_MAP_POPULATE.rawInt : 0), -1, 0)
        guard let p, shl_map_failed(p) == 0 else { throw lastErrno }
        base = p
        self.count = count
        // After mlockall(MCL_ONFAULT) MAP_POPULATE does nothing: the kernel leaves every page to its first fault.
        if populated { for offset in stride(from: 0, to: count, by: basePageSize) { dirtyByte(p + offset) } }
    }

    deinit { munmap(base, count) }

    public var bytes: UnsafeMutableRawBufferPointer { UnsafeMutableRawBufferPointer(start: base, count: count) }
}

/// Facts and settings of this process's memory.
public enum ProcessMemory {
    /// Locks what is and will be mapped, page by page as it is first used. The corresponding C function is `mlockall(MCL_ONFAULT)`.
    public static func lockOnFault() throws(Errno) { try check(shl_mlockall_on_fault()) }

    /// Whoever touches these pages ends with SIGSEGV, system calls fail with EFAULT. The corresponding C function is `mprotect(PROT_NONE)`.
    public static func forbid(_ memory: UnsafeMutableRawBufferPointer) throws(Errno) {
        try check(mprotect(memory.baseAddress, memory.count, PROT_NONE))
    }

    /// Pages that were forbidden may be read and written again. The corresponding C function is `mprotect`.
    public static func allow(_ memory: UnsafeMutableRawBufferPointer) throws(Errno) {
        try check(mprotect(memory.baseAddress, memory.count, PROT_READ | PROT_WRITE))
    }

    /// Releases the locks of a mapping, so that a sparse pool stays sparse. The corresponding C function is `munlock`.
    public static func unlock(_ memory: UnsafeRawBufferPointer) throws(Errno) { try check(munlock(memory.baseAddress, memory.count)) }
}

/// True if every byte of a page-aligned buffer is zero.
@inline(__always)
public func isZero(_ base: UnsafeRawPointer, _ count: Int) -> Bool { shl_is_zero(base, count) != 0 }

/// Whether two buffers hold the same bytes. The corresponding C function is `memcmp`.
public func haveEqualBytes(_ a: UnsafeMutableRawBufferPointer, _ b: UnsafeMutableRawBufferPointer) -> Bool {
    a.count == b.count && (a.isEmpty || memcmp(a.baseAddress!, b.baseAddress!, a.count) == 0)
}

/// Reads a byte for the page fault's sake; never optimised away.
@inline(__always)
public func readByte(_ address: UnsafeRawPointer) { shl_touch(address) }

/// Writes a byte back as it is, so that its page is dirty; never optimised away.
@inline(__always)
public func dirtyByte(_ address: UnsafeMutableRawPointer) { shl_dirty(address) }

/// A 64-bit word in shared memory, touched only by atomic loads and stores.
public struct SharedWord {
    @usableFromInline let address: UnsafeMutablePointer<UInt64>

    // Sendable: all access is atomic, and the mapping's owner outlives its words.
    public init(_ address: UnsafeMutablePointer<UInt64>) { self.address = address }

    @inline(__always) public func load() -> UInt64 { shl_load_acquire(address) }
    @inline(__always) public func store(_ value: UInt64) { shl_store_release(address, value) }
}

extension SharedWord: @unchecked Sendable {}

/// A 32-bit word in shared memory, touched only by atomic loads and stores.
public struct SharedWord32: @unchecked Sendable {
    @usableFromInline let address: UnsafeMutablePointer<UInt32>

    // Sendable: as SharedWord.
    public init(_ address: UnsafeMutablePointer<UInt32>) { self.address = address }

    @inline(__always) public func load() -> UInt32 { shl_load_acquire32(address) }
    @inline(__always) public func store(_ value: UInt32) { shl_store_release32(address, value) }
}
