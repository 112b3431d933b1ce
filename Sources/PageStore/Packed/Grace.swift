import ShrinkLinux
import Synchronization
import SystemPackage

/// Keeps a descriptor open and a segment mapped while a reader may still use them.
///
/// Whoever works on segments is pinned: its slot holds the epoch at which it began. What was taken out of use at epoch E is
/// closed and unmapped once every pin is empty or later than E. Taking out of use is one exchange before the epoch moves on, pinning one exchange
/// before the first descriptor or mapping is looked up, so one of the two sees the other.
final class Grace: @unchecked Sendable {
    // Sendable: pins and epoch are touched atomically only.
    private let pins: UnsafeMutablePointer<UInt64>
    private let pinCount: Int
    private let epoch = Atomic<UInt64>(1)
    private let waiting = Atomic<Int>(0)
    private let limbo = Mutex<[(epoch: UInt64, fd: CInt, mapping: SegmentMapping?, segment: Int?)]>([])
    /// Told of each segment whose number may be used again.
    private let recycled: @Sendable (Int) -> Void

    /// Pins lie 64 bytes apart, one cache line each.
    init(pins pinCount: Int, recycled: @escaping @Sendable (Int) -> Void) {
        self.pinCount = pinCount
        self.recycled = recycled
        pins = .allocate(capacity: pinCount * 8)
        pins.initialize(repeating: 0, count: pinCount * 8)
    }

    deinit {
        limbo.withLock {
            for entry in $0 {
                entry.mapping?.end()
                if entry.fd >= 0 { _ = OwnedDescriptor(owning: entry.fd) }
            }
        }
        pins.deallocate()
    }

    @inline(__always) func pin(_ slot: Int) { _ = AtomicMemory.exchange(pins + slot * 8, epoch.load(ordering: .sequentiallyConsistent)) }

    @inline(__always) func unpin(_ slot: Int) {
        AtomicMemory.store(pins + slot * 8, 0)
        collectIfWaiting()
    }

    /// Closes `fd` (none if negative), ends the mapping and recycles the segment's number when nobody can be using them any more.
    func retire(_ fd: CInt, _ mapping: SegmentMapping? = nil, segment: Int? = nil) {
        let now = epoch.add(1, ordering: .sequentiallyConsistent).oldValue
        limbo.withLock { $0.append((now, fd, mapping, segment)) }
        waiting.add(1, ordering: .relaxed)
    }

    /// Unless there is nothing to collect.
    @inline(__always) func collectIfWaiting() {
        if waiting.load(ordering: .relaxed) > 0 { collect() }
    }

    func collect() {
        var oldest = UInt64.max
        for slot in 0..<pinCount {
            let pinned = AtomicMemory.load(pins + slot * 8)
            if pinned != 0 { oldest = min(oldest, pinned) }
        }
        let free = limbo.withLock { limbo in
            let free = limbo.filter { $0.epoch < oldest }
            if !free.isEmpty { limbo.removeAll { $0.epoch < oldest } }
            return free
        }
        for entry in free {
            waiting.subtract(1, ordering: .relaxed)
            entry.mapping?.end()
            if entry.fd >= 0 {
                let file = OwnedDescriptor(owning: entry.fd)
                // Room comes back now, even if a process that is just being started still has a copy of the descriptor.
                if entry.segment != nil { try? Files.truncate(file.number, to: 0) }
            }
            if let segment = entry.segment { recycled(segment) }
        }
    }
}
