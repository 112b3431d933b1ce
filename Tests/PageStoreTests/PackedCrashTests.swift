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

    /// Has a workload killed at each of these passings of the point. Late ones too, for what was there before must outlive them; one
    /// that a workload doesn't come to ends the search.
    ///
    /// The first passing must be met: if a seed's workload doesn't come by, the next is taken. Of a hundred one removes no object, say.
    static func killAtPassings(_ passings: [Int], of point: KillPoint, isKilled: (Int, UInt64) throws -> Bool) throws {
        let seed = testSeed("kill at \(point.name)")
        guard let met = try (0..<8).map({ seed &+ $0 }).first(where: { try isKilled(passings[0], $0) }) else {
            throw PassedByNoSeed(point: point.name, passing: passings[0], seed: seed)
        }
        for passing in passings.dropFirst() { guard try isKilled(passing, met) else { break } }
    }

    struct PassedByNoSeed: Error {
        let point: String
        let passing: Int
        let seed: UInt64
    }

    /// Runs a workload, to be killed when it passes the point for that time, and looks at what is left; whether it was killed.
    static func isKilled(
        at point: KillPoint, passing: Int, _ seed: UInt64, objectBytes: Int = 256 << 10, operations: Int = operations,
        segmentBytes: Int = 1 << 20, _ directories: [String], environment: [String] = []
    ) throws -> Bool {
        let (ending, answers) = try run(
            seed: seed, objectBytes: objectBytes, operations: operations, directories,
            environment: ["SHRINKD_KILL_POINT=\(point.name):\(passing)", "PACKED_CRASH_SEGMENT=\(segmentBytes)"] + environment)
        try #require(ending == .signalled(9) || ending == .exited(0), "\(ending)")
        let wasKilled = ending == .signalled(9)
        let lines = try check(
            seed, objectBytes: objectBytes, operations: operations, segmentBytes: segmentBytes, directories, answers, wasKilled: wasKilled)
        #expect(lines.isEmpty, "\(point.name):\(passing) of seed \(seed) after \(answers.count): \(lines.prefix(5))")
        return wasKilled
    }

    @Test(arguments: common)
    func aKillAtAnyPointLosesNothingThatWasAnswered(_ point: KillPoint) throws {
        try Self.killAtPassings([1, 3, 30], of: point) { passing, seed in
            let (first, second) = (try ScratchDirectory(), try ScratchDirectory())
            return try Self.isKilled(at: point, passing: passing, seed, [first.path, second.path])
        }
    }

    @Test(arguments: belowMemory)
    func aKillAboveADiskLosesNothingThatWasAnswered(_ point: KillPoint) throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "no memory tier of a test's own: kills above a disk are not tested") }
        try Self.killAtPassings([1, 2, 10], of: point) { passing, seed in
            let (memory, second) = (try ScratchMemoryFileSystem(sizeBytes: 256 << 20), try ScratchDirectory())
            return try Self.isKilled(at: point, passing: passing, seed, [memory.path, second.path])
        }
    }

    @Test func aKillWhileTheBudgetIsWrittenDownSpendsNoMore() throws {
        // About one workload in several writes too little to note the budget twice.
        try Self.killAtPassings([2], of: .budgetStored) { passing, seed in
            let (first, second) = (try ScratchDirectory(), try ScratchDirectory())
            let wasKilled = try Self.isKilled(
                at: .budgetStored, passing: passing, seed, [first.path, second.path], environment: ["PACKED_CRASH_BUDGET=\(8 << 20)"])
            guard wasKilled else { return false }
            let noted = String(decoding: try Files.contents(of: second.file("budget")), as: UTF8.self).split(separator: " ").last
            #expect(noted == "\(2 << 20)\n")
            return true
        }
    }

    @Test(arguments: [KillPoint.reserveTaken, .reserveRestored], [1, 2])
    func aKillInAFullStoreLosesNothing(_ point: KillPoint, _ passing: Int) throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "no tmpfs of a test's own: kills in a full store are not tested") }
        try Self.killAtPassings([passing], of: point) { passing, seed in
            let memory = try ScratchMemoryFileSystem(sizeBytes: 3 << 20)
            return try Self.isKilled(at: point, passing: passing, seed, objectBytes: 4 << 20, operations: 600, [memory.path])
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
