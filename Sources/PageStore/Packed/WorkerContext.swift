import ShrinkLinux
import Synchronization
import SystemPackage

/// What one thread needs to move pages: buffers, compressor, a segment of its own to append to in each tier.
///
/// A call takes one and gives it back (`WorkerPool`), so two writers never share a segment and need no lock to append.
final class WorkerContext: @unchecked Sendable {
    // Sendable: held by one thread at a time, which the pool sees to.

    /// Compressed blocks are collected here and written in one call: small enough to stay in the second-level cache.
    static let stagingBytes = 256 << 10
    static let windowBytes = 256 << 10
    static let pendingLimit = 1024
    static let blockBytes = BlockHeader.maximumPages * basePageSize

    /// An entry to be published once the staged bytes before `end` are in the segment.
    struct Pending {
        var page: Int
        var end: Int
        var entry: IndexEntry
    }

    struct OpenSegment {
        /// -1: none.
        var number = -1
        /// Where the next block goes.
        var position = 0
        /// Up to here the file has memory (`RunReserve`).
        var allocated = 0
        /// The file is as long as a segment may become, so that it gets large pages.
        var isFullLength = false
    }

    let slot: Int
    let codec: BlockCodec
    let staging: UnsafeMutableRawPointer
    let window: UnsafeMutableRawPointer
    let block: UnsafeMutableRawPointer
    let page: UnsafeMutableRawPointer
    let pending: UnsafeMutablePointer<Pending>
    let open: UnsafeMutablePointer<OpenSegment>

    var staged = 0
    var pendingCount = 0
    /// The pages gathered for the next block.
    let group: UnsafeMutablePointer<UnsafeRawPointer>
    var groupCount = 0
    var groupFirst = 0
    var groupMask: UInt64 = 0
    // What the window holds: bytes of one segment, valid within one call only.
    var windowSegment = -1
    var windowStart = 0
    var windowEnd = 0
    /// Until something that was read is not as it should be, in one read.
    var readsMappings = true
    /// The block looked at last lies in a mapping.
    var blockIsMapped = false
    /// The location of the block that `block` holds decompressed, valid within one read only.
    var decodedLocation = WorkerContext.nothingDecoded
    static let nothingDecoded = UInt64.max
    /// The read under way made zeros of pages without an entry.
    var sawHole = false

    /// Locations mean something within one call only.
    @inline(__always) func forgetRead() {
        windowSegment = -1
        readsMappings = true
        decodedLocation = Self.nothingDecoded
    }

    private let memory: MappedMemory
    private let tierCount: Int

    init(slot: Int, tiers: Int, codec: PackedCodec) throws(Errno) {
        self.slot = slot
        self.codec = BlockCodec(codec)
        tierCount = tiers
        // A block may be staged when the buffer is just not full.
        let stagingSpace =
            Self.stagingBytes + BlockHeader.aligned(BlockHeader.headerBytes(pages: BlockHeader.maximumPages) + Self.blockBytes)
        memory = try MappedMemory(
            anonymous: (stagingSpace + Self.windowBytes + Self.blockBytes + 2 * basePageSize) & ~(basePageSize - 1),
            populated: slot < RunReserve.firstWriters)
        block = memory.base
        page = block + Self.blockBytes
        window = page + basePageSize
        staging = window + Self.windowBytes
        pending = .allocate(capacity: Self.pendingLimit)
        group = .allocate(capacity: BlockHeader.maximumPages)
        open = .allocate(capacity: tiers)
        open.initialize(repeating: OpenSegment(), count: tiers)
    }

    deinit {
        pending.deallocate()
        group.deallocate()
        open.deallocate()
    }
}

/// The contexts of a store, lent out one call at a time. Being lent one also pins the segments (`Grace`).
final class WorkerPool: @unchecked Sendable {
    // Sendable: contexts go to one thread at a time by the flags; the array doesn't change.

    /// More threads than this wait for one another. Memory is bounded by it: about 0.7 MiB each, used ones only.
    static let size = 16

    let contexts: [WorkerContext]
    private let taken: UnsafeMutablePointer<UInt32>
    private let table: SegmentTable
    private let waiters = Atomic<Int>(0)
    private let idle = Monitor<UInt8>(0)
    /// Writes under way: the cleaner stands back while there are any.
    let writers = Atomic<Int>(0)

    init(table: SegmentTable, codec: PackedCodec) throws(Errno) {
        self.table = table
        var contexts: [WorkerContext] = []
        for slot in 0..<Self.size { contexts.append(try WorkerContext(slot: slot, tiers: table.tiers.count, codec: codec)) }
        self.contexts = contexts
        taken = .allocate(capacity: Self.size * 16)
        taken.initialize(repeating: 0, count: Self.size * 16)
    }

    deinit { taken.deallocate() }

    @inline(__always) func withContext<R, E: Error>(_ body: (WorkerContext) throws(E) -> R) throws(E) -> R {
        let slot = take()
        defer { give(slot) }
        return try body(contexts[slot])
    }

    /// For the cleaner and moves: takes that context, waiting for its holder.
    func withContext<R, E: Error>(of slot: Int, _ body: (WorkerContext) throws(E) -> R) throws(E) -> R {
        if !tryTake(slot) { wait { self.tryTake(slot) ? slot : nil } }
        defer { give(slot) }
        return try body(contexts[slot])
    }

    // The lowest free one: few threads use few contexts and few open segments.
    @inline(__always) private func take() -> Int {
        for slot in 0..<Self.size where tryTake(slot) { return slot }
        return wait { (0..<Self.size).first { self.tryTake($0) } }
    }

    @inline(__always) private func tryTake(_ slot: Int) -> Bool {
        let flag = taken + slot * 16
        guard AtomicMemory.load(flag) == 0, AtomicMemory.replace(flag, 0, with: 1) else { return false }
        table.grace.pin(slot)
        return true
    }

    @inline(never) @discardableResult private func wait(until ready: @escaping () -> Int?) -> Int {
        waiters.add(1, ordering: .sequentiallyConsistent)
        defer { waiters.subtract(1, ordering: .relaxed) }
        return idle.wait { _ in ready() }
    }

    @inline(__always) private func give(_ slot: Int) {
        table.grace.unpin(slot)
        _ = AtomicMemory.exchange(taken + slot * 16, 0)
        if waiters.load(ordering: .sequentiallyConsistent) > 0 {
            // With the lock, so that no waiter sits between its test and its sleep.
            idle.withLock { _ in }
            idle.notifyAll()
        }
    }
}
