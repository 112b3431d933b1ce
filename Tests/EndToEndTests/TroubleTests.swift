import Glibc
import ShrinkClient
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import TestSupport
import Testing

/// What goes wrong gets a clear error, the daemon goes on, and every page still reads right.
@Suite(.serialized) struct TroubleTests {
    static let layouts = ["packed", "raw"]

    @Test(arguments: Self.layouts) func aFullStoreInMidShrinkLosesNothing(_ layout: String) throws {
        let seed = testSeed("full store, \(layout)")
        // A packed store keeps a segment of 4 MiB in reserve.
        let tmpfs = try ScratchMemoryFileSystem(sizeBytes: (layout == "packed" ? 12 : 8) << 20)
        let daemon = try DaemonProcess(store: tmpfs.path, arguments: ["--layout", layout])
        let pool = try PoolClient(daemon, pool: "p", sizeBytes: 64 << 20, seed: seed)
        let objects = try (0..<4).map { _ in try pool.makeObject(pages: 1024, zeroEvery: 0) }
        for object in objects { try pool.unpin(object) }
        let control = Control(daemon: daemon)
        let shrunk = try control("shrink", "--all")
        #expect(shrunk.status == 1)
        #expect(shrunk.errors.contains("full"), "\(shrunk.errors)")
        let status = try control("status")
        let backedUp = try #require(status.number("pages.backed_up"))
        #expect(backedUp > 0 && backedUp < 2048)
        #expect(status.number("pages.resident") == 4096 - backedUp)
        for object in objects { #expect(try pool.mismatches(object, zeroEvery: 0) == [], "seed \(seed)") }
        #expect(try control("recover", "--all").status == 0)
        for object in objects {
            try pool.pin(object)
            #expect(pool.mappedMismatches(object, zeroEvery: 0) == [], "seed \(seed)")
        }
    }

    @Test func aReadOnlyStoreIsRefusedAtTheStartWithTheReason() throws {
        let tmpfs = try ScratchMemoryFileSystem(sizeBytes: 1 << 20)
        #expect(try runProgram("/bin/mount", ["-o", "remount,ro", tmpfs.path]).ending == .exited(0))
        let failure = #expect(throws: DaemonProcess.Failure.self) { _ = try DaemonProcess(store: tmpfs.path) }
        #expect(failure?.description.lowercased().contains("read-only") == true, "\(failure?.description ?? "")")
    }

    @Test(arguments: Self.layouts) func afterAKilledFileServerEveryPageIsThere(_ layout: String) throws {
        let seed = testSeed("backupfs killed, \(layout)")
        let daemon = try DaemonProcess(arguments: ["--layout", layout])
        let pool = try PoolClient(daemon, pool: "p", sizeBytes: 16 << 20, seed: seed)
        let object = try pool.makeObject(pages: 2000)
        try pool.unpin(object)
        let control = Control(daemon: daemon)
        #expect(try control("shrink", "--all").status == 0)
        try daemon.killPart("backupfs")
        #expect(try pool.mismatches(object) == [], "seed \(seed)")
        try pool.pin(object)
        #expect(pool.mappedMismatches(object) == [], "seed \(seed)")
        try pool.unpin(object)
        #expect(try control("shrink", "--all").status == 0)
        try daemon.killPart("backupfs")
        #expect(try control("recover", "--all").status == 0)
        #expect(try pool.mismatches(object) == [], "seed \(seed)")
    }

    /// Killed at any moment of a shrink and of a recover: those go on with the next server, and no page is other than it was.
    @Test func aFileServerKilledInMidShrinkLosesNothing() throws {
        let seed = testSeed("backupfs killed under load")
        let daemon = try DaemonProcess()
        let pool = try PoolClient(daemon, pool: "p", sizeBytes: 64 << 20, seed: seed)
        let objects = try (0..<6).map { _ in try pool.makeObject(pages: 2048) }
        for object in objects { try pool.unpin(object) }
        var generator = SeededGenerator(seed: seed)
        for round in 0..<6 {
            let order = round % 2 == 0 ? "shrink" : "recover"
            let child = try ChildProcess(
                Machine.program("shrinkctl"), [order, "--all", "--json", "--socket", daemon.socket], environment: ["PATH=/usr/bin:/bin"])
            usleep(UInt32.random(in: 1000...60_000, using: &generator))  // Any moment will do: that is the point.
            try daemon.killPart("backupfs")
            #expect(try child.wait(timeoutMilliseconds: 60_000) == .exited(0), "round \(round), seed \(seed)")
            for object in objects { #expect(try pool.mismatches(object) == [], "round \(round), seed \(seed)") }
        }
        for object in objects {
            try pool.pin(object)
            #expect(pool.mappedMismatches(object) == [], "seed \(seed)")
        }
    }

    @Test func afterAnAbortedConnectionTheEngineFindsTheNewMount() throws {
        let seed = testSeed("connection aborted")
        let daemon = try DaemonProcess()
        let pool = try PoolClient(daemon, pool: "p", sizeBytes: 16 << 20, seed: seed)
        let object = try pool.makeObject(pages: 1000)
        try pool.unpin(object)
        let control = Control(daemon: daemon)
        #expect(try control("shrink", "--all").status == 0)
        let old = try #require(daemon.process(of: "backupfs"))
        try Mounts.abortAndDetach(daemon.mountPoint)
        try daemon.waitFor("another backupfs to be started") { daemon.process(of: "backupfs").map { $0 != old } ?? false }
        try daemon.waitFor("its mount") { try Mounts.mount(at: daemon.mountPoint) != nil }
        // The first call may still meet the old mount; none may take it for damage.
        try daemon.waitFor("pages to come back") { try control("recover", "--all").status == 0 }
        #expect(try control("status").number("damaged_pages") == 0)
        #expect(try pool.mismatches(object) == [], "seed \(seed)")
        #expect(try control("shrink", "--all").status == 0)
        #expect(try pool.mismatches(object) == [], "seed \(seed)")
    }

    @Test func clientsThatVanishHoldNothingUp() throws {
        let daemon = try DaemonProcess()
        let control = Control(daemon: daemon)
        let pool = try PoolClient(daemon, pool: "p", sizeBytes: 128 << 20, seed: 5)
        let objects = try (0..<8).map { _ in try pool.makeObject(pages: 2048, zeroEvery: 3) }
        for object in objects.dropLast() { try pool.unpin(object) }
        // Half a message, nonsense, and a shrink whose caller leaves at once.
        for text in [
            "{\"method\":\"io.shr", "nonsense\0", "{\"method\":\"io.shrinkd.Shrink\",\"parameters\":{\"everything\":true},\"more\":true}\0",
        ] {
            let socket = try UnixSocket.connect(daemon.socket)
            _ = try Array(text.utf8).withBytes { (bytes) throws(Errno) in try UnixSocket.send(socket.number, bytes) }
        }
        #expect(try control("status").status == 0)
        try daemon.waitFor("a word about the nonsense") { daemon.said.contains("no Varlink call") }
        // A client that dies with a pin: the pin goes with it.
        pool.client.close()
        try daemon.waitFor("the pin of a client that left to go") {
            try control("object", "show", "\(objects[7].objectId)").number("pin_count") == 0
        }
        let reader = try ShrinkdClient(path: daemon.socket)
        for object in objects {
            for page in stride(from: 0, to: 2048, by: 97) {
                #expect(
                    try reader.read(object.objectId, at: page * basePageSize, length: basePageSize)
                        == pool.pattern.page(object.objectId << 20 | page, zeroEvery: 3))
            }
        }
    }

    @Test func otherUsersSeeNothing() throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "pools of other users are not tested") }
        let daemon = try DaemonProcess()
        let pool = try PoolClient(daemon, pool: "private", sizeBytes: 4 << 20, seed: 6)
        let object = try pool.makeObject(pages: 10)
        // The scratch directory is root's alone: another user reaches the socket by an open descriptor's path.
        try Files.setMode(of: String(daemon.runtimeDirectory.dropLast(4)), 0o755)
        func asNobody(_ arguments: String...) throws -> ProgramResult {
            try runProgram(
                "/usr/bin/setpriv",
                ["--reuid=65534", "--regid=65534", "--clear-groups", Machine.program("shrinkctl")] + arguments
                    + ["--json", "--socket", daemon.socket])
        }
        let list = try asNobody("pool", "list")
        guard list.ending != .exited(127), list.ending != .exited(126) else {
            return Machine.lacks("a checkout that other users may read", so: "pools of other users are not tested end to end")
        }
        #expect(list.ending == .exited(0), "\(list.errors)")
        #expect(!list.output.contains("private"))
        #expect(try asNobody("object", "show", "\(object.objectId)").ending == .exited(1))
        #expect(try asNobody("object", "destroy", "\(object.objectId)").ending == .exited(1))
        #expect(try asNobody("shrink", "--pool", "private").ending == .exited(1))
        #expect(try pool.mismatches(object) == [])
    }

    @Test func aStoreThatCantBeMadeIsNamedAtTheStart() throws {
        #expect(throws: DaemonProcess.Failure.self) { _ = try DaemonProcess(store: "/proc/nowhere") }
        let failure = #expect(throws: DaemonProcess.Failure.self) { _ = try DaemonProcess(store: "/dev/null/store") }
        #expect(failure?.description.contains("/dev/null/store") == true)
    }
}
