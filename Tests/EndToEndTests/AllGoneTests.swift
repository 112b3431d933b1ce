import Glibc
import ShrinkClient
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import TestSupport
import Testing

/// File server, engine and keeper killed one after the other, each in the middle of its work: no process is left that nothing can end.
@Suite(.serialized) struct AllGoneTests {
    @Test(arguments: ["killed", "stopped first"]) func nobodyIsLeftInAWaitThatNothingEnds(_ manner: String) throws {
        let daemon = try DaemonProcess(arguments: ["--allow-faults"])
        let control = Control(daemon: daemon)
        let pool = try PoolClient(daemon, pool: "p", sizeBytes: 16 << 20, seed: 4)
        let object = try pool.makeObject(pages: 512, zeroEvery: 0)
        try pool.unpin(object)
        #expect(try control("shrink", "--all").status == 0)
        // Requests that the server has taken and does not answer: the engine's recover, and a reader in the tree.
        #expect(try control("fault", "set", "read", "--delay", "10000").status == 0)
        let null = try Files.open("/dev/null", .readWrite)
        let recover = try ChildProcess(
            Machine.program("shrinkctl"), ["recover", "--all", "--socket", daemon.socket], environment: [], standardOutput: null.number,
            standardError: null.number)
        let reader = try ChildProcess(
            "/bin/cat", [daemon.mountPoint + "/objects/\(object.objectId)/pages/0"], environment: [], standardOutput: null.number,
            standardError: null.number)
        let parts = try ["backupfs", "engine"].map { try #require(daemon.process(of: $0)) }
        try daemon.waitFor("requests in the server's hands") { try isWaitingInFuse(reader.processID) && isWaitingInFuse(parts[1]) }

        // The keeper cannot start anybody again while it is stopped.
        if manner == "stopped first" { daemon.keeper.signal(Signal.stop) }
        Glibc.kill(parts[0], SIGKILL)
        Glibc.kill(parts[1], SIGKILL)
        daemon.keeper.signal(Signal.kill)
        #expect(try daemon.wait(seconds: 20) == .signalled(9))
        // The last holder of the connection is gone: everybody is let go with an error.
        #expect(try reader.wait(timeoutMilliseconds: 20_000) == .exited(1))
        #expect(try recover.wait(timeoutMilliseconds: 60_000) != nil)
        try daemon.waitFor("every part to be gone") { parts.allSatisfy { !ThisProcess.processExists($0) || isZombie($0) } }
        // And the next start finds the place as if nothing had been.
        let next = try runProgram(
            "/usr/bin/timeout",
            ["-s", "TERM", "5", Machine.program("shrinkd"), "--runtime-dir", daemon.runtimeDirectory, "--store", daemon.storeDirectory])
        #expect(next.errors.contains("Ready."), "\(next.errors)")
        #expect(try Mounts.mount(at: daemon.mountPoint) == nil)
    }

    private func isZombie(_ process: Int32) -> Bool {
        guard let text = try? Files.contents(of: "/proc/\(process)/stat", limit: 4096) else { return true }
        return String(decoding: text, as: UTF8.self).split(separator: ")").last?.hasPrefix(" Z") == true
    }
}
