import CShrinkLinux
import Glibc
public import SystemPackage

extension ProcessMemory {
    /// Call it before there is a second thread: all threads then take memory from one heap, which grows by a mebibyte and is never given back below sixteen.
    /// The corresponding C function is `mallopt`.
    public static func keepOneHeap() {
        shl_keep_one_heap(1 << 20, 16 << 20)
    }

    /// Allocates what this process's threads are about to use and have not touched yet: the top of their stacks, the heap with what it will grow into, and the
    /// data of programs and libraries. What is locked on fault would else find out when memory is gone that there is no page for it.
    ///
    /// Pools, ledgers and stores are shared mappings and stay as sparse as they are. The corresponding C function is `madvise(MADV_POPULATE_WRITE)` (Linux 5.14).
    public static func allocateWorkingMemory() throws(Errno) {
        let mappings = parse(String(decoding: try Files.contents(of: "/proc/self/maps", limit: 16 << 20), as: UTF8.self))
        for range in rangesToAllocate(mappings) {
            // One that was unmapped meanwhile, or has no memory left for it, is no reason not to start.
            _ = shl_madvise(UnsafeMutableRawPointer(bitPattern: range.lowerBound), range.count, SHL_MADV_POPULATE_WRITE.rawInt)
        }
    }

    struct Mapping: Equatable {
        var addresses: Range<UInt>
        var isPrivate: Bool
        var isWritable: Bool
        var isAccessible: Bool
        var name: String
    }

    /// Lines of /proc/PID/maps (proc_pid_maps(5)).
    static func parse(_ text: String) -> [Mapping] {
        text.split(separator: "\n").compactMap { line in
            let fields = line.split(separator: " ", maxSplits: 5, omittingEmptySubsequences: true)
            guard fields.count >= 5 else { return nil }
            let ends = fields[0].split(separator: "-").compactMap { UInt($0, radix: 16) }
            guard ends.count == 2, ends[0] < ends[1], fields[1].utf8.count == 4 else { return nil }
            let rights = fields[1]
            return Mapping(
                addresses: ends[0]..<ends[1], isPrivate: rights.hasSuffix("p"), isWritable: rights.hasPrefix("rw"),
                isAccessible: !rights.hasPrefix("---"), name: fields.count > 5 ? String(fields[5]) : "")
        }
    }

    private static let stackTopBytes: UInt = 64 << 10
    private static let dataLimitBytes = 4 << 20

    static func rangesToAllocate(_ mappings: [Mapping]) -> [Range<UInt>] {
        mappings.indices.compactMap { i in
            let mapping = mappings[i]
            guard mapping.isPrivate, mapping.isWritable else { return nil }
            if mapping.name == "[heap]" { return mapping.addresses }
            let isStack = i > 0 && !mappings[i - 1].isAccessible && mappings[i - 1].addresses.upperBound == mapping.addresses.lowerBound
            // Stacks grow down from the end of their mapping; below lies a page that nobody may touch.
            if isStack || mapping.name == "[stack]" {
                let start = max(
                    mapping.addresses.lowerBound, mapping.addresses.upperBound - min(stackTopBytes, mapping.addresses.upperBound))
                return start..<mapping.addresses.upperBound
            }
            return mapping.addresses.count <= dataLimitBytes && !mapping.name.isEmpty ? mapping.addresses : nil
        }
    }
}
