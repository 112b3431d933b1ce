import ServiceSupport
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// Real processes, real sockets, real signals. The parts are fake, the promises are not.
@Suite(.serialized) struct KeeperProcessTests {
    @Test func partsStartInOrderAndEndInReverse() throws {
        let run = try TrialRun(backupfs: "ready,serve", engine: "ready,serve")
        try run.told(.ready)
        run.keeper.signal(Signal.terminate)
        #expect(try run.end() == .exited(0))
        let order = try run.rest().map { $0.split(separator: " ").prefix(2).joined(separator: " ") }
        #expect(
            order == ["backupfs started", "backupfs ready", "engine started", "engine ready", "engine term", "backupfs term"])
        var left: [String] = []
        let directory = try Files.open(run.runtimeDirectory, [.readOnly, .directory])
        try Files.forEachName(in: directory.number) { left.append($0) }
        #expect(left == ["lock"])
    }

    @Test func aPartThatDiesIsStartedAgainAndFindsWhatWasKept() throws {
        let run = try TrialRun(backupfs: "ready,serve", engine: "keep:pool,keep:ledger,ready,serve")
        let first = try run.started("engine")
        try run.told(.ready)
        try run.endProcess(first)
        let again = try run.wait(for: "engine started")
        #expect(again.hasSuffix(" ledger:pool"))
        try run.wait(for: "engine ready")
        run.keeper.signal(Signal.interrupt)
        #expect(try run.end() == .exited(0))
        #expect(try run.rest().filter { $0.hasPrefix("backupfs started") }.count == 1)
    }

    @Test func aFileServerThatDiesWhileTheEngineEndsIsStartedAgain() throws {
        let run = try TrialRun(backupfs: "ready,serve", engine: "ready,twice")
        let server = try run.started("backupfs")
        try run.told(.ready)
        run.keeper.signal(Signal.terminate)
        try run.wait(for: "engine term")
        try run.endProcess(server)
        try run.wait(for: "backupfs ready")
        // The second one reaches the engine, which ends only now.
        run.keeper.signal(Signal.terminate)
        #expect(try run.end() == .exited(0))
        let told = try run.rest()
        #expect(told.filter { $0 == "engine term" }.count == 2)
        #expect(told.last == "backupfs term")
    }

    @Test func aPartThatIsNeverReadyEndsTheKeeper() throws {
        let run = try TrialRun(backupfs: "ready,serve", engine: "deaf")
        #expect(try run.end() == .exited(1))
        #expect(try run.rest().last == "backupfs term")
    }

    @Test func aFirstStartThatFailsIsToldAtOnce() throws {
        let run = try TrialRun(backupfs: "exit:3", engine: "ready,serve")
        #expect(try run.end() == .exited(1))
        #expect(try run.rest().count == 1)
    }

    @Test func aPartThatKeepsDyingIsGivenUp() throws {
        let run = try TrialRun(backupfs: "ready,serve", engine: "once:{scratch}/first,ready,exit:9")
        #expect(try run.end() == .exited(1))
        let told = try run.rest()
        #expect(told.filter { $0.hasPrefix("engine started") }.count == 4)
        #expect(told.last == "backupfs term")
    }

    /// Ctrl-C goes to a terminal's foreground group: the keeper alone must be in it.
    @Test func partsAreOutOfReachOfTheTerminal() throws {
        let run = try TrialRun(backupfs: "ready,serve", engine: "ready,serve")
        let numbers = try [run.started("backupfs"), run.started("engine")]
        for number in numbers {
            let stat = String(decoding: try Files.contents(of: "/proc/\(number)/stat"), as: UTF8.self)
            // After the name in parentheses: state, parent, process group, session (proc_pid_stat(5)).
            let fields = try #require(stat.split(separator: ")").last).split(separator: " ")
            #expect(fields[2] == "\(number)" && fields[3] == "\(number)")
        }
        run.keeper.signal(Signal.interrupt)
        #expect(try run.end() == .exited(0))
    }

    @Test func aSecondStartIsRefusedWhileTheFirstServes() throws {
        let run = try TrialRun(backupfs: "-", engine: "ready,serve")
        try run.told(.ready)
        let log = try MemoryFile.make("log", size: 0)
        let second = try TrialRun(backupfs: "-", engine: "ready,serve", in: run.scratch, standardError: log.number)
        #expect(try second.end() == .exited(1))
        #expect(try contents(log.number).contains("shrinkd (process \(run.keeper.processID)) already serves"))
        run.keeper.signal(Signal.terminate)
        #expect(try run.end() == .exited(0))
    }

    @Test func aKilledKeeperLeavesNothingAndTheNextOneStarts() throws {
        let scratch = try ScratchDirectory()
        let first = try TrialRun(backupfs: "ready,serve", engine: "ready,twice", in: scratch)
        try first.told(.ready)
        first.keeper.signal(Signal.kill)
        #expect(try first.end() == .signalled(9))
        // The engine hears it; the file server stays as long as the engine does.
        try first.wait(for: "engine term")
        let log = try MemoryFile.make("log", size: 0)
        let tooEarly = try TrialRun(backupfs: "ready,serve", engine: "ready,serve", in: scratch, standardError: log.number)
        #expect(try tooEarly.end() == .exited(1))
        #expect(try contents(log.number).contains("of an earlier shrinkd that was killed still ends"))
        #expect(try !first.rest().contains("backupfs term"))
        let engine = try #require(try first.rest().first { $0.hasPrefix("engine started") }).split(separator: " ")[2]
        let terminate = try ChildProcess("/bin/kill", ["-TERM", String(engine)], environment: [])
        _ = try terminate.wait()
        try first.wait(for: "backupfs term")
        // The lock goes with the last of them, a moment after its last word.
        try waitUntilUnlocked(first.runtimeDirectory)
        let next = try TrialRun(backupfs: "ready,serve", engine: "ready,serve", in: scratch)
        try next.told(.ready)
        next.keeper.signal(Signal.terminate)
        #expect(try next.end() == .exited(0))
    }

    private func waitUntilUnlocked(_ directory: String) throws {
        // flock(1) waits in the kernel, bounded.
        let wait = try ChildProcess("/usr/bin/flock", ["-w", "10", directory + "/lock", "/bin/true"], environment: [])
        #expect(try wait.wait() == .exited(0))
    }

    private func contents(_ fd: CInt) throws -> String {
        var bytes = [UInt8](repeating: 0, count: try Files.status(fd).sizeBytes)
        _ = try bytes.withMutableBytes { (buffer) throws(Errno) in try Files.read(fd, into: buffer, at: 0) }
        return String(decoding: bytes, as: UTF8.self)
    }
}
