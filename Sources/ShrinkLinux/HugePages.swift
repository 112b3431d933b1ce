import CShrinkLinux
import Glibc
public import SystemPackage

/// The machine's huge pages of 2 MiB, as /sys/kernel/mm/hugepages tells them
/// (Documentation/admin-guide/mm/hugetlbpage.rst); pages.
public struct HugePages: Sendable, Equatable {
    public static let pageBytes = 2 << 20

    /// In the pool, used or not, surplus ones included.
    public var total: Int
    /// Nobody has them.
    public var free: Int
    /// Of the free ones, promised to mappings.
    public var reserved: Int
    /// Beyond the pool's size; each goes back to the machine when it is let go.
    public var surplus: Int
    /// How many surplus pages there may be.
    public var overcommit: Int

    /// What an allocation can still get. Surplus pages are an upper bound: the machine may have no free 2 MiB of memory in one piece.
    public var available: Int {
        let (sum, isTooLarge) = max(0, free - reserved).addingReportingOverflow(max(0, overcommit - surplus))
        return isTooLarge ? .max : sum
    }
    /// False: the machine was not set up for them.
    public var isAny: Bool { total > 0 || overcommit > 0 }

    /// ENOENT: the kernel or the processor has none of this size. `directory` is for tests.
    public init(directory: String = "/sys/kernel/mm/hugepages/hugepages-2048kB") throws(Errno) {
        func value(_ name: String) throws(Errno) -> Int {
            let text = String(decoding: try Files.contents(of: directory + "/" + name), as: UTF8.self)
            guard let line = text.split(separator: "\n").first, let value = Int(line) else { throw .ioError }
            return value
        }
        total = try value("nr_hugepages")
        free = try value("free_hugepages")
        reserved = try value("resv_hugepages")
        surplus = try value("surplus_hugepages")
        overcommit = try value("nr_overcommit_hugepages")
    }
}

extension MemoryFile {
    /// A memory file of huge pages of 2 MiB, of fixed size. Such a file has no write(2), tells nothing of its holes (SEEK_DATA finds data everywhere),
    /// and reads its holes as zeros. The corresponding C functions are `memfd_create(MFD_HUGETLB|MFD_HUGE_2MB)`, `ftruncate` and `fcntl(F_ADD_SEALS)`.
    public static func makeSealedOfHugePages(_ name: String, size: Int) throws(Errno) -> OwnedDescriptor {
        let flags =
            SHL_MFD_CLOEXEC.rawUnsigned | SHL_MFD_ALLOW_SEALING.rawUnsigned | SHL_MFD_HUGETLB.rawUnsigned | SHL_MFD_HUGE_2MB.rawUnsigned
        let file = OwnedDescriptor(owning: try check(shl_memfd_create(name, flags)))
        try retrying { ftruncate(file.number, size) }
        try retrying { shl_add_seals(file.number, (SHL_SEAL_GROW.rawInt | SHL_SEAL_SHRINK.rawInt | SHL_SEAL_SEAL.rawInt)) }
        return file
    }
}

extension Userfaults.Features {
    public static let minorInHugePages = Userfaults.Features(rawValue: UInt64(SHL_UFFD_FEATURE_MINOR_HUGETLBFS.rawUnsigned))
}

extension Userfaults.Mode {
    /// Pages that the file has, and the mapping not yet.
    public static let minor = Userfaults.Mode(rawValue: UInt64(SHL_UFFD_MODE_MINOR.rawUnsigned))
}
