import Glibc
import ShrinkClient
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import TestSupport
import Testing

/// What an operator sees and sets of memory pressure, with real daemons.
@Suite(.serialized) struct PressureTests {
    /// The most that watermarks may ask for.
    private let always = ["--low-watermark", "50%", "--high-watermark", "50%"]

    private func filled(_ daemon: DaemonProcess, objects: Int = 4) throws -> (PoolClient, [WireObject]) {
        let client = try PoolClient(daemon, pool: "pool", sizeBytes: 32 << 20, seed: testSeed("pressure"))
        return (client, try (0..<objects).map { _ in try client.makeObject(pages: 256) })
    }

    @Test func aDryRunTellsWhatItWouldDo() throws {
        guard Machine.isRoot, let group = try? MemoryGroup.make("-dry") else {
            return Machine.lacks("a writable memory cgroup (version 1)", so: "a dry run under pressure is not tested")
        }
        defer { group.remove() }
        let daemon = try DaemonProcess(arguments: ["--dry-run"] + always, environment: [], group: group)
        let (client, objects) = try filled(daemon)
        for object in objects { try client.unpin(object) }
        // Little is left now, but nobody takes it: short by the watermarks, far from being killed.
        try group.limit(group.usageBytes * 4 / 3)
        let control = Control(daemon: daemon)
        try daemon.waitFor("a decision") { try control("status").output.contains("would-reclaim") }
        let status = try control("status")
        #expect(status.number("pages.backed_up") == 0 && status.number("pressure.steps") == 0)
        #expect(daemon.said.contains("reason=below-low"), "\(daemon.said)")
        // Read again with another mode: it acts.
        let watch = try runProgram(
            Machine.program("shrinkctl"), ["watch", "--count", "1", "--socket", daemon.socket, "--json"], seconds: 30)
        #expect(watch.ending == .exited(0) && watch.output.contains("\"reason\":"), "\(watch.output)\(watch.errors)")
    }

    @Test func theConfigurationIsReadAgainOnHangUp() throws {
        guard Machine.isRoot, let group = try? MemoryGroup.make("-reload") else {
            return Machine.lacks("a writable memory cgroup (version 1)", so: "reloading under pressure is not tested")
        }
        defer { group.remove() }
        let scratch = try ScratchDirectory()
        let file = scratch.file("shrinkd.conf")
        func write(_ text: String) throws { try Files.replaceContents(of: file, with: Array(text.utf8)) }
        try write("pressure = off\nlow-watermark = 50%\nhigh-watermark = 50%\n")
        let daemon = try DaemonProcess(arguments: ["--config", file], environment: [], group: group)
        let (client, objects) = try filled(daemon)
        for object in objects { try client.unpin(object) }
        // Little is left now, but nobody takes it: short by the watermarks, far from being killed.
        try group.limit(group.usageBytes * 4 / 3)
        let control = Control(daemon: daemon)
        // What is wrong changes nothing.
        try write("pressure = on\nno-such-key = 1\n")
        daemon.hangUp()
        try daemon.waitFor("the mistake to be told") { daemon.said.contains("shrinkd.conf:2: there is no key 'no-such-key'") }
        #expect(try control("status").number("pages.backed_up") == 0)
        // What is right counts at once, what can't is named.
        try write("pressure = on\nlow-watermark = 50%\nhigh-watermark = 50%\nsegment = 8M\n")
        daemon.hangUp()
        try daemon.waitFor("pages to go out") { try control("status").number("pages.backed_up") ?? 0 > 0 }
        #expect(daemon.said.contains("counts from now on") && daemon.said.contains("key=pressure"), "\(daemon.said)")
        #expect(daemon.said.contains("counts when backupfs is started again") && daemon.said.contains("key=segment"), "\(daemon.said)")
        for object in objects { #expect(try client.mismatches(object).isEmpty) }
    }

    @Test func servicesAtTheSocketAreTold() throws {
        let daemon = try DaemonProcess()
        let socket = try UnixSocket.connect(daemon.runtimeDirectory + "/pressure")
        let control = Control(daemon: daemon)
        try daemon.waitFor("the listener to be known") {
            // Looked at between two events; another event makes it look.
            _ = try control("tell")
            return try control("status").number("pressure.listeners") == 1
        }
        #expect(try control("tell").number("listeners") == 1)
        #expect(try waitReadable(socket.number, timeoutMilliseconds: 30_000))
    }

    @Test func aStoreStaysWhatItIs() throws {
        let scratch = try ScratchDirectory()
        do {
            let raw = try DaemonProcess(store: scratch.file("store"), arguments: ["--layout", "raw"])
            try raw.stop()
        }
        let daemon = try DaemonProcess(store: scratch.file("store"))
        #expect(daemon.said.contains("layout=raw"), "\(daemon.said)")
        try daemon.stop()
        let fresh = try DaemonProcess()
        #expect(fresh.said.contains("layout=packed"), "\(fresh.said)")
        try fresh.stop()
    }
}
