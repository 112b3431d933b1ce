import ArgumentParser
import Logging
import ShrinkEngine
import ShrinkLinux

/// What an operation of the engine costs with few objects and with many: each should cost the same.
struct EngineMode: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "engine", abstract: "Measure the engine's structures with many objects: create, use, count, walk, memory.",
        discussion:
            "The backup does nothing, so only the engine is measured. A walk passes over every object once; nothing is copied. The size of a step must not depend on the number of objects."
    )

    @Option(help: "Numbers of objects, once for each measurement.") var objects = "1000,1000000"
    @Flag(help: "Print one JSON document.") var json = false

    struct Report: Encodable {
        struct Entry: Encodable {
            var objects: Int
            var createNs: Double
            var pinUnpinNs: Double
            var bulkBumpNs: Double
            var countNs: Double
            var walkStepNs: Double
            var listFirstNs: Double
            var destroyNs: Double
            var engineBytesPerObject: Double
        }
        var entries: [Entry]
    }

    func run() throws {
        let counts = objects.split(separator: ",").compactMap { Int($0) }
        guard !counts.isEmpty, counts.allSatisfy({ $0 >= 100 && $0 <= EngineLimits.objectsPerPool }) else {
            throw ValidationError("give numbers of objects as N,N,… from 100 to \(EngineLimits.objectsPerPool)")
        }
        let report = Report(entries: try counts.map { try measure($0) })
        if json { return try printJSON(report) }
        print("   objects   create  pin+unpin  bulk bump   count  walk step  list 100  destroy   bytes each")
        for entry in report.entries {
            let count = "\(entry.objects)"
            print(
                String(repeating: " ", count: max(0, 10 - count.count)) + count + column(entry.createNs, width: 9)
                    + column(entry.pinUnpinNs, width: 11) + column(entry.bulkBumpNs, width: 11) + column(entry.countNs)
                    + column(entry.walkStepNs, width: 11) + column(entry.listFirstNs, width: 10) + column(entry.destroyNs, width: 9)
                    + column(entry.engineBytesPerObject, width: 13))
        }
        print("all in nanoseconds an operation, of an optimised build")
    }

    private func measure(_ count: Int) throws -> Report.Entry {
        var logger = Logger(label: "shrinkbench") { StreamLogHandler.standardError(label: $0) }
        logger.logLevel = .warning
        let engine = try Engine(backup: NoBackup(), logger: logger)
        let pool = try engine.createPool(name: "engine", owner: 0, size: ByteCount(count * basePageSize)).id
        var ids: [ObjectID] = []
        ids.reserveCapacity(count)
        func nanoseconds(_ operations: Int, _ body: () throws -> Void) rethrows -> Double {
            let started = MonotonicTime.now()
            try body()
            return Double(MonotonicTime.now().nanoseconds(since: started)) / Double(operations)
        }
        let create = try nanoseconds(count) {
            for _ in 0..<count {
                let id = try engine.createObject(in: pool, name: "o", size: ByteCount(basePageSize)).id
                try engine.unpin(id)
                ids.append(id)
            }
        }
        let rounds = 100_000
        let pin = try nanoseconds(rounds) {
            for i in 0..<rounds {
                let id = ids[(i &* 7919) % count]
                try engine.pin(id)
                try engine.unpin(id)
            }
        }
        let bulk = try engine.createBulkMove()
        for id in ids.prefix(count / 2) { try engine.setBulkMove(bulk, of: id) }
        let bump = nanoseconds(rounds) { for _ in 0..<rounds { engine.bump(bulk) } }
        let shrinker = engine.shrinker
        let counting = nanoseconds(rounds) { for _ in 0..<rounds { _ = shrinker.count(.background) } }
        // One expendable object makes the purge pass look at all, and it goes in that walk: it is made anew each time, at the end of the list.
        // Without the file system nothing else happens.
        let context = ReclaimContext(caller: .direct, mayUseFileSystem: false)
        let walks = max(2, 2_000_000 / count)
        let walk = try nanoseconds(walks * count) {
            for _ in 0..<walks {
                try engine.pin(ids[count - 1])
                try engine.setPurgeable(ids[count - 1], true)
                try engine.unpin(ids[count - 1])
                _ = shrinker.scan(goalPages: .max, context)
            }
        }
        let list = nanoseconds(100) { for i in 0..<100 { _ = engine.objects(in: pool, after: ids[(i &* 7919) % count], limit: 100) } }
        let bytes = Double(engine.memoryBytes) / Double(count)
        let destroy = try nanoseconds(count) { try engine.destroyPool(pool) }
        return Report.Entry(
            objects: count, createNs: create.rounded(), pinUnpinNs: pin.rounded(), bulkBumpNs: bump.rounded(), countNs: counting.rounded(),
            walkStepNs: rounded(walk), listFirstNs: list.rounded(), destroyNs: destroy.rounded(), engineBytesPerObject: rounded(bytes))
    }
}

/// Keeps nothing: for measuring what the engine itself costs.
final class NoBackup: Backup {
    private let next = Monitor<UInt32>(1)

    func create(_ id: ObjectID, sizeBytes: Int, hints: BackupHints) throws(EngineError) {}
    func open(_ id: ObjectID) throws(EngineError) -> BackupFile { throw EngineError(.backupFailed, "this backup keeps nothing") }
    func remove(_ id: ObjectID) throws(EngineError) {}
    func nextID() throws(EngineError) -> ObjectID {
        next.withLock { next in
            defer { next += 1 }
            return ObjectID(rawValue: next)
        }
    }
    func status() -> BackupStatus { BackupStatus(path: "", storedBytes: 0, availableBytes: .max) }
    var availableBytes: UInt64 { .max }
    var isMemory: Bool { true }
    func objects() throws(EngineError) -> [ObjectID] { [] }
}
