import ServiceSupport
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// A FUSE server that hangs, under a keeper: the test's own process never touches the mount, only children that may hang do.
@Suite(.serialized) struct KeptMountTests {
    private func canMount() -> Bool {
        guard Machine.isRoot, (try? Files.open("/dev/fuse", .readWrite)) != nil else {
            Machine.lacks("root's right to mount FUSE", so: "aborting a hung mount is not tested")
            return false
        }
        return true
    }

    private func isMounted(_ run: TrialRun) throws -> Bool { try Mounts.mount(at: run.mountPoint) != nil }

    @Test func anEngineStuckInAHungMountIsFreedAndTheMountDetached() throws {
        guard canMount() else { return }
        let run = try TrialRun(backupfs: "mount:{mount},ready,deaf", engine: "ready,open:{mount}/x,serve")
        try run.told(.ready)
        try run.wait(for: "engine opens")
        #expect(try isMounted(run))
        run.keeper.signal(Signal.terminate)
        run.keeper.signal(Signal.terminate)
        #expect(try run.end() == .exited(1))
        #expect(try !isMounted(run))
        try expectGone(run)
    }

    @Test func aFileServerDeafToTheEndIsAbortedAndDetached() throws {
        guard canMount() else { return }
        let run = try TrialRun(backupfs: "mount:{mount},keepfuse,ready,deaf", engine: "ready,serve")
        try run.told(.ready)
        // Somebody is inside, in a call that the server took and never answers.
        let silence = try Files.open("/dev/null", .writeOnly)
        let visitor = try ChildProcess("/bin/ls", [run.mountPoint + "/x"], environment: [], standardError: silence.number)
        run.keeper.signal(Signal.terminate)
        #expect(try run.end() == .exited(0))
        #expect(try !isMounted(run))
        #expect(try visitor.wait(timeoutMilliseconds: 10_000) != nil)
    }

    @Test func aKeptDeviceKeepsTheMountOverARestartAndADeadMountIsDetachedBeforeOne() throws {
        guard canMount() else { return }
        let kept = try TrialRun(backupfs: "once:{scratch}/a,mount:{mount},once:{scratch}/b,keepfuse,ready,serve", engine: "ready,serve")
        let server = try kept.started("backupfs")
        try kept.told(.ready)
        let before = try #require(try Mounts.mount(at: kept.mountPoint))
        try kept.endProcess(server)
        #expect(try kept.wait(for: "backupfs started").hasSuffix(" fuse"))
        try kept.wait(for: "backupfs ready")
        #expect(try Mounts.mount(at: kept.mountPoint)?.device.minor == before.device.minor)
        kept.keeper.signal(Signal.terminate)
        #expect(try kept.end() == .exited(0))
        #expect(try !isMounted(kept))

        let dead = try TrialRun(backupfs: "once:{scratch}/a,mount:{mount},ready,serve", engine: "ready,serve")
        let victim = try dead.started("backupfs")
        try dead.told(.ready)
        try dead.endProcess(victim)
        try dead.wait(for: "backupfs started")
        #expect(try !isMounted(dead))
        dead.keeper.signal(Signal.terminate)
        #expect(try dead.end() == .exited(0))
    }

    @Test func aMountThatAKilledKeeperLeftIsTakenOver() throws {
        guard canMount() else { return }
        let scratch = try ScratchDirectory()
        let first = try TrialRun(backupfs: "mount:{mount},ready,serve", engine: "ready,serve", in: scratch)
        let server = try first.started("backupfs")
        try first.told(.ready)
        first.keeper.signal(Signal.kill)
        _ = try first.end()
        try first.endProcess(server)
        let wait = try ChildProcess("/usr/bin/flock", ["-w", "10", first.runtimeDirectory + "/lock", "/bin/true"], environment: [])
        #expect(try wait.wait() == .exited(0))
        #expect(try isMounted(first))
        let next = try TrialRun(backupfs: "mount:{mount},ready,serve", engine: "ready,serve", in: scratch)
        try next.told(.ready)
        #expect(try Mounts.all().filter { $0.path == next.mountPoint }.count == 1)
        next.keeper.signal(Signal.terminate)
        #expect(try next.end() == .exited(0))
        #expect(try !isMounted(next))
    }

    /// The server dies with a request taken, then the engine that waits for it, then the keeper that holds the device: the last of these
    /// deaths frees the engine, because nobody else has the device.
    @Test func killedOneAfterTheOtherNobodyStaysStuck() throws {
        guard canMount() else { return }
        let run = try TrialRun(backupfs: "mount:{mount},keepfuse,ready,deaf", engine: "ready,open:{mount}/x,serve")
        let server = try run.started("backupfs")
        let engine = try run.started("engine")
        try run.wait(for: "engine opens")
        // Stopped, so that it does not start the server again in between.
        run.keeper.signal(Signal.stop)
        try run.endProcess(server)
        try run.endProcess(engine)
        run.keeper.signal(Signal.kill)
        #expect(try run.end() == .signalled(9))
        // Each of them holds the lock until the kernel has really ended it.
        let wait = try ChildProcess("/usr/bin/flock", ["-w", "10", run.runtimeDirectory + "/lock", "/bin/true"], environment: [])
        #expect(try wait.wait() == .exited(0))
    }

    @Test func somebodyElsesMountIsNeverTouched() throws {
        guard canMount() else { return }
        let scratch = try ScratchDirectory()
        let point = scratch.file("run") + "/backup"
        try Files.makeDirectories(point)
        try Mounts.mount("other", on: point, type: "tmpfs", [.noDevices], options: "size=64k")
        defer { try? Mounts.detach(point) }
        let run = try TrialRun(backupfs: "ready,serve", engine: "ready,serve", in: scratch)
        #expect(try run.end() == .exited(1))
        #expect(try Mounts.mount(at: point)?.source == "other")
    }

    private func expectGone(_ run: TrialRun) throws {
        for line in try run.rest() {
            let words = line.split(separator: " ")
            guard words.count >= 3, words[1] == "started", let number = Int32(words[2]) else { continue }
            #expect(!ThisProcess.processExists(number), "\(line)")
        }
    }
}
