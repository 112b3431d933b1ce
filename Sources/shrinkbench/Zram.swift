import Glibc
import ShrinkLinux
import SystemPackage

/// The peer: a zram device of our own with lz4 as swap, its pages pushed out by MADV_PAGEOUT and brought back by touch.
///
/// The device is made by hot_add and removed again; vm.page-cluster is put back. Needs root and CONFIG_ZRAM.
final class Zram {
    private let device: Int
    private var isSwap = false
    private let pageCluster: String

    private var block: String { "/sys/block/zram\(device)" }
    private var node: String { "/dev/zram\(device)" }

    init(sizeBytes: Int) throws {
        guard ThisProcess.userID == 0 else { throw BenchError("zram needs root; run shrinkbench as root") }
        // Left on: they are others'. The kernel keeps its choice of a device for a while, whatever the priorities say, so pages may go there.
        let others = try Self.swapDevices()
        if !others.isEmpty {
            Self.warn(
                "warning: this machine swaps to \(others.joined(separator: ", ")); if a run's pages go there instead of to our zram, it ends with an error: turn that swap off and try again"
            )
        }
        guard let text = try? Kernel.read("/sys/class/zram-control/hot_add"), let number = Int(text) else {
            throw BenchError("this machine has no zram; nothing to compare with")
        }
        device = number
        pageCluster = try Kernel.read("/proc/sys/vm/page-cluster")
        do {
            try Kernel.write("lz4", to: block + "/comp_algorithm")
            try Kernel.write("\(sizeBytes)", to: block + "/disksize")
            // devtmpfs makes the node; the first free device may need a moment to show up only where udev does.
            guard (try? Files.status(of: node)) != nil else { throw BenchError("\(node) is not there") }
            try run("/sbin/mkswap", [node])
            try run("/sbin/swapon", ["-p", "32767", node])
            isSwap = true
        } catch {
            remove()
            throw error
        }
    }

    deinit { remove() }

    /// Devices and files in use as swap (proc(5), /proc/swaps).
    static func swapDevices() throws -> [String] {
        try Kernel.read("/proc/swaps").split(separator: "\n").dropFirst().compactMap { $0.split(separator: " ").first.map(String.init) }
    }

    private static func warn(_ line: String) {
        try? Array((line + "\n").utf8).withBytes { (bytes) throws(Errno) in
            if let error = Files.writeStream(2, bytes).error { throw error }
        }
    }

    func setPageCluster(_ value: Int) throws { try Kernel.write("\(value)", to: "/proc/sys/vm/page-cluster") }

    func remove() {
        try? Kernel.write(pageCluster, to: "/proc/sys/vm/page-cluster")
        if isSwap { try? run("/sbin/swapoff", [node]) }
        isSwap = false
        try? Kernel.write("1", to: block + "/reset")
        try? Kernel.write("\(device)", to: "/sys/class/zram-control/hot_remove")
    }

    /// Compressed bytes, and what the device takes for them with its own overhead (Documentation/admin-guide/blockdev/zram.rst, mm_stat).
    func stored() throws -> (originalBytes: Int, compressedBytes: Int, usedBytes: Int) {
        let fields = try Kernel.read(block + "/mm_stat").split(separator: " ").compactMap { Int($0) }
        guard fields.count >= 3 else { throw BenchError("mm_stat of zram is not understood") }
        return (fields[0], fields[1], fields[2])
    }

    private func run(_ program: String, _ arguments: [String]) throws {
        let null = try Files.open("/dev/null", .writeOnly)
        let ending = try ChildProcess(
            program, arguments, environment: ["PATH=/sbin:/bin"], standardOutput: null.number, standardError: null.number
        ).wait()
        guard ending == .exited(0) else { throw BenchError("\(program) \(arguments.joined(separator: " ")): \(ending)") }
    }
}

/// Control files of the kernel.
enum Kernel {
    static func read(_ path: String) throws -> String {
        let text = String(decoding: try Files.contents(of: path), as: UTF8.self)
        return String(text.drop { $0.isWhitespace }.reversed().drop { $0.isWhitespace }.reversed())
    }

    static func write(_ text: String, to path: String) throws {
        let file = try Files.open(path, .writeOnly)
        try Array(text.utf8).withBytes { (bytes) throws(Errno) in
            if let error = Files.writeStream(file.number, bytes).error { throw error }
        }
    }
}

/// Anonymous memory with the data, and what it costs to push it out and touch it back.
final class SwappedMemory {
    // MADV_PAGEOUT of madvise(2), which Swift's Glibc module lacks.
    private static let pageOut: CInt = 21
    private let memory: MappedMemory
    private let data: RealPages

    struct Figures {
        var outNanoseconds: UInt64
        var backNanoseconds: UInt64
        var outCPUNanoseconds: UInt64
        var backCPUNanoseconds: UInt64
        var pagesLeft: Int
        var compressedBytes: Int
        var usedBytes: Int
    }

    init(_ data: RealPages) throws {
        self.data = data
        memory = try MappedMemory(anonymous: data.count, populated: false)
        memory.bytes.copyMemory(from: data.bytes)
    }

    /// All out by `threads` threads, then every page touched by as many.
    func pass(threads: Int, zram: Zram) throws -> Figures {
        let base = SendableAddress(memory.base)
        let share = (data.count / threads / (4 << 20)) * (4 << 20)
        func ranges() -> [Range<Int>] {
            (0..<threads).map { $0 * share..<($0 == threads - 1 ? data.count : ($0 + 1) * share) }
        }
        // Every page is dirty again: one that is still the same in swap would go out for nothing.
        for offset in stride(from: 0, to: data.count, by: basePageSize) { dirtyByte(memory.base + offset) }
        let cpu = ProcessorTime.ofThisProcess()
        let started = MonotonicTime.now()
        try inThreads(ranges()) { range in
            for offset in stride(from: range.lowerBound, to: range.upperBound, by: 4 << 20) {
                _ = madvise(base.address + offset, min(4 << 20, range.upperBound - offset), Self.pageOut)
            }
        }
        let out = MonotonicTime.now().nanoseconds(since: started)
        let outCPU = ProcessorTime.ofThisProcess() - cpu
        let stored = try zram.stored()
        // Zero pages the kernel notes in its swap map; everything else must be in this device, or the figures are another's.
        guard stored.originalBytes >= (data.pageCount - data.zeroPages) * basePageSize * 95 / 100 else {
            throw BenchError(
                "zram took only \(stored.originalBytes >> 20) MiB of the pages: another swap device took the rest; turn it off")
        }
        var resident = [UInt8](repeating: 0, count: data.pageCount)
        mincore(memory.base, data.count, &resident)
        let left = resident.count { $0 & 1 != 0 }
        let touchCPU = ProcessorTime.ofThisProcess()
        let touchStarted = MonotonicTime.now()
        try inThreads(ranges()) { range in
            // A volatile read, or the optimiser sees that nobody needs the bytes.
            for offset in stride(from: range.lowerBound, to: range.upperBound, by: basePageSize) { base.touch(offset) }
        }
        let back = MonotonicTime.now().nanoseconds(since: touchStarted)
        let backCPU = ProcessorTime.ofThisProcess() - touchCPU
        guard memcmpEqual(memory.base, data.bytes.baseAddress!, data.count) else { throw BenchError("zram's content differs") }
        return Figures(
            outNanoseconds: out, backNanoseconds: back, outCPUNanoseconds: outCPU, backCPUNanoseconds: backCPU, pagesLeft: left,
            compressedBytes: stored.compressedBytes,
            usedBytes: stored.usedBytes)
    }

    private func inThreads(_ ranges: [Range<Int>], _ body: @escaping @Sendable (Range<Int>) -> Void) throws {
        if ranges.count == 1 { return body(ranges[0]) }
        let threads = try ranges.map { range in try DedicatedThread("zram") { body(range) } }
        for thread in threads { thread.join() }
    }
}

private struct SendableAddress: @unchecked Sendable {
    let address: UnsafeMutableRawPointer
    init(_ address: UnsafeMutableRawPointer) { self.address = address }

    /// Reads a byte where it lies.
    @inline(__always) func touch(_ offset: Int) { readByte(address + offset) }
}

/// CPU seconds of processes, user and system.
enum ProcessorTime {
    static var cores: Int { sysconf(CInt(_SC_NPROCESSORS_ONLN)) }

    /// All threads of this process. The corresponding C function is `clock_gettime(CLOCK_PROCESS_CPUTIME_ID)`.
    static func ofThisProcess() -> UInt64 {
        var t = timespec()
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t)
        return UInt64(t.tv_sec) * 1_000_000_000 + UInt64(t.tv_nsec)
    }

    /// Another process, from its CPU clock (clock_getcpuclockid(3)).
    static func of(_ process: Int32) throws -> UInt64 {
        var clock = clockid_t()
        guard clock_getcpuclockid(process, &clock) == 0 else { throw BenchError("the CPU time of process \(process) can't be read") }
        var t = timespec()
        clock_gettime(clock, &t)
        return UInt64(t.tv_sec) * 1_000_000_000 + UInt64(t.tv_nsec)
    }
}
