import ShrinkLinux
import Synchronization
import SystemPackage

/// Room for a run of each writer, allocated ahead in the segment that it appends to. Memory tiers only.
///
/// A write to tmpfs takes memory, and where a memory cgroup is full the kernel kills somebody instead of failing the write. Shrinking happens exactly then.
/// So a run goes into room that was allocated before; when its pages have left the pool, the next write finds that memory free and allocates ahead
/// again. Where nothing is free it takes what is left, and then fails with ENOSPC, which is told and does not kill.
///
/// Allocated beyond the file's end (FALLOC_FL_KEEP_SIZE): the size says what was appended, and sealing gives the rest back. A segment in large pages has
/// its full length from the start, and whole large pages allocated ahead; when memory gets short it is cut to what it has, and grows in small ones.
final class RunReserve: Sendable {
    /// The largest write of one call, with headers.
    static let runBytes = (1 << 20) + (64 << 10)
    /// Writers that have their room from the start: as many as the file server has threads.
    static let firstWriters = 3
    /// What is left to all else that the kernel takes for this process.
    private static let marginBytes = 256 << 10
    /// With so much free, nobody looks again for a moment.
    private static let plentyBytes = 64 << 20
    private static let lookNanoseconds: UInt64 = 20_000_000

    private let cgroup = MemoryCgroup.ofThisProcess()
    private let look = Mutex<(at: MonotonicTime, bytes: Int)>((MonotonicTime(nanoseconds: 0), 0))

    /// Sees to it that `needed` bytes after the open segment's position have memory, and a run after those if there is enough. ENOSPC if not even `needed`.
    @inline(__always)
    func prepare(
        _ open: inout WorkerContext.OpenSegment, _ fd: CInt, needed: Int, segmentBytes: Int, hugePageBytes: Int?
    ) throws(Errno) {
        // In halves: one allocation for several writes.
        if open.allocated - open.position - needed >= Self.runBytes / 2 { return }
        let wanted = min(segmentBytes, open.position + needed + Self.runBytes)
        if open.allocated < wanted { try extend(&open, fd, needed: needed, to: wanted, hugePageBytes) }
    }

    /// True if there is memory enough for large pages.
    func seesPlenty() -> Bool { look.withLock { sawPlenty($0) || lookAgain(&$0) > Self.plentyBytes } }

    /// For who appends without room ahead, the cleaner: no large page is taken for a small need while there isn't plenty.
    func shortenUnlessPlenty(_ open: inout WorkerContext.OpenSegment, _ fd: CInt) throws(Errno) {
        if open.isFullLength, !seesPlenty() { try shorten(&open, fd) }
    }

    private func shorten(_ open: inout WorkerContext.OpenSegment, _ fd: CInt) throws(Errno) {
        guard open.isFullLength else { return }
        try Files.truncate(fd, to: (max(open.allocated, open.position) + basePageSize - 1) & ~(basePageSize - 1))
        open.isFullLength = false
    }

    private func sawPlenty(_ look: (at: MonotonicTime, bytes: Int)) -> Bool {
        look.bytes > Self.plentyBytes && MonotonicTime.now().nanoseconds(since: look.at) < Self.lookNanoseconds
    }

    private func lookAgain(_ look: inout (at: MonotonicTime, bytes: Int)) -> Int {
        let free = cgroup.map { (try? $0.availableBytes()) ?? .max } ?? .max
        look = (MonotonicTime.now(), min(free, .max / 2))
        return look.bytes
    }

    @inline(never)
    private func extend(
        _ open: inout WorkerContext.OpenSegment, _ fd: CInt, needed: Int, to wanted: Int, _ hugePageBytes: Int?
    ) throws(Errno) {
        var wholePages = wanted
        if open.isFullLength, let hugePageBytes { wholePages = (wanted + hugePageBytes - 1) / hugePageBytes * hugePageBytes }
        if look.withLock({ sawPlenty($0) }) { return try extend(&open, fd, needed: needed, to: wholePages, free: .max / 2) }
        // What is free is free for one: two who saw the same room would take it twice, and somebody were killed.
        try look.withLock { (look) throws(Errno) in
            if lookAgain(&look) > Self.plentyBytes { return try extend(&open, fd, needed: needed, to: wholePages, free: look.bytes) }
            try shorten(&open, fd)
            try extend(&open, fd, needed: needed, to: wanted, free: look.bytes)
        }
    }

    private func extend(
        _ open: inout WorkerContext.OpenSegment, _ fd: CInt, needed: Int, to wanted: Int, free: Int
    ) throws(Errno) {
        let start = max(open.allocated, open.position)
        let missing = max(0, open.position + needed - start)
        if missing > free { throw .noSpace }
        let bytes = max(missing, min(wanted - start, free - Self.marginBytes))
        guard bytes > 0 else { return }
        do throws(Errno) {
            try Files.allocate(fd, mode: Files.keepSize, at: start, length: bytes)
            open.allocated = start + bytes
        } catch {
            // Room ahead is good to have; without room for this write the write itself says so.
            guard missing > 0, error != .notSupported else { return }
            guard bytes > missing else { throw error }
            try Files.allocate(fd, mode: Files.keepSize, at: start, length: missing)
            open.allocated = start + missing
        }
    }
}

extension StoreCore {
    /// Opens a segment for each of the first writers and allocates their run, so that even the first shrink needs no memory. What fails is left to the
    /// writers, who say why.
    func prepareFirstWriters() {
        guard tiers[0].inMemory else { return }
        for slot in 0..<RunReserve.firstWriters {
            pool.withContext(of: slot) { context in
                do throws(Errno) {
                    if context.open[0].number < 0 {
                        context.open[0] = try newOpenSegment(tier: 0)
                    }
                    try runs.prepare(
                        &context.open[0], try table.descriptor(context.open[0].number), needed: 0, segmentBytes: geometry.segmentBytes,
                        hugePageBytes: tiers[0].hugePageBytes)
                } catch {
                    tiers[0].note("room for a run", error)
                }
            }
        }
    }
}
