import CShrinkLinux
import Glibc
public import SystemPackage

/// A shared mapping of a file that somebody else may cut short, or whose device may fail: touching such a page is SIGBUS, which ends a process.
///
/// Here the page is replaced by one that is filled with a byte of the caller's choice, private to this process, and the mapping is lost from
/// then on: what is stored into it may not be in the file. Whoever stores asks `isLost` afterwards, before telling anybody that it is done.
///
/// The handler is installed with the first mapping, for the whole process; a SIGBUS elsewhere goes where it went before.
public struct GuardedMapping: ~Copyable, @unchecked Sendable {
    // Sendable: the mapping is plain memory; whoever shares it brings the lock or the atomics.
    private let memory: MappedMemory
    private let place: Int

    /// As many as a process has mappings, unless the machine says otherwise (vm.max_map_count).
    private static let limit = 65536

    // Entries are written with the lock held and read by the handler, which sees whole ones only (mappingfaults.h).
    nonisolated(unsafe) private static let table: UnsafeMutablePointer<shl_guarded_mapping> = {
        let table = UnsafeMutablePointer<shl_guarded_mapping>.allocate(capacity: limit)
        table.initialize(repeating: shl_guarded_mapping(), count: limit)
        return table
    }()
    /// nil until the handler is there.
    private static let places = Monitor<Places?>(nil)

    private struct Places {
        var free: [Int] = []
        var next = 0
    }

    /// A shared mapping of `count` bytes. ENOMEM if there are 65536 already.
    /// The corresponding C functions are `mmap(MAP_SHARED)` and, once, `sigaction(SIGBUS)`.
    public init(sharing fd: CInt, count: Int, writable: Bool = true, lostBytes fill: UInt8) throws(Errno) {
        let memory = try MappedMemory(sharing: fd, count: count, writable: writable)
        place = try Self.guarded(memory.base, count, writable, fill)
        self.memory = memory
    }

    deinit { Self.release(place) }

    public var base: UnsafeMutableRawPointer { memory.base }
    public var count: Int { memory.count }

    /// A page could not be had, now or before.
    public var isLost: Bool { Self.isLost(place) }

    // Not inlined elsewhere: the handler's table is this module's.
    @inline(never) private static func isLost(_ place: Int) -> Bool { shl_is_lost(table + place) != 0 }

    @inline(never) private static func guarded(_ base: UnsafeMutableRawPointer, _ count: Int, _ writable: Bool, _ fill: UInt8) throws(Errno)
        -> Int
    {
        try places.withLock { (places) throws(Errno) -> Int in
            if places == nil {
                try check(shl_guard_mappings(table, limit))
                places = Places()
            }
            let place: Int
            if let free = places?.free.popLast() {
                place = free
            } else {
                guard let next = places?.next, next < limit else { throw .noMemory }
                place = next
                places?.next += 1
            }
            shl_guard(table + place, base, count, fill, writable ? 0 : 1)
            return place
        }
    }

    @inline(never) private static func release(_ place: Int) {
        places.withLock { places in
            shl_unguard(table + place)
            places?.free.append(place)
        }
    }
}
