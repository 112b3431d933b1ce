import Glibc
import ShrinkClient
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import TestSupport
import Testing

/// A stop is no restart: clients' memory is made whole as far as memory allows, and what is not is named and kept.
@Suite(.serialized) struct StopTests {
    private static let quiet = ["SHRINKD_PRESSURE=off"]

    /// With pools of twice the limit: at a stop the limit no longer counts, and nothing goes out again to make room.
    @Test func poolsOfTwiceTheLimitComeHome() throws {
        let seed = testSeed("twice the limit")
        let daemon = try DaemonProcess(arguments: ["--max-resident", "16M"], environment: Self.quiet)
        let control = Control(daemon: daemon)
        var pools: [(client: PoolClient, objects: [WireObject])] = []
        for name in ["a", "b"] {
            let client = try PoolClient(daemon, pool: name, sizeBytes: 32 << 20, seed: seed)
            var objects: [WireObject] = []
            for _ in 0..<4 {
                let object = try client.makeObject(pages: 1024, zeroEvery: 0)
                try client.unpin(object)
                objects.append(object)
            }
            pools.append((client, objects))
        }
        let before = try control("status")
        #expect(try #require(before.number("pages.backed_up")) >= 4096, "the limit is met")
        #expect(try daemon.stop() == .exited(0))
        for pool in pools {
            for object in pool.objects { #expect(pool.client.mappedMismatches(object, zeroEvery: 0) == [], "seed \(seed)") }
        }
    }

    @Test func whatHasNoRoomIsNamedAndStaysInTheStore() throws {
        let seed = testSeed("no room")
        let store = try ScratchDirectory()
        let total = Int(try MemoryInfo().total)
        let daemon = try DaemonProcess(store: store.path, arguments: ["--memory-floor", "\(total)"], environment: Self.quiet)
        let pool = try PoolClient(daemon, pool: "p", sizeBytes: 16 << 20, seed: seed)
        let object = try pool.makeObject(pages: 512, zeroEvery: 0)
        try pool.unpin(object)
        #expect(try Control(daemon: daemon)("shrink", "--all").status == 0)
        #expect(try daemon.stop() == .exited(0))
        #expect(daemon.said.contains("did not come home") && daemon.said.contains("object=\(object.objectId)"), "\(daemon.said)")
        let next = try DaemonProcess(store: store.path, environment: Self.quiet)
        #expect(try Control(daemon: next)("status").number("backup.orphans") == 1)
        let pages = next.mountPoint + "/objects/\(object.objectId)/pages/"
        for page in [0, 511] {
            #expect(try Files.contents(of: pages + "\(page)") == pool.pattern.page(object.objectId << 20 | page, zeroEvery: 0))
        }
        #expect(try next.stop() == .exited(0))
    }

    /// Where the memory is used on touch or through gates, what stays out is an error from then on, not zeros and not a wait.
    @Test func whatHasNoRoomIsPoisonedWhereItIsMapped() throws {
        let total = Int(try MemoryInfo().total)
        let daemon = try DaemonProcess(arguments: ["--memory-floor", "\(total)"], environment: Self.quiet)
        let clients = try StoppedClient(daemon)
        #expect(try Control(daemon: daemon)("shrink", "--object", "\(clients.out.objectID)").status == 0)
        #expect(try daemon.stop() == .exited(0))
        #expect(daemon.said.contains("SIGBUS in the mappings") && daemon.said.contains("object=\(clients.out.objectID)"), "\(daemon.said)")
        try clients.check()
    }

    /// A backup that hangs does not hold a stop up for ever: after `stop-patience` the rest is given up, named and poisoned.
    @Test func aStopGoesOnWithoutABackupThatHangs() throws {
        let daemon = try DaemonProcess(arguments: ["--stop-patience", "1"], environment: Self.quiet)
        let clients = try StoppedClient(daemon)
        #expect(try Control(daemon: daemon)("shrink", "--object", "\(clients.out.objectID)").status == 0)
        let server = try #require(daemon.process(of: "backupfs"))
        Glibc.kill(server, SIGSTOP)
        defer { Glibc.kill(server, SIGCONT) }
        try waitUntilStopped([server], daemon)
        daemon.terminate()
        try daemon.waitFor("the stop to go on", seconds: 60) { daemon.said.contains("SIGBUS in the mappings") }
        #expect(daemon.said.contains("No page has come home") && daemon.said.contains("object=\(clients.out.objectID)"), "\(daemon.said)")
        try clients.check()
        Glibc.kill(server, SIGCONT)
        #expect(try daemon.stop(isAsked: true) == .exited(0), "\(daemon.said)")
    }

    @Test func aStopWhileTheEngineIsAwayBringsPagesHomeToo() throws {
        let seed = testSeed("stop in the pause")
        let daemon = try DaemonProcess()
        let pool = try PoolClient(daemon, pool: "p", sizeBytes: 16 << 20, seed: seed)
        let object = try pool.makeObject(pages: 1000, zeroEvery: 0)
        try pool.unpin(object)
        #expect(try Control(daemon: daemon)("shrink", "--all").status == 0)
        // Each failure makes the pause longer; the last one is 1.6 s.
        for _ in 0..<4 { try daemon.killPart("engine") }
        let last = try #require(daemon.process(of: "engine"))
        Glibc.kill(last, SIGKILL)
        try daemon.waitFor("the keeper to notice") { daemon.process(of: "engine") == nil }
        #expect(try daemon.stop() == .exited(0), "\(daemon.said)")
        #expect(daemon.said.contains("started once more"), "\(daemon.said)")
        #expect(pool.mappedMismatches(object, zeroEvery: 0) == [], "seed \(seed)")
    }

    /// An answer also while the file server hangs.
    @Test func statusAnswersWhileTheBackupDoesNot() throws {
        let daemon = try DaemonProcess()
        let control = Control(daemon: daemon)
        #expect(try control("status").output.contains("\"silent_ms\" : null"))
        let server = try #require(daemon.process(of: "backupfs"))
        Glibc.kill(server, SIGSTOP)
        defer { Glibc.kill(server, SIGCONT) }
        try waitUntilStopped([server], daemon)
        for _ in 0..<3 {
            let status = try control("status")
            #expect(status.status == 0, "\(status.errors)")
            #expect(status.number("backup.silent_ms") ?? 0 >= 1000, "\(status.output)")
        }
        let text = try runProgram(Machine.program("shrinkctl"), ["status", "--socket", daemon.socket])
        #expect(text.output.contains("not answering for"), "\(text.output)")
        Glibc.kill(server, SIGCONT)
        try daemon.waitFor("the backup to answer") { try control("status").output.contains("\"silent_ms\" : null") }
    }

    @Test func abortMountFreesWhoeverWaitsAndAsksNobody() throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "aborting a mount without a daemon is not tested") }
        let daemon = try DaemonProcess()
        let control = Control(daemon: daemon)
        let pool = try PoolClient(daemon, pool: "p", sizeBytes: 4 << 20, seed: 3)
        let object = try pool.makeObject(pages: 64, zeroEvery: 0)
        try pool.unpin(object)
        #expect(try control("shrink", "--all").status == 0)
        let parts = try ["backupfs", "engine"].map { try #require(daemon.process(of: $0)) }
        for part in parts { Glibc.kill(part, SIGSTOP) }
        defer { for part in parts { Glibc.kill(part, SIGCONT) } }
        try waitUntilStopped(parts, daemon)
        let null = try Files.open("/dev/null", .writeOnly)
        let reader = try ChildProcess("/bin/cat", [daemon.mountPoint + "/stats"], environment: [], standardError: null.number)
        // Stuck in the mount; nothing but the kernel says so.
        try daemon.waitFor("the reader to wait in the mount") { (try? isWaitingInFuse(reader.processID)) == true }
        let wrong = try runProgram(Machine.program("shrinkctl"), ["abort-mount", "/nowhere"])
        #expect(wrong.ending == .exited(1) && wrong.errors.contains(daemon.mountPoint), "\(wrong.errors)")
        let aborted = try runProgram(Machine.program("shrinkctl"), ["abort-mount", daemon.mountPoint, "--json"])
        #expect(aborted.ending == .exited(0) && aborted.output.contains("connections"), "\(aborted.errors)")
        #expect(try reader.wait(timeoutMilliseconds: 20_000) == .exited(1))
        for part in parts { Glibc.kill(part, SIGCONT) }
        // The keeper starts another server on a mount of its own; the engine finds it.
        try daemon.waitFor("pages to come back", seconds: 60) { try control("recover", "--all").status == 0 }
        #expect(pool.mappedMismatches(object, zeroEvery: 0) == [])
        #expect(try daemon.stop() == .exited(0))
    }
}

/// A program with one object that is out and one that is not, both mapped for touch and with gates.
private struct StoppedClient {
    let client: ShrinkdClient
    let mapping: TouchMapping
    let out: MappedObject
    let home: MappedObject
    private let pattern = PagePattern(seed: 3)

    init(_ daemon: DaemonProcess) throws {
        client = try ShrinkdClient(path: daemon.socket)
        let pool = try client.pool("p", sizeBytes: 4 << 20)
        mapping = try pool.mapForTouch()
        out = try pool.makeObject("out", sizeBytes: 64 << 12)
        home = try pool.makeObject("home", sizeBytes: 64 << 12)
        for object in [out, home] {
            for page in 0..<63 {
                pattern.fill(.init(rebasing: object.unsafeBytes[page << 12..<(page + 1) << 12]), index: page, zeroEvery: 0)
            }
            try object.endAccess()
        }
    }

    /// After the stop.
    func check() throws {
        let (mapping, out, home, pattern) = (mapping, out.info, home.info, pattern)
        let target = SharedDescriptor(try MemoryFile.make("target", size: basePageSize))
        let found = Monitor<[String]?>(nil)
        // On a thread of its own: a page that is waited for must fail the test, not stop it.
        try DedicatedThread("toucher") {
            var wrong: [String] = []
            if let memory = mapping.bytes(of: out), let kept = mapping.bytes(of: home) {
                // EFAULT is what a system call has where a touch has SIGBUS; a touch of its own would end the test.
                for page in [0, 1, 62] {
                    let written = pwrite(target.number, memory.baseAddress! + (page << 12), basePageSize, 0)
                    if written != -1 || errno != EFAULT { wrong.append("page \(page) of what is out: \(written)") }
                }
                if !isZero(memory.baseAddress! + (63 << 12), basePageSize) { wrong.append("the page that was never written") }
                for page in 0..<63 where !kept[page << 12..<(page + 1) << 12].elementsEqual(pattern.page(page, zeroEvery: 0)) {
                    wrong.append("page \(page) of what was never out")
                }
            }
            found.withLock { $0 = wrong }
            found.notifyAll()
        }.detach()
        #expect(found.wait(deadline: .now().advanced(milliseconds: 60_000)) { $0 } == [], "nobody waits for an engine that does not come")
        for object in [self.out, self.home] {
            let refused = #expect(throws: ShrinkdError.self) { _ = try object.beginAccess() }
            #expect(refused?.code == .shuttingDown, "\(String(describing: refused))")
        }
    }
}

/// Waits until processes that were sent SIGSTOP stand still: the signal is on its way for a moment, in which a server still answers.
func waitUntilStopped(_ processes: [Int32], _ daemon: DaemonProcess) throws {
    try daemon.waitFor("processes to stand still", seconds: 60) {
        try processes.allSatisfy { process in
            try taskNumbers(process).allSatisfy { task in
                let stat = String(decoding: try Files.contents(of: "/proc/\(process)/task/\(task)/stat"), as: UTF8.self)
                return stat.split(separator: ")").last?.hasPrefix(" T") == true
            }
        }
    }
}
