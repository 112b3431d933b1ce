import ArgumentParser
import Glibc
import Logging
import ShrinkEngine
import ShrinkLinux
import SystemPackage

/// The extra memory of a shrink: a cgroup holds engine, backupfs, pool and store; its peak while shrinking, over the start.
struct MemoryMode: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "memory", abstract: "Measure the peak memory of pool, store and both processes while shrinking, over the start.",
        discussion:
            "Needs root and a writable memory cgroup (v1) or cgroup2 with the memory controller; without one, MemAvailable is sampled.")

    @Option(help: "MiB of pages, once for each measurement.") var sizes = "256,2048"
    @Flag(help: "Print one JSON document.") var json = false

    struct Report: Encodable {
        struct Entry: Encodable {
            var dataBytes: Int
            var peakOverStartBytes: Int
        }
        var measuredBy: String
        var entries: [Entry]
    }

    func run() throws {
        let sizes = self.sizes.split(separator: ",").compactMap { Int($0) }
        guard !sizes.isEmpty, sizes.allSatisfy({ $0 > 0 && $0 <= 1 << 16 }) else {
            throw ValidationError("give sizes in MiB as N,N,…")
        }
        let meter = try MemoryMeter()
        defer { meter.end() }
        var report = Report(measuredBy: meter.name, entries: [])
        for size in sizes {
            let scratch = try Scratch()
            defer { scratch.cleanUp() }
            // Pages that nothing elides or compresses: the store then grows by what the pool loses, page for page.
            let store = try scratch.memoryDirectory("store", sizeBytes: (size + 256) << 20)
            let server = try scratch.serve(store: store)
            try meter.enter(server.processID)
            let bytes = size << 20
            let engine = try Engine(backup: try BackupDirectory(path: server.mount), logger: .init(label: "shrinkbench"))
            let pool = try engine.createPool(name: "memory", owner: ThisProcess.userID, size: ByteCount(bytes)).id
            let file = try engine.poolDescriptor(pool)
            let memory = try MappedMemory(sharing: file.number, count: bytes)
            for _ in 0..<bytes / (4 << 20) {
                let object = try engine.createObject(in: pool, name: "o", size: .mebibytes(4))
                let base = memory.base + object.offsetBytes.rawValue
                for word in stride(from: 0, to: 4 << 20, by: 8) {
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
            report.entries.append(Report.Entry(dataBytes: bytes, peakOverStartBytes: max(0, peak - start)))
            try engine.destroyPool(pool)
        }
        if json { return try printJSON(report) }
        print("peak memory over the start, by \(report.measuredBy)")
        for entry in report.entries {
            print("  shrinking \(entry.dataBytes >> 20) MiB: \(rounded(Double(entry.peakOverStartBytes) / 1_048_576)) MiB")
        }
    }
}

/// A cgroup of our own with this process in it, and its high-water mark; or MemAvailable, sampled.
final class MemoryMeter {
    private let directory: String?
    private let home: String?
    private let sampler: Sampler?
    let name: String

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
        } else {
            directory = nil
            home = nil
            let sampler = Sampler()
            self.sampler = sampler
            name = "MemAvailable sampled each millisecond"
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
