import ArgumentParser
import Glibc
import Logging
import ShrinkEngine
import ShrinkLinux
import SystemPackage

/// The extra memory of a shrink: a cgroup holds engine, backupfs, pool and store; its peak while shrinking, over the start.
struct MemoryMode: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "memory",
        abstract: "Measure the peak memory of pool, store and both processes while shrinking and recovering, over the start.",
        discussion:
            "Needs root and a writable memory cgroup (v1) or cgroup2 with the memory controller; without one, MemAvailable is sampled.")

    @Option(help: "MiB of pages, once for each measurement.") var sizes = "256,2048"
    @Option(help: "Measurements of each size, in turn; the median counts.") var runs = 5
    @Option(help: "Buffer objects of each measurement, from 1; 0: one for each 4 MiB.") var objects = 0
    @Flag(help: "Print one JSON document.") var json = false

    struct Report: Encodable {
        struct Entry: Encodable {
            var dataBytes: Int
            /// The median of the runs.
            var peakOverStartBytes: Int
            var runs: [Int]
            /// The same while everything is recovered.
            var recoverPeakOverStartBytes: Int
            var recoverRuns: [Int]
        }
        var measuredBy: String
        /// Peaks that differ by no more can't be told apart.
        var resolutionBytes: Int
        var entries: [Entry]
    }

    func run() throws {
        let sizes = self.sizes.split(separator: ",").compactMap { Int($0) }
        guard !sizes.isEmpty, sizes.allSatisfy({ $0 > 0 && $0 <= 1 << 16 }) else {
            throw ValidationError("give sizes in MiB as N,N,…")
        }
        guard objects >= 0, sizes.allSatisfy({ objects == 0 || ($0 % objects == 0) }) else {
            throw ValidationError("give a number of objects that divides each size in MiB")
        }
        guard (1...99).contains(runs) else { throw ValidationError("give from 1 to 99 runs") }
        let meter = try MemoryMeter()
        defer { meter.end() }
        var peaks = [[Peaks]](repeating: [], count: sizes.count)
        for _ in 0..<runs {
            for (index, size) in sizes.enumerated() { peaks[index].append(try peaksOverStart(size << 20, meter)) }
        }
        let entries = zip(sizes, peaks).map { size, peaks in
            Report.Entry(
                dataBytes: size << 20, peakOverStartBytes: Int(median(peaks.map { Double($0.shrink) })), runs: peaks.map(\.shrink),
                recoverPeakOverStartBytes: Int(median(peaks.map { Double($0.recover) })), recoverRuns: peaks.map(\.recover))
        }
        let report = Report(measuredBy: meter.name, resolutionBytes: meter.resolutionBytes, entries: entries)
        if json { return try printJSON(report) }
        func mebibytes(_ bytes: Int) -> Double { rounded(Double(bytes) / 1_048_576) }
        print("peak memory over the start, by \(report.measuredBy), in steps of \(mebibytes(report.resolutionBytes)) MiB")
        func line(_ doing: String, _ size: Int, _ median: Int, _ runs: [Int]) {
            let all = runs.map { "\(mebibytes($0))" }.joined(separator: ", ")
            print("  \(doing) \(size >> 20) MiB: median \(mebibytes(median)) MiB (\(all))")
        }
        for entry in report.entries {
            line("shrinking", entry.dataBytes, entry.peakOverStartBytes, entry.runs)
            line("recovering", entry.dataBytes, entry.recoverPeakOverStartBytes, entry.recoverRuns)
        }
    }

    private struct Peaks {
        var shrink: Int
        var recover: Int
    }

    private func peaksOverStart(_ bytes: Int, _ meter: MemoryMeter) throws -> Peaks {
        let scratch = try Scratch()
        defer { scratch.cleanUp() }
        // Pages that nothing elides or compresses: the store then grows by what the pool loses, page for page.
        let store = try scratch.memoryDirectory("store", sizeBytes: bytes + (256 << 20))
        let server = try scratch.serve(store: store)
        try meter.enter(server.processID)
        let engine = try Engine(
            backup: try BackupDirectory(path: server.mount), logger: Logger(label: "shrinkbench") { _ in SwiftLogNoOpLogHandler() })
        let pool = try engine.createPool(name: "memory", owner: ThisProcess.userID, size: ByteCount(bytes)).id
        let file = try engine.poolDescriptor(pool)
        let memory = try MappedMemory(sharing: file.number, count: bytes)
        let objectBytes = objects == 0 ? 4 << 20 : bytes / objects
        for _ in 0..<bytes / objectBytes {
            let object = try engine.createObject(in: pool, name: "o", size: ByteCount(objectBytes))
            let base = memory.base + object.offsetBytes.rawValue
            for word in stride(from: 0, to: objectBytes, by: 8) {
                base.storeBytes(of: UInt64(truncatingIfNeeded: word &* 0x9E37_79B9 | 1), toByteOffset: word, as: UInt64.self)
            }
            try engine.unpin(object.id)
        }
        // A first object warms up what is allocated once.
        _ = engine.shrink(.bytes(.mebibytes(8)))
        let start = try meter.begin()
        let result = engine.shrink(.all)
        let peak = try meter.peak()
        if let failure = result.failure { throw BenchError("shrinking failed: \(failure)") }
        let recoverStart = try meter.begin()
        let recovered = engine.recover(.all)
        let recoverPeak = try meter.peak()
        if let failure = recovered.failure { throw BenchError("recovering failed: \(failure)") }
        try engine.destroyPool(pool)
        return Peaks(shrink: max(0, peak - start), recover: max(0, recoverPeak - recoverStart))
    }
}

/// A cgroup of our own with this process in it, and its high-water mark; or MemAvailable, sampled.
final class MemoryMeter {
    private let directory: String?
    private let home: String?
    private let sampler: Sampler?
    let name: String
    /// The kernel charges a cgroup 64 pages at a time for each CPU (MEMCG_CHARGE_BATCH); of MemAvailable we see what a millisecond's rest leaves.
    let resolutionBytes: Int

    private final class Sampler: Sendable {
        let lowest = Monitor((lowest: UInt64.max, isEnding: false))
        func sample() {
            while !lowest.withLock({ $0.isEnding }) {
                if let now = try? MemoryInfo().available { lowest.withLock { $0.lowest = min($0.lowest, now) } }
                usleep(1000)
            }
        }
    }

    init() throws {
        let candidate = "/sys/fs/cgroup/memory/shrinkbench.\(ThisProcess.processID)"
        if (try? Files.makeDirectory(candidate, mode: 0o755)) != nil,
            (try? Self.write("\(ThisProcess.processID)", to: candidate + "/cgroup.procs")) != nil
        {
            directory = candidate
            home = "/sys/fs/cgroup/memory/cgroup.procs"
            sampler = nil
            name = "memory cgroup (memory.max_usage_in_bytes)"
            resolutionBytes = 64 * Int(basePageSize) * ProcessorTime.cores
        } else {
            directory = nil
            home = nil
            let sampler = Sampler()
            self.sampler = sampler
            name = "MemAvailable sampled each millisecond"
            resolutionBytes = 1 << 20
            _ = try DedicatedThread("meter") { sampler.sample() }
        }
    }

    func enter(_ processID: Int32) throws {
        if let directory { try Self.write("\(processID)", to: directory + "/cgroup.procs") }
    }

    /// Forgets earlier peaks; returns what is in use now.
    func begin() throws -> Int {
        if let directory {
            try Self.write("0", to: directory + "/memory.max_usage_in_bytes")
            return try Self.number(directory + "/memory.usage_in_bytes")
        }
        sampler?.lowest.withLock { $0.lowest = .max }
        return 0 - Int(try MemoryInfo().available)
    }

    func peak() throws -> Int {
        if let directory { return try Self.number(directory + "/memory.max_usage_in_bytes") }
        return 0 - Int(sampler?.lowest.withLock { $0.lowest } ?? 0)
    }

    func end() {
        sampler?.lowest.withLock { $0.isEnding = true }
        guard let directory, let home else { return }
        // Everything that is left in the group goes back where it came from, then the group goes.
        if let text = try? Files.contents(of: directory + "/cgroup.procs") {
            for process in String(decoding: text, as: UTF8.self).split(separator: "\n") { try? Self.write(String(process), to: home) }
        }
        try? Files.removeDirectory(directory)
    }

    private static func write(_ text: String, to path: String) throws(Errno) {
        let file = try Files.open(path, .writeOnly)
        try Array(text.utf8).withBytes { (bytes) throws(Errno) in
            if let error = Files.writeStream(file.number, bytes).error { throw error }
        }
    }

    private static func number(_ path: String) throws -> Int {
        let text = String(decoding: try Files.contents(of: path), as: UTF8.self)
        guard let value = Int(text.split(separator: "\n").first ?? "") else { throw BenchError("\(path) is not a number") }
        return value
    }
}
