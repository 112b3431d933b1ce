import Logging
import ShrinkEngine
import ShrinkLinux

/// An engine over a directory with the data in its pool, in objects of one size.
final class EngineRun {
    let engine: Engine
    private let pool: PoolID
    private let memory: MappedMemory
    private let data: RealPages
    private let copying: Copying
    private var objects: [(id: ObjectID, offset: Int, source: Int, count: Int)] = []

    struct Figures {
        var shrinkNanoseconds: UInt64
        var recoverNanoseconds: UInt64
        var shrink: ShrinkResult
        var shrinkPhase: Phase
        var recoverPhase: Phase
    }

    /// When one half of a pass ran, and what it cost.
    struct Phase {
        var began: MonotonicTime
        var ended: MonotonicTime
        var ownNanoseconds: UInt64
        var serverNanoseconds: UInt64
        var cpuNanoseconds: UInt64 { ownNanoseconds + serverNanoseconds }
    }

    /// Whose processor time counts beside our own.
    private let server: Int32?

    init(directory: String, data: RealPages, objectBytes: Int, _ copying: Copying, server: Int32? = nil) throws {
        self.copying = copying
        self.server = server
        self.data = data
        // As shrinkd does: each object's file stays open.
        try ThisProcess.raiseDescriptorLimit()
        var configuration = Engine.Configuration()
        configuration.copyWorkers = copying.workers
        configuration.clientsAreStrangers = copying.strangers
        var logger = Logger(label: "shrinkbench") { StreamLogHandler.standardError(label: $0) }
        logger.logLevel = .warning
        engine = try copying.withPriority {
            try Engine(backup: try BackupDirectory(path: directory), configuration: configuration, logger: logger)
        }
        pool = try engine.createPool(name: "bench", owner: ThisProcess.userID, size: ByteCount(data.count)).id
        let file = try engine.poolDescriptor(pool)
        memory = try MappedMemory(sharing: file.number, count: data.count)
        var source = 0
        while source < data.count {
            let count = min(objectBytes, data.count - source)
            let object = try engine.createObject(in: pool, name: "data", size: ByteCount(count))
            let place = object.offsetBytes.rawValue
            UnsafeMutableRawBufferPointer(rebasing: memory.bytes[place..<place + count]).copyMemory(
                from: UnsafeRawBufferPointer(rebasing: data.bytes[source..<source + count]))
            objects.append((object.id, place, source, count))
            try engine.unpin(object.id)
            source += count
        }
    }

    /// Everything out and back once, timed apart; the content is compared afterwards.
    func pass() throws -> Figures { try copying.withPriority { try timedPass() } }

    private func timedPass() throws -> Figures {
        let (shrink, shrinkPhase) = try phase { engine.shrink(.all) }
        if let failure = shrink.failure { throw BenchError("shrinking failed: \(failure)") }
        let left = try engine.pool(pool)
        guard left.allocatedBytes == .zero else {
            throw BenchError(
                "the pool kept \(left.allocatedBytes) after shrinking everything (\(left.pages); \(shrink.skippedObjects) objects skipped)")
        }
        let (recover, recoverPhase) = try phase { engine.recover(.all) }
        if let failure = recover.failure { throw BenchError("recovering failed: \(failure)") }
        for object in objects {
            // Pinned, as a client must: reading a hole through a mapping makes it a page.
            try engine.pin(object.id)
            defer { try? engine.unpin(object.id) }
            guard memcmpEqual(memory.base + object.offset, data.bytes.baseAddress! + object.source, object.count) else {
                throw BenchError("content differs after recovering")
            }
        }
        return Figures(
            shrinkNanoseconds: shrink.durationNanoseconds, recoverNanoseconds: recover.durationNanoseconds, shrink: shrink,
            shrinkPhase: shrinkPhase, recoverPhase: recoverPhase)
    }

    private func phase<R>(_ body: () -> R) throws -> (R, Phase) {
        let (own, others) = (ProcessorTime.ofThisProcess(), try serverTime())
        let began = MonotonicTime.now()
        let result = body()
        let ended = MonotonicTime.now()
        return (
            result,
            Phase(
                began: began, ended: ended, ownNanoseconds: ProcessorTime.ofThisProcess() - own,
                serverNanoseconds: try serverTime() - others)
        )
    }

    private func serverTime() throws -> UInt64 { try server.map { try ProcessorTime.of($0) } ?? 0 }

    func end() throws { try engine.destroyPool(pool) }
}
