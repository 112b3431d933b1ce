import ShrinkLinux
import Synchronization
import SystemPackage

/// One segment's room kept allocated in a file of its own, so that the cleaner of a full tier always has where to put what lives.
///
/// The file itself becomes the cleaner's segment, by renaming: room that was freed instead could be taken by a writer first. Until
/// a new reserve is allocated, writers that need another segment get ENOSPC.
final class SegmentReserve: Sendable {
    static let name = "reserve"

    let tier: StoreTier
    private let bytes: Int
    private let isThere = Mutex<Bool>(false)
    // The same, for a look without the lock.
    private let ready = Atomic<Bool>(false)

    init(tier: StoreTier, bytes: Int) {
        self.tier = tier
        self.bytes = bytes
    }

    var state: String { isThere.withLock { $0 } ? "\(bytes)" : "0" }

    var isReady: Bool { ready.load(ordering: .acquiring) }

    /// Takes over the file of an earlier run if it is whole.
    func find() {
        guard let status = try? Files.status(of: Self.name, at: tier.directory.number) else { return }
        if status.sizeBytes >= bytes, status.allocatedBytes >= bytes {
            isThere.withLock { $0 = true }
            ready.store(true, ordering: .releasing)
        } else {
            try? Files.remove(Self.name, at: tier.directory.number)
        }
    }

    /// Allocates the file unless it is there. ENOSPC if the tier has no room for it.
    @inline(__always) func restore() throws(Errno) {
        if !isReady { try allocate() }
    }

    private func allocate() throws(Errno) {
        try withState { isThere throws(Errno) in
            if isThere { return }
            let file = try Files.open(Self.name, [.readWrite, .create, .noFollow], at: tier.directory.number)
            do throws(Errno) { try Files.allocate(file.number, mode: 0, at: 0, length: bytes) } catch {
                if error == .notSupported {
                    try fill(file.number)
                } else {
                    // What was allocated before the end would be missing elsewhere.
                    try? Files.remove(Self.name, at: tier.directory.number)
                    throw error
                }
            }
            KillPoint.reserveRestored.pass()
            isThere = true
            ready.store(true, ordering: .releasing)
        }
    }

    /// Hands the file over to `use`, which renames it.
    func take(_ use: () throws(Errno) -> Int) throws(Errno) -> Int {
        try withState { isThere throws(Errno) in
            guard isThere else { throw .noSpace }
            let number = try use()
            isThere = false
            ready.store(false, ordering: .releasing)
            return number
        }
    }

    private func withState<R>(_ body: (inout Bool) throws(Errno) -> R) throws(Errno) -> R {
        let result: Result<R, Errno> = isThere.withLock { isThere in
            do throws(Errno) { return .success(try body(&isThere)) } catch { return .failure(error) }
        }
        return try result.get()
    }

    // Where the file system can't allocate ahead.
    private func fill(_ fd: CInt) throws(Errno) {
        let zeros = try MappedMemory(anonymous: 1 << 20, populated: false)
        for offset in stride(from: 0, to: bytes, by: zeros.count) {
            if let error = Files.write(fd, UnsafeRawBufferPointer(zeros.bytes), at: offset).error { throw error }
        }
    }
}
