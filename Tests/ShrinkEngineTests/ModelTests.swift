import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@testable import ShrinkEngine

/// Random histories against a plain model.
@Suite struct ModelTests {
    private static let kinds: [(ModelStep.Kind, Int)] = [
        (.create, 40), (.write, 220), (.hold, 40), (.letGo, 60), (.purgeable, 30), (.keep, 30), (.shrinkObject, 120), (.shrinkBytes, 90),
        (.shrinkAll, 8), (.scan, 60), (.evict, 20), (.recoverObject, 80), (.recoverRange, 40), (.recoverBytes, 10), (.destroy, 18),
        (.join, 30), (.bump, 30), (.discard, 10), (.look, 30), (.armFault, 30), (.armCancel, 15), (.die, 2),
    ]
    private static let stepsPerRun = 4000

    private static func stepCount(_ name: String, default count: Int) -> Int {
        ThisProcess.environment(name).flatMap { Int($0) } ?? count
    }

    /// Runs a history on a fresh engine; the failure and the step it came at, or nil.
    private static func run(
        _ history: [ModelStep], backup: () -> any Backup = { MemoryBackup() }, coverage: ModelCoverage? = nil
    ) -> (failure: String, step: Int)? {
        var done = 0
        do {
            let model = try EngineModel(backup: backup(), coverage: coverage)
            for step in history {
                try model.run(step)
                done += 1
            }
            try model.checkEverything()
            return nil
        } catch { return ("\(error)", done) }
    }

    /// Leaves out whatever the failure does not need: halves first, single steps last.
    private static func shortest(_ history: [ModelStep], backup: () -> any Backup = { MemoryBackup() }) -> [ModelStep] {
        var history = history
        var length = history.count / 2
        while length > 0 {
            let before = history.count
            var start = 0
            while start < history.count {
                let shorter = Array(history[..<start] + history[min(start + length, history.count)...])
                if run(shorter, backup: backup) != nil { history = shorter } else { start += length }
            }
            // Single steps again while that helps: one may have stood in for another.
            if length > 1 || history.count == before { length /= 2 }
        }
        return subset(of: history, backup: backup) ?? history
    }

    /// The shortest part of a short history that fails. Leaving out one step may move what another one means, so that only several can go at once.
    private static func subset(of history: [ModelStep], backup: () -> any Backup) -> [ModelStep]? {
        guard history.count <= 12 else { return nil }
        for kept in (1..<1 << history.count).sorted(by: { $0.nonzeroBitCount < $1.nonzeroBitCount }) {
            let part = history.indices.filter { kept >> $0 & 1 == 1 }.map { history[$0] }
            if run(part, backup: backup) != nil { return part }
        }
        return nil
    }

    private static func report(_ history: [ModelStep], _ found: (failure: String, step: Int), seed: UInt64) -> String {
        let short = shortest(Array(history.prefix(found.step + 1)))
        return "seed \(seed): \(found.failure)\nshortest history, \(short.count) steps:\n"
            + short.map { "  \($0)" }.joined(separator: "\n") + "\nends with: \(run(short)?.failure ?? "nothing")"
    }

    /// At least a million steps of one thread, the same for the same seed. `SHRINKD_MODEL_STEPS` for more.
    @Test func everyHistoryMatchesThePlainModel() {
        let seed = testSeed("model")
        let total = Self.stepCount("SHRINKD_MODEL_STEPS", default: 1_000_000)
        let runs = (total + Self.stepsPerRun - 1) / Self.stepsPerRun
        let started = MonotonicTime.now()
        let coverage = ModelCoverage()
        for index in 0..<runs {
            let history = ModelStep.history(Self.stepsPerRun, seed: seed &+ UInt64(index) &* 0x9E37_79B9, Self.kinds)
            if let found = Self.run(history, coverage: coverage) {
                return #expect(Bool(false), "\(Self.report(history, found, seed: seed)) (run \(index))")
            }
        }
        // Too few steps need not come upon everything.
        if total >= 1_000_000 { #expect(coverage.missing == [], "seed \(seed)") }
        print("met least: \(coverage.rarest)")
        print("\(runs * Self.stepsPerRun) steps in \(MonotonicTime.now().nanoseconds(since: started) / 1_000_000) ms")
    }

    /// The same over a real directory, less of it.
    @Test func historiesOverARealDirectoryMatchToo() throws {
        let seed = testSeed("model over tmpfs")
        let tmpfs = try ScratchMemoryFileSystem(sizeBytes: 64 << 20)
        for index in 0..<5 {
            let history = ModelStep.history(1500, seed: seed &+ UInt64(index), Self.kinds)
            let found = try { () -> (failure: String, step: Int)? in
                let directory = tmpfs.path + "/\(index)"
                try Files.makeDirectory(directory)
                let backup = try BackupDirectory(path: directory)
                return Self.run(history, backup: { backup })
            }()
            #expect(found == nil, "seed \(seed), run \(index): \(found?.failure ?? "") at step \(found?.step ?? 0)")
        }
    }

    /// The machine of proof itself: a backup that stores a wrong byte is found, and the history told is short.
    @Test func aBackupThatLiesIsFoundAndToldInFewSteps() throws {
        let seed = testSeed("liar")
        let history = ModelStep.history(3000, seed: seed, Self.kinds.filter { $0.0 != .die })
        let liar = { LyingBackup() as any Backup }
        guard let found = Self.run(history, backup: liar) else { return #expect(Bool(false), "the lie was not found (seed \(seed))") }
        let short = Self.shortest(Array(history.prefix(found.step + 1)), backup: liar)
        #expect(short.count <= 6, "seed \(seed): \(short)")
    }

    /// Several clients with pools of their own on one engine with two copy threads, all shrinking each other: each sees only its own bytes. Steps fail,
    /// one client cancels what another does, and now and then the engine dies in the middle of what all of them do.
    @Test func clientsOnSeveralThreadsMatchTheirModels() throws {
        let seed = testSeed("threads")
        let backup = MemoryBackup()
        let faults = SharedModelFaults(seed: seed)
        var configuration = Engine.Configuration()
        configuration.maximumResident = ByteCount(160 * basePageSize)
        configuration.memoryFloor = .zero
        configuration.faults = { point, _, _ in faults.strike(point) }
        var engine = try Engine(backup: backup, configuration: configuration, logger: quiet)
        let clients = try (0..<4 as Range<UInt64>).map {
            ModelClient(try EngineModel(engine: engine, backup: backup, client: $0 + 1, faults: faults))
        }
        let problems = Monitor<[String]>([])
        let rounds = 8
        let count = Self.stepCount("SHRINKD_MODEL_STEPS", default: 1_000_000) / 20 / rounds
        let kinds = Self.kinds.filter { $0.0 != .die && $0.0 != .armFault }
        var generator = SeededGenerator(seed: seed)
        for round in 0..<rounds where problems.withLock({ $0.isEmpty }) {
            faults.turnOn(life: round % 2 == 1 ? Int.random(in: 1...count * 8, using: &generator) : nil)
            try withDedicatedThreads { threads in
                for (index, client) in clients.enumerated() {
                    let history = ModelStep.history(count, seed: seed &+ UInt64(round * clients.count + index), kinds)
                    threads.start("client-\(index)") {
                        do { for step in history where !faults.isDead { try client.model.run(step) } } catch {
                            problems.withLock { $0.append("client \(index): \(error)") }
                        }
                    }
                }
            }
            if faults.isDead { faults.coverage.note("death") }
            let isDead = faults.isDead
            faults.turnOff()
            guard problems.withLock({ $0.isEmpty }) else { break }
            if isDead { engine = try Engine(backup: backup, configuration: configuration, logger: quiet) }
            do {
                for client in clients { isDead ? try client.model.reopen(on: engine) : try client.model.checkEverything() }
            } catch { problems.withLock { $0.append("after round \(round): \(error)") } }
            if !isDead { #expect(engine.brokenInvariants() == [], "seed \(seed)") }
        }
        #expect(problems.withLock { $0 } == [], "seed \(seed)")
        #expect(engine.brokenInvariants() == [], "seed \(seed)")
        for event in ["fault", "cancel", "death"] { #expect(faults.coverage.count(event) > 0, "no \(event) came (seed \(seed))") }
    }
}

/// One thread at a time works with it.
private final class ModelClient: @unchecked Sendable {
    let model: EngineModel
    init(_ model: EngineModel) { self.model = model }
}

/// Changes what it keeps.
private final class LyingBackup: Backup {
    private let honest = MemoryBackup()

    func create(_ id: ObjectID, sizeBytes: Int, hints: BackupHints) throws(EngineError) {
        try honest.create(id, sizeBytes: sizeBytes, hints: hints)
    }

    func open(_ id: ObjectID) throws(EngineError) -> BackupFile {
        let file = try honest.open(id)
        // Every opening spoils a first page that is there: what a history finds does not hang on the steps that are left out of it.
        if (try? file.nextData(from: 0)) == 0 {
            _ = [UInt8](repeating: 0x55, count: 16).withUnsafeBytes { file.write($0, at: 0) }
        }
        return file
    }

    func remove(_ id: ObjectID) throws(EngineError) { try honest.remove(id) }
    func nextID() throws(EngineError) -> ObjectID { try honest.nextID() }
    func status() -> BackupStatus { honest.status() }
    var availableBytes: UInt64 { .max }
    var isMemory: Bool { true }
    func objects() throws(EngineError) -> [ObjectID] { try honest.objects() }
}
