import Synchronization

/// How many requests of each kind reached the server; with passthrough, reads and writes of `data` do not.
final class RequestCounters {
    enum Kind: Int, CaseIterable {
        case lookup, getattr, setattr, open, create, read, write, release, readdir, readdirplus, fsync, fallocate, lseek, getxattr, setxattr
        case mkdir, rmdir, unlink, statfs, copyFileRange

        /// As `stats` has it: the kernel's name for it.
        var name: String { self == .copyFileRange ? "copy_file_range" : "\(self)" }
    }

    // One allocation for the life of the server; a worker adds with one instruction.
    private let counts: UnsafeMutablePointer<Atomic<UInt64>>
    /// Requests read a second time, after a server died with them unanswered.
    let resent = Atomic<UInt64>(0)

    init() {
        counts = .allocate(capacity: Kind.allCases.count)
        for kind in Kind.allCases { (counts + kind.rawValue).initialize(to: Atomic(0)) }
    }

    deinit {
        counts.deinitialize(count: Kind.allCases.count)
        counts.deallocate()
    }

    func count(_ kind: Kind) { counts[kind.rawValue].add(1, ordering: .relaxed) }

    subscript(kind: Kind) -> UInt64 { counts[kind.rawValue].load(ordering: .relaxed) }
}

// The pointer is never changed and what it points to is atomic.
extension RequestCounters: @unchecked Sendable {}
