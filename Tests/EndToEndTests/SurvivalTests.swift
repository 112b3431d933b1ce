import Glibc
import ShrinkClient
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import TestSupport
import Testing

/// The engine dies, or is restarted, and nobody loses anything: the keeper holds pools, ledgers and the state for the next one.
@Suite(.serialized) struct SurvivalTests {
    @Test(arguments: TroubleTests.layouts) func aKilledEngineLosesNoPoolNoPageAndNoPin(_ layout: String) throws {
        let seed = testSeed("killed engine, \(layout)")
        let daemon = try DaemonProcess(arguments: ["--layout", layout])
        let control = Control(daemon: daemon)
        let pool = try PoolClient(daemon, pool: "p", sizeBytes: 64 << 20, seed: seed)
        let out = try pool.makeObject(pages: 1000)
        try pool.unpin(out)
        #expect(try control("shrink", "--all").status == 0)
        let resident = try pool.makeObject(pages: 300)
        try pool.unpin(resident)
        let pinned = try pool.makeObject(pages: 200)
        try pool.pin(pinned)
        let before = try control("status")

        for round in 1...3 {
            try daemon.killPart("engine")
            // The first call waits for the next engine and goes on.
            #expect(try pool.client.call(Methods.getObject, ObjectAddress(objectId: pinned.objectId)).bufferObject.pinCount == 2)
            let status = try control("status")
            for figure in ["pools", "objects", "pages.backed_up", "pages.empty", "backup.orphans"] {
                #expect(status.number(figure) == before.number(figure), "\(figure)")
            }
            // What was shrunk below comes back without its zeros, which were freed for good.
            func inMemory(_ outcome: Control.Outcome) -> Int {
                (outcome.number("pages.resident") ?? 0) + (outcome.number("pages.zero") ?? 0)
            }
            #expect(inMemory(status) == inMemory(before))
            #expect(status.number("survival.starts") == 1 + round)
            #expect(status.number("survival.lost_pages") == 0)
            #expect(status.number("survival.descriptors") == 4)
            // The pin holds although nobody asked for it again.
            #expect(try control("shrink", "--all").status == 0)
            #expect(pool.mappedMismatches(pinned) == [], "seed \(seed)")
            #expect(try control("recover", "--object", "\(resident.objectId)").status == 0)
        }
        #expect(pool.client.reconnections == 3)
        for object in [out, resident] {
            try pool.pin(object)
            #expect(pool.mappedMismatches(object) == [], "seed \(seed)")
        }
        // Pins are exact: two unpins, not three.
        try pool.unpin(pinned)
        try pool.unpin(pinned)
        #expect(throws: ShrinkdError.self) { try pool.unpin(pinned) }
        // New ids are new.
        #expect(try pool.makeObject(pages: 1).objectId > pinned.objectId)
        #expect(try PoolClient(daemon, pool: "q", sizeBytes: 1 << 20, seed: seed).memory.pool.poolId > pool.memory.pool.poolId)
        #expect(try daemon.stop() == .exited(0))
    }

    /// A client that calls nothing comes back by itself, and one whose process is gone is not waited for.
    @Test func pinsWaitForProcessesThatLiveAndForNoOthers() throws {
        let daemon = try DaemonProcess()
        let control = Control(daemon: daemon)
        let idle = try PoolClient(daemon, pool: "idle", sizeBytes: 8 << 20, seed: 1)
        let held = try idle.makeObject(pages: 100)
        // Another process with a connection, a session and a pin, without a library: it does not come back.
        let script = """
            import socket, sys, json, signal
            s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
            def call(method, parameters):
                s.sendall(json.dumps({"method": "io.shrinkd." + method, "parameters": parameters}).encode() + b"\\0")
                answer = b""
                while not answer.endswith(b"\\0"): answer += s.recv(65536)
                return json.loads(answer[:-1])["parameters"]
            call("CreatePool", {"poolName": "other", "sizeBytes": 4096 * 16})
            print(call("CreateObject", {"poolName": "other", "objectName": "o", "sizeBytes": 4096})["bufferObject"]["objectId"], flush=True)
            signal.pause()
            """
        guard (try? Files.status(of: "/usr/bin/python3")) != nil else {
            return Machine.lacks("python3", so: "a client that does not come back is not tested")
        }
        let fromOther = try ThisProcess.pipe()
        let other = try ChildProcess(
            "/usr/bin/python3", ["-c", script, daemon.socket], environment: ["PATH=/usr/bin:/bin"],
            standardOutput: fromOther.input.number)
        var buffer = [UInt8](repeating: 0, count: 64)
        let count = try buffer.withMutableBytes { (bytes) throws(Errno) in try Files.readNext(fromOther.output.number, into: bytes) }
        let id = try #require(Int(String(decoding: buffer[0..<count], as: UTF8.self).filter(\.isNumber)))
        func pins(_ object: Int) throws -> Int? { try control("object", "show", "\(object)").number("pin_count") }
        #expect(try pins(id) == 1)

        try daemon.killPart("engine")
        try daemon.waitFor("the idle client to come back") { idle.client.reconnections == 1 }
        #expect(try pins(held.objectId) == 1)
        #expect(try pins(id) == 1, "its process lives, and the grace is not over")
        #expect(try control("status").number("survival.waiting_sessions") == 1)
        other.signal(Signal.kill)
        #expect(try other.wait() == .signalled(9))
        try daemon.waitFor("the pin of a process that ended to go") { try pins(id) == 0 }
        #expect(try pins(held.objectId) == 1)
        #expect(idle.mappedMismatches(held) == [])
    }

    /// `systemctl restart`, as far as the engine sees it: told that a restart follows, it leaves everything and ends.
    @Test func aRestartIsNoStop() throws {
        let daemon = try DaemonProcess()
        let control = Control(daemon: daemon)
        let pool = try PoolClient(daemon, pool: "p", sizeBytes: 16 << 20, seed: testSeed("restart"))
        let object = try pool.makeObject(pages: 1000)
        try pool.unpin(object)
        #expect(try control("shrink", "--all").status == 0)
        let old = try #require(daemon.process(of: "engine"))
        Glibc.kill(old, SIGUSR1)
        try daemon.waitFor("another engine") { daemon.process(of: "engine").map { $0 != old } ?? false }
        #expect(try control("object", "show", "\(object.objectId)").number("pages.backed_up") ?? 0 > 700, "nothing was brought back")
        try pool.pin(object)
        #expect(pool.mappedMismatches(object) == [])
        #expect(pool.client.reconnections == 1)
        #expect(daemon.said.contains("Ended for a restart"))
    }

    @Test func bothAtOnce() throws {
        let daemon = try DaemonProcess()
        let control = Control(daemon: daemon)
        let pool = try PoolClient(daemon, pool: "p", sizeBytes: 16 << 20, seed: testSeed("both"))
        let object = try pool.makeObject(pages: 1000)
        try pool.unpin(object)
        #expect(try control("shrink", "--all").status == 0)
        let parts = try ["engine", "backupfs"].map { try #require(daemon.process(of: $0)) }
        for part in parts { Glibc.kill(part, SIGKILL) }
        try pool.pin(object)
        #expect(pool.mappedMismatches(object) == [])
        #expect(daemon.process(of: "engine") != parts[0] && daemon.process(of: "backupfs") != parts[1])
        #expect(try daemon.stop() == .exited(0))
    }

    @Test func aClientOfADaemonThatWasStoppedIsToldWhatItLost() throws {
        let daemon = try DaemonProcess()
        let pool = try PoolClient(daemon, pool: "p", sizeBytes: 1 << 20, seed: 1)
        _ = try pool.makeObject(pages: 10)
        try daemon.stop()
        let failure = #expect(throws: ShrinkdError.self) { _ = try pool.makeObject(pages: 1) }
        #expect(failure?.code == .disconnected || failure?.code == .notRunning, "\(String(describing: failure))")
    }
}
