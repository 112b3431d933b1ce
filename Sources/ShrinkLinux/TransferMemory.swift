import CShrinkLinux
import Glibc
public import SystemPackage

/// Buffers that the kernel copies to and from all the time: populated, and in huge pages where the machine has some.
///
/// Direct I/O and the FUSE device look up each page of a buffer before they copy it; a buffer in one huge page costs a fraction of that. Where there is no
/// huge page to be had, or not wanted (/sys/kernel/mm/transparent_hugepage/enabled is never), the same memory is in base pages.
public final class TransferMemory: @unchecked Sendable {
    // Sendable: plain memory; whoever shares it sees to it that one thread uses a part at a time.
    private let mapping: UnsafeMutableRawPointer
    private let mappedBytes: Int
    public let base: UnsafeMutableRawPointer
    public let count: Int

    private static let hugePageBytes = 2 << 20

    /// The corresponding C functions are `mmap`, `madvise(MADV_HUGEPAGE)` and `madvise(MADV_POPULATE_WRITE)`.
    public init(count: Int) throws(Errno) {
        // Address space for the alignment costs nothing: it is never touched.
        mappedBytes = (count + basePageSize - 1) & ~(basePageSize - 1) + Self.hugePageBytes
        let p = mmap(nil, mappedBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | SHL_MAP_NORESERVE.rawInt, -1, 0)
        guard let p, shl_map_failed(p) == 0 else { throw lastErrno }
        mapping = p
        base = UnsafeMutableRawPointer(bitPattern: (UInt(bitPattern: p) + UInt(Self.hugePageBytes) - 1) & ~(UInt(Self.hugePageBytes) - 1))!
        self.count = count
        // Refused by a kernel without huge pages: then base pages do.
        _ = madvise(base, count, SHL_MADV_HUGEPAGE.rawInt)
        if madvise(base, count, SHL_MADV_POPULATE_WRITE.rawInt) != 0 {
            // Kernels before 5.14 don't know it.
            for offset in stride(from: 0, to: count, by: basePageSize) { dirtyByte(base + offset) }
        }
    }

    deinit { munmap(mapping, mappedBytes) }

    public func bytes(_ range: Range<Int>) -> UnsafeMutableRawBufferPointer {
        precondition(range.lowerBound >= 0 && range.upperBound <= count, "beyond the buffer")
        return UnsafeMutableRawBufferPointer(start: base + range.lowerBound, count: range.count)
    }
}
