import Glibc
import ShrinkClient
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import TestSupport
import Testing

/// The engine dies under programs that pin through gates: a pin holds over its death, and the program goes on as if nothing had been.
@Suite(.serialized) struct GateSurvivalTests {
    @Test func accessesHoldOverTheEnginesDeath() throws {
        let seed = testSeed("gates and a killed engine")
        let pattern = PagePattern(seed: seed)
        let daemon = try DaemonProcess()
        let control = Control(daemon: daemon)
        let client = try ShrinkdClient(path: daemon.socket)
        let pool = try client.pool("p", sizeBytes: 16 << 20)
        func make(_ name: String, index: Int) throws -> MappedObject {
            let object = try pool.makeObject(name, sizeBytes: 64 << 12)
            for page in 0..<64 {
                pattern.fill(.init(rebasing: object.unsafeBytes[page << 12..<(page + 1) << 12]), index: index << 8 | page, zeroEvery: 0)
            }
            return object
        }
        func firstWrong(_ object: MappedObject, index: Int) -> Int? {
            (0..<64).first { page in
                !object.unsafeBytes[page << 12..<(page + 1) << 12].elementsEqual(pattern.page(index << 8 | page, zeroEvery: 0))
            }
        }
        let (held, out, idle) = (try make("held", index: 1), try make("out", index: 2), try make("idle", index: 3))
        try out.endAccess()
        try idle.endAccess()
        #expect(try control("shrink", "--object", "\(out.objectID)").status == 0)
        for round in 1...2 {
            try daemon.killPart("engine")
            #expect(held.accessCount == 1, "the word is the client's memory")
            // Whoever asks first waits for the next engine, which holds the pin.
            #expect(try control("shrink", "--all").status == 0)
            #expect(try control("object", "show", "\(held.objectID)").number("pin_count") == 1, "round \(round)")
            #expect(firstWrong(held, index: 1) == nil, "seed \(seed)")
            #expect(idle.beginAccessIfResident() == nil, "it went out, so its gate is closed")
            #expect(try out.beginAccess() && idle.beginAccess())
            #expect(firstWrong(out, index: 2) == nil && firstWrong(idle, index: 3) == nil, "seed \(seed)")
            try out.endAccess()
            try idle.endAccess()
            #expect(idle.beginAccessIfResident() == true, "and through its gate again")
            try idle.endAccess()
        }
        #expect(client.reconnections == 2)
        #expect(try control("status").number("stray_pages") == 0)
        // Exact: one access was begun, one ends.
        try held.endAccess()
        #expect(throws: ShrinkdError.self) { try held.endAccess() }
        #expect(try control("shrink", "--object", "\(held.objectID)").status == 0)
        // New gates are made after the restart, and end with their client.
        let second = try ShrinkdClient(path: daemon.socket)
        let twin = try second.pool(PoolAddress(name: "p")).object(held.objectID)
        #expect(try twin.beginAccess())
        second.close()
        try daemon.waitFor("the second client's pin to go") {
            try control("object", "show", "\(held.objectID)").number("pin_count") == 0
        }
        #expect(try daemon.stop() == .exited(0))
    }

    /// A program that dies while no engine lives leaves nothing pinned.
    @Test func aProgramThatDiesWithTheEngineLeavesNothing() throws {
        let daemon = try DaemonProcess()
        let control = Control(daemon: daemon)
        // Its pause is a read from here.
        let pipe = try ThisProcess.pipe()
        let child = try ChildProcess(
            Machine.program("client-example"), [], environment: ["SHRINKD_SOCKET=" + daemon.socket], standardInput: pipe.output.number)
        defer { child.signal(SIGKILL) }
        try daemon.waitFor("the program's object") { try control("status").number("objects") == 1 }
        try daemon.killPart("engine")
        child.signal(SIGKILL)
        _ = try child.wait()
        try daemon.waitFor("its gates to go") {
            try control("shrink", "--all").status == 0 && control("status").number("pages.resident") == 0
        }
        #expect(try daemon.stop() == .exited(0))
    }

    /// Who listens for revocations goes on listening to the next engine.
    @Test func revocationsComeFromTheNextEngineToo() throws {
        let daemon = try DaemonProcess()
        let control = Control(daemon: daemon)
        let client = try ShrinkdClient(path: daemon.socket)
        let object = try client.pool("p", sizeBytes: 1 << 20).makeObject("device", sizeBytes: 1 << 16, leased: true)
        object.unsafeBytes[0] = 1
        try client.onRevocation { _ in try? object.endAccess() }
        try daemon.killPart("engine")
        try daemon.waitFor("the listener to be back") {
            try control("shrink", "--object", "\(object.objectID)").status == 0
        }
        #expect(object.accessCount == 0)
        #expect(try object.beginAccess() && object.unsafeBytes[0] == 1)
        #expect(try daemon.stop() == .exited(0))
    }
}
