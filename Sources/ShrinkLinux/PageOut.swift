import CShrinkLinux
import Glibc
public import SystemPackage

/// Pages of another process's mapping, and which pages of a mapping are in memory.
public enum PageOut {
    /// A descriptor of a process. The corresponding C function is `pidfd_open`.
    public static func openProcess(_ processID: Int32) throws(Errno) -> OwnedDescriptor {
        OwnedDescriptor(owning: try check(shl_pidfd_open(processID)))
    }

    /// Asks the kernel to reclaim a range of a process's address space; success proves nothing, `residentPages` does. Returns the bytes advised.
    /// The corresponding C function is `process_madvise(MADV_PAGEOUT)`; it needs CAP_SYS_NICE and read access to the process.
    public static func advise(_ process: CInt, address: UInt, length: Int) throws(Errno) -> Int {
        var range = iovec(iov_base: UnsafeMutableRawPointer(bitPattern: address), iov_len: length)
        return Int(try retrying { shl_process_madvise(process, &range, 1, SHL_MADV_PAGEOUT.rawInt) })
    }

    /// How many pages of a mapping are in memory, without touching them. The corresponding C function is `mincore`.
    public static func residentPages(_ base: UnsafeMutableRawPointer, count: Int) throws(Errno) -> Int {
        try withUnsafeTemporaryAllocation(byteCount: count / basePageSize, alignment: 1) { (buffer) throws(Errno) -> Int in
            let pages = buffer.bindMemory(to: UInt8.self)
            guard let first = pages.baseAddress else { return 0 }
            try retrying { mincore(base, count, first) }
            return pages.count { $0 & 1 == 1 }
        }
    }
}
