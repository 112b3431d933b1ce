import ArgumentParser
import Logging
import ShrinkEngine
import ShrinkLinux

/// The backends side by side: one engine, a pool on each, the same pages.
struct BackendsMode: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "backends",
        abstract: "Compare raw on tmpfs, raw on a disk, packed, and the kernel's swap, in one run on the same pages.",
        discussion: """
            One engine, a pool on each backend. The kernel's swap is a zram device of its own (lz4): pages go out by process_madvise, seen by mincore, and come \
            back by touch. The claim that files work as well as inserting pages into the swap cache is the ratio of the first line to the last. Needs root.
            """)

    @Option(help: "Take the pages from this file instead of the machine's shared libraries.") var data: String?
    @Option(help: "MiB of pages to move.") var size = 256
    @Option(help: "KiB of an object.") var objectSize = 4096
    @Option(help: "Runs; figures are medians.") var runs = 5
    @Option(help: "Threads that copy.") var workers = 3
    @Option(help: "A directory on a disk; otherwise one in /tmp.") var disk: String?
    @Flag(help: "Print one JSON document.") var json = false

    struct Report: Encodable {
        struct Backend: Encodable {
            var name: String
            var shrinkGibS: Double
            var recoverGibS: Double
            var storedBytes: Int
            var shrinkVsKernelSwap: Double
            var recoverVsKernelSwap: Double
        }
        var dataBytes: Int
        var zeroPages: Int
        var runs: Int
        var backends: [Backend]
    }

    func run() throws {
        guard size > 0, size <= 1 << 16, runs > 0, runs <= 100, objectSize >= 4, workers > 0, workers <= 64 else {
            throw ValidationError("give a size of 1 to 65536 MiB, 1 to 100 runs, objects of at least 4 KiB and 1 to 64 workers")
        }
        let pages = try RealPages(size: size << 20, file: data)
        let scratch = try Scratch()
        defer { scratch.cleanUp() }
        let room = pages.count + (256 << 20)
        let packed = try scratch.serve(store: try scratch.packedDirectory("packed", sizeBytes: room), ["--layout", "packed"])
        let diskDirectory = disk ?? scratch.path + "/disk"
        if disk == nil { try Files.makeDirectory(diskDirectory) }
        let zram = try Zram(sizeBytes: pages.count * 2)
        defer { zram.remove() }
        var configuration = Engine.Configuration()
        configuration.copyWorkers = workers
        var logger = Logger(label: "shrinkbench") { StreamLogHandler.standardError(label: $0) }
        logger.logLevel = .warning
        let raw = try BackupDirectory(path: try scratch.memoryDirectory("raw", sizeBytes: room))
        let engine = try Engine(backup: raw, configuration: configuration, logger: logger)
        let backends: [(name: String, backup: any Backup)] = [
            ("raw on tmpfs", raw), ("raw on disk", try BackupDirectory(path: diskDirectory)),
            ("packed, mounted", try BackupDirectory(path: packed.mount)), ("kernel swap, zram", KernelSwap()),
        ]
        var lines: [(name: String, out: [Double], back: [Double], stored: Int)] = []
        for (name, backup) in backends {
            // One after the other, each with its pool full only then: the machine's memory is the same for all.
            let pool = try BackendPool(engine, name: name, backup: backup, data: pages, objectBytes: objectSize << 10)
            _ = try pool.pass(zram)
            var line = (name: name, out: [Double](), back: [Double](), stored: 0)
            for _ in 0..<runs {
                let figures = try pool.pass(zram)
                line.out.append(gibPerSecond(pages.count, figures.out))
                line.back.append(gibPerSecond(pages.count, figures.back))
                line.stored = figures.stored
            }
            try pool.end()
            lines.append(line)
        }
        guard let swap = lines.last else { return }
        let report = Report(
            dataBytes: pages.count, zeroPages: pages.zeroPages, runs: runs,
            backends: lines.map {
                Report.Backend(
                    name: $0.name, shrinkGibS: rounded(median($0.out)), recoverGibS: rounded(median($0.back)), storedBytes: $0.stored,
                    shrinkVsKernelSwap: rounded(median($0.out) / median(swap.out)),
                    recoverVsKernelSwap: rounded(median($0.back) / median(swap.back)))
            })
        if json { return try printJSON(report) }
        print("\(size) MiB (\(pages.source)), objects of \(objectSize) KiB, \(workers) workers, medians of \(runs) runs")
        print("                    shrink GiB/s   recover GiB/s   stored MiB   vs kernel swap")
        for line in report.backends {
            print(
                line.name + String(repeating: " ", count: max(0, 18 - line.name.count)) + column(line.shrinkGibS, width: 14)
                    + column(line.recoverGibS, width: 16) + column(Double(line.storedBytes >> 20), width: 13)
                    + column(line.shrinkVsKernelSwap, width: 11) + " /" + column(line.recoverVsKernelSwap, width: 5))
        }
    }
}

/// A pool with the data in it, on one backend.
private final class BackendPool {
    private let engine: Engine
    private let backup: any Backup
    private let pool: PoolID
    private let memory: MappedMemory
    private let data: RealPages
    private var objects: [(id: ObjectID, offset: Int, source: Int, count: Int)] = []

    init(_ engine: Engine, name: String, backup: any Backup, data: RealPages, objectBytes: Int) throws {
        (self.engine, self.backup, self.data) = (engine, backup, data)
        pool = try engine.createPool(name: name, owner: ThisProcess.userID, size: ByteCount(data.count), backup: backup).id
        let file = try engine.poolDescriptor(pool)
        memory = try MappedMemory(sharing: file.number, count: data.count)
        var source = 0
        while source < data.count {
            let count = min(objectBytes, data.count - source)
            let object = try engine.createObject(in: pool, name: "data", size: ByteCount(count))
            objects.append((object.id, object.offsetBytes.rawValue, source, count))
            try engine.unpin(object.id)
            source += count
        }
        try fill()
        if let swap = backup as? KernelSwap {
            try swap.setMapper(
                processID: ThisProcess.processID, address: UInt(bitPattern: memory.base), length: ByteCount(data.count))
        }
    }

    private func fill() throws {
        for object in objects {
            try engine.pin(object.id)
            UnsafeMutableRawBufferPointer(rebasing: memory.bytes[object.offset..<object.offset + object.count]).copyMemory(
                from: UnsafeRawBufferPointer(rebasing: data.bytes[object.source..<object.source + object.count]))
            try engine.unpin(object.id)
        }
    }

    func pass(_ zram: Zram) throws -> (out: UInt64, back: UInt64, stored: Int) {
        // Written anew: swap keeps no copy that would make the way out free.
        try fill()
        let shrunk = engine.shrink(.pool(pool))
        if let failure = shrunk.failure { throw BenchError("shrinking failed: \(failure)") }
        var stored = shrunk.storedBytes.rawValue
        var back: UInt64
        if backup is KernelSwap {
            stored = try zram.stored().usedBytes
            guard shrunk.freedBytes.rawValue >= data.count * 9 / 10 else {
                throw BenchError("the kernel paged out only \(shrunk.freedBytes) of \(data.count)")
            }
            let started = MonotonicTime.now()
            for offset in stride(from: 0, to: data.count, by: basePageSize) { readByte(memory.base + offset) }
            back = MonotonicTime.now().nanoseconds(since: started)
        } else {
            let recovered = engine.recover(.pool(pool))
            if let failure = recovered.failure { throw BenchError("recovering failed: \(failure)") }
            back = recovered.durationNanoseconds
        }
        for object in objects {
            guard memcmpEqual(memory.base + object.offset, data.bytes.baseAddress! + object.source, object.count) else {
                throw BenchError("content differs after recovering")
            }
        }
        return (shrunk.durationNanoseconds, back, stored)
    }

    func end() throws { try engine.destroyPool(pool) }
}
