import Glibc
import ShrinkEngine
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// The engine is a process of its own here, killed at every place between two steps while this process writes the pages that it moves. A new one takes over, heals
/// and serves; no write is ever lost, and no page is ever zeros that was not.
@Suite(.serialized) struct TouchCrashTests {
    private static let points: [FaultPoint] = [
        .afterProtect, .beforeCopyOut, .afterCopyOut, .betweenWords, .afterWords, .afterFree, .beforeCopyIn, .afterCopyIn, .beforeUnprotect,
        .afterRecoverWords, .beforeDrop, .afterDrop, .touchBeforeCopyIn, .touchAfterCopyIn, .touchAfterWords, .touchBeforeDrop,
        .touchAfterDrop,
    ]

    @Test func whereverTheEngineDiesNoWriteIsLost() throws {
        try hammer(HammeredPool.basePages, rounds: environmentRounds ?? 6, points: Self.points)
    }

    /// The same with huge pages: each step is of one unit and one word.
    @Test func whereverTheEngineDiesNoWriteToHugePagesIsLost() async throws {
        guard let reserve = try await HugePageReserve.take(20, so: "huge pages are not tried with engines that die") else { return }
        defer { reserve.release() }
        try hammer(HammeredPool.hugePages, rounds: min(environmentRounds ?? 2, 60), points: Self.points.filter { $0 != .betweenWords })
    }

    private func hammer(_ shape: HammeredPool.Shape, rounds: Int, points: [FaultPoint]) throws {
        let seed = testSeed("touch crash")
        var generator = SeededGenerator(seed: seed)
        let trial = try HammeredPool(seed: seed, shape)
        defer { trial.stop() }
        trial.start()
        for round in 0..<rounds {
            for point in points.shuffled(using: &generator) {
                let hit = point == .betweenWords ? Int.random(in: 1...400, using: &generator) : Int.random(in: 1...6, using: &generator)
                let ending = try trial.runEngine(dyingAt: point, hit: hit, seed: generator.next())
                #expect(ending == .signalled(SIGKILL), "\(point) (hit \(hit), round \(round), seed \(seed)): \(ending)")
                #expect(trial.failures == [], "after \(point) (hit \(hit), round \(round), seed \(seed))")
                if !trial.failures.isEmpty { return }
            }
        }
        let ending = try trial.runEngine(dyingAt: nil, hit: 0, seed: generator.next())
        #expect(ending == .exited(0), "seed \(seed)")
        trial.stop()
        #expect(trial.failures == [], "seed \(seed)")
        #expect(trial.writes > 1000)
    }
}

/// More rounds for a long campaign.
private let environmentRounds = ThisProcess.environment("SHRINKD_TOUCH_ROUNDS").flatMap { Int($0) }

private struct TookTooLong: Error, CustomStringConvertible {
    var description: String { "the engine did not reach its point within 60 s" }
}

/// A pool whose pages this process's threads write through a registered mapping, each knowing what it wrote last, and engines that come and go.
final class HammeredPool {
    /// What it is made of; writers go by base pages in either.
    struct Shape: Sendable {
        var pages: PoolPages
        var objects: Int
        /// Base pages.
        var pagesPerObject: Int
        /// A writer rests 10 ms after so many writes at most: six units that are written without rest are hot all the time, and none ever goes out.
        var burst: Int?
    }
    static let basePages = Shape(pages: .base, objects: 4, pagesPerObject: 256)
    static let hugePages = Shape(pages: .huge, objects: 3, pagesPerObject: 2 * unitPages, burst: 64)

    private static let writers = 2

    private let shape: Shape

    private let store: ScratchMemoryFileSystem
    private let file: OwnedDescriptor
    private let ledger: OwnedDescriptor
    private let memory: MappedMemory
    private let userfaults: OwnedDescriptor
    private let offsets: [Int]
    private let seed: UInt64
    private let state = Monitor((isStopping: false, failures: [String](), writes: 0))
    private var threads: [DedicatedThread] = []

    init(seed: UInt64, _ shape: Shape) throws {
        self.seed = seed
        self.shape = shape
        store = try ScratchMemoryFileSystem(sizeBytes: 64 << 20)
        let pages = shape.objects * shape.pagesPerObject
        let engine = try Engine(backup: try BackupDirectory(path: store.path), logger: quiet)
        let pool = try engine.createPool(name: "hammered", owner: 0, size: ByteCount(pages * basePageSize), of: shape.pages).id
        var offsets: [Int] = []
        let pattern = PagePattern(seed: seed)
        let descriptors = try engine.persistentDescriptors(of: pool)
        file = try descriptors.file.duplicate()
        ledger = try descriptors.ledger.duplicate()
        memory = try MappedMemory(sharing: file.number, count: pages * basePageSize)
        for i in 0..<shape.objects {
            let object = try engine.createObject(in: pool, name: "o\(i)", size: ByteCount(shape.pagesPerObject * basePageSize))
            offsets.append(object.offsetBytes.rawValue)
            for page in 0..<shape.pagesPerObject {
                let start = object.offsetBytes.rawValue + page * basePageSize
                pattern.fill(UnsafeMutableRawBufferPointer(start: memory.base + start, count: basePageSize), index: page, zeroEvery: 0)
                for writer in 0..<Self.writers { Self.word(UInt(bitPattern: memory.base), start, writer).pointee = 0 }
            }
            try engine.unpin(object.id)
        }
        self.offsets = offsets
        userfaults = try Userfaults.open(.userMode)
    }

    private static func word(_ base: UInt, _ offset: Int, _ writer: Int) -> UnsafeMutablePointer<UInt64> {
        UnsafeMutablePointer(bitPattern: base + UInt(offset + 64 * writer))!
    }

    var failures: [String] { state.withLock { $0.failures } }
    var writes: Int { state.withLock { $0.writes } }

    func start() {
        for writer in 0..<Self.writers {
            let (base, offsets, state, seed, shape) = (UInt(bitPattern: memory.base), offsets, state, seed, shape)
            guard
                let thread = try? DedicatedThread(
                    "hammer-\(writer)",
                    {
                        var generator = SeededGenerator(seed: seed &+ UInt64(writer))
                        var last = [UInt64](repeating: 0, count: shape.objects * shape.pagesPerObject)
                        var untilRest = shape.burst ?? .max
                        while !state.withLock({ $0.isStopping }) {
                            untilRest -= 1
                            if untilRest == 0, let burst = shape.burst {
                                usleep(10_000)
                                untilRest = Int.random(in: 1...burst, using: &generator)
                            }
                            let i = Int(generator.next() % UInt64(last.count))
                            let page = i % shape.pagesPerObject
                            let word = Self.word(base, offsets[i / shape.pagesPerObject] + page * basePageSize, writer)
                            if word.pointee != last[i] {
                                // A look that ends with the registration proves nothing.
                                if state.withLock({ $0.isStopping }) { return }
                                let found = word.pointee
                                state.withLock { $0.failures.append("page \(i) had \(found), written was \(last[i])") }
                                return
                            }
                            last[i] &+= generator.next() | 1
                            word.pointee = last[i]
                            state.withLock { $0.writes += 1 }
                        }
                    })
            else { continue }
            threads.append(thread)
        }
    }

    /// Starts an engine on the pool and waits for its end: by its own hand at `point`, or, without one, when it was asked to bring everything back.
    func runEngine(dyingAt point: FaultPoint?, hit: Int, seed: UInt64) throws -> ChildProcess.Ending {
        var pipe: ThisProcess.Pipe? = try ThisProcess.pipe()
        let reading = pipe?.output.number ?? 0
        let child = try ChildProcess(
            Machine.program("touch-trial"),
            [store.path, "\(UInt(bitPattern: memory.base))", "\(memory.count)", "\(seed)"] + (point.map { [$0.rawValue, "\(hit)"] } ?? []),
            environment: ["PATH=/usr/bin:/bin"], descriptors: [file.number, ledger.number, userfaults.number],
            standardInput: reading)
        if point == nil {
            // A while of ordinary life first.
            let target = writes + 20_000
            let limit = MonotonicTime.now().advanced(milliseconds: 20_000)
            while writes < target, failures.isEmpty, MonotonicTime.now() < limit { usleep(2000) }
            pipe = nil
            return try end(of: child)
        }
        let ending = try end(of: child)
        pipe = nil
        return ending
    }

    private func end(of child: ChildProcess) throws -> ChildProcess.Ending {
        if let ending = try child.wait(timeoutMilliseconds: 60_000) { return ending }
        child.signal(SIGKILL)
        _ = try child.wait()
        throw TookTooLong()
    }

    /// Ends the writers. Who waits for a page is let go by taking the memory out of the userfaultfd.
    func stop() {
        state.withLock { $0.isStopping = true }
        let start = UInt(bitPattern: memory.base)
        try? Userfaults.unregister(userfaults.number, start..<start + UInt(memory.count))
        for thread in threads { thread.join() }
        threads = []
    }
}
