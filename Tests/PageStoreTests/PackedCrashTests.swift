import PackedWorkload
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@testable import PageStore

/// A store that was killed opens again with every page whose write was answered.
@Suite(.serialized) struct PackedCrashTests {
    static let operations = 200

    /// Runs a child until it dies or ends, killing it after some time if that is given; returns how it ended and what it answered.
    static func run(
        seed: UInt64, objectBytes: Int = 256 << 10, operations: Int = operations, _ directories: [String], environment: [String] = [],
        killAfterMilliseconds: CInt? = nil
    ) throws -> (ending: ChildProcess.Ending, answers: [UInt8]) {
        let scratch = try ScratchDirectory()
        let output = try Files.open(scratch.file("answers"), [.readWrite, .create])
        let child = try ChildProcess(
            Machine.program("packed-crash"), ["\(seed)", "\(operations)", "\(objectBytes)"] + directories, environment: environment,
            standardOutput: output.number)
        if let killAfterMilliseconds {
            if let ending = try child.wait(timeoutMilliseconds: killAfterMilliseconds) {
                return (ending, try Files.contents(of: scratch.file("answers")))
            }
            child.signal(9)
        }
        let ending = try child.wait()
        return (ending, try Files.contents(of: scratch.file("answers")))
    }

    static func check(
        _ seed: UInt64, objectBytes: Int = 256 << 10, operations: Int = operations, segmentBytes: Int = 1 << 20, _ directories: [String],
        _ answers: [UInt8], wasKilled: Bool
    ) throws
        -> [String]
    {
        var workload = Workload(seed: seed, objectBytes: objectBytes)
        var model = WorkloadModel()
        for answer in answers {
            let operation = workload.next()
            if answer == UInt8(ascii: ".") { model.apply(operation) } else { model.applyPerhaps(operation) }
        }
        if wasKilled { model.applyPerhaps(workload.next()) }
        var options = PackedOptions()
        options.segmentBytes = segmentBytes
        options.runsInBackground = false
        let store = try PackedStore(directories: directories, options: options)
        var lines = model.differences(store)
        // What the indexes say lives is what the segments count, and the objects' sums.
        let objects = try store.objects(after: nil, limit: Int.max).compactMap { try store.object($0) }
        let live = (0..<store.core.table.numberLimit).reduce(0) { $0 + store.core.table.slot($1).liveBytes }
        let sum = objects.reduce(0) { $0 + $1.attributes.storedBytes }
        if live != sum { lines.append("segments count \(live) live bytes, objects \(sum)") }
        return lines
    }

    /// Passed in any workload over two tiers on disks.
    static let common = KillPoint.allCases.filter {
        ![.reserveTaken, .reserveRestored, .budgetStored].contains($0) && !belowMemory.contains($0)
    }
    /// Passed where the first tier is memory.
    static let belowMemory: [KillPoint] = [.idsMarkedBelow, .indexCopied, .indexCopyRenamed]

    @Test(arguments: common)
    func aKillAtAnyPointLosesNothingThatWasAnswered(_ point: KillPoint) throws {
        let seed = testSeed("kill at \(point.name)")
        var hits = 0
        // Late passings too: what was there before must outlive them. A point that is passed less often ends the search.
        for passing in [1, 3, 30] {
            let first = try ScratchDirectory()
            let second = try ScratchDirectory()
            let directories = [first.path, second.path]
            let (ending, answers) = try Self.run(seed: seed, directories, environment: ["SHRINKD_KILL_POINT=\(point.name):\(passing)"])
            try #require(ending == .signalled(9) || ending == .exited(0), "\(ending)")
            let wasKilled = ending == .signalled(9)
            if wasKilled { hits += 1 }
            let lines = try Self.check(seed, directories, answers, wasKilled: wasKilled)
            #expect(lines.isEmpty, "\(point.name):\(passing) of seed \(seed) after \(answers.count): \(lines.prefix(5))")
            if !wasKilled { break }
        }
        #expect(hits > 0, "\(point.name) was never passed with seed \(seed)")
    }

    @Test(arguments: belowMemory)
    func aKillAboveADiskLosesNothingThatWasAnswered(_ point: KillPoint) throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "no memory tier of a test's own: kills above a disk are not tested") }
        let seed = testSeed("kill at \(point.name)")
        var hits = 0
        for passing in [1, 2, 10] {
            let memory = try ScratchMemoryFileSystem(sizeBytes: 256 << 20)
            let second = try ScratchDirectory()
            let directories = [memory.path, second.path]
            let (ending, answers) = try Self.run(seed: seed, directories, environment: ["SHRINKD_KILL_POINT=\(point.name):\(passing)"])
            try #require(ending == .signalled(9) || ending == .exited(0), "\(ending)")
            let wasKilled = ending == .signalled(9)
            if wasKilled { hits += 1 }
            let lines = try Self.check(seed, directories, answers, wasKilled: wasKilled)
            #expect(lines.isEmpty, "\(point.name):\(passing) of seed \(seed) after \(answers.count): \(lines.prefix(5))")
            if !wasKilled { break }
        }
        #expect(hits > 0, "\(point.name) was never passed with seed \(seed)")
    }

    @Test func aKillWhileTheBudgetIsWrittenDownSpendsNoMore() throws {
        var seed = testSeed("kill in the budget")
        var (first, second) = (try ScratchDirectory(), try ScratchDirectory())
        var directories = [first.path, second.path]
        func run() throws -> (ending: ChildProcess.Ending, answers: [UInt8]) {
            try Self.run(seed: seed, directories, environment: ["SHRINKD_KILL_POINT=budgetStored:2", "PACKED_CRASH_BUDGET=\(8 << 20)"])
        }
        var (ending, answers) = try run()
        // About one workload in several writes too little to note the budget twice; then the next is taken.
        for _ in 0..<8 where ending == .exited(0) {
            seed &+= 1
            (first, second) = (try ScratchDirectory(), try ScratchDirectory())
            directories = [first.path, second.path]
            (ending, answers) = try run()
        }
        #expect(ending == .signalled(9))
        let lines = try Self.check(seed, directories, answers, wasKilled: true)
        #expect(lines.isEmpty, "seed \(seed): \(lines.prefix(5))")
        let noted = String(decoding: try Files.contents(of: second.file("budget")), as: UTF8.self).split(separator: " ").last
        #expect(noted == "\(2 << 20)\n")
    }

    @Test(arguments: [KillPoint.reserveTaken, .reserveRestored])
    func aKillInAFullStoreLosesNothing(_ point: KillPoint) throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "no tmpfs of a test's own: kills in a full store are not tested") }
        let seed = testSeed("kill at \(point.name)")
        for passing in [1, 2] {
            let memory = try ScratchMemoryFileSystem(sizeBytes: 3 << 20)
            let (ending, answers) = try Self.run(
                seed: seed, objectBytes: 4 << 20, operations: 600, [memory.path],
                environment: ["SHRINKD_KILL_POINT=\(point.name):\(passing)"])
            #expect(ending == .signalled(9), "\(point.name):\(passing) was not passed with seed \(seed)")
            let lines = try Self.check(seed, objectBytes: 4 << 20, [memory.path], answers, wasKilled: true)
            #expect(lines.isEmpty, "\(point.name):\(passing) of seed \(seed) after \(answers.count): \(lines.prefix(5))")
        }
    }

    @Test func randomKillsLoseNothingThatWasAnswered() throws {
        let rounds = ThisProcess.environment("SHRINKD_SOAK") != nil ? 200 : 30
        let seed = testSeed("random kills")
        var generator = SeededGenerator(seed: seed)
        for round in 0..<rounds {
            let first = try ScratchDirectory()
            let second = try ScratchDirectory()
            let directories = [first.path, second.path]
            let workload = generator.next()
            let (ending, answers) = try Self.run(seed: workload, directories, killAfterMilliseconds: CInt(generator.next() % 150) + 20)
            try #require(ending == .signalled(9) || ending == .exited(0), "\(ending)")
            let lines = try Self.check(workload, directories, answers, wasKilled: ending == .signalled(9))
            #expect(lines.isEmpty, "round \(round) of seed \(seed): \(lines.prefix(5))")
        }
    }
}
