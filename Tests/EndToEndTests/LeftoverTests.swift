import Glibc
import ShrinkEngine
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// What an engine that is killed at the wrong moment leaves in the store does not pile up over the months; what people put there stays.
@Suite struct LeftoverTests {
    @Test func halfMadeObjectsOfAnEngineThatDiedAreRemovedAndPeoplesStay() throws {
        let daemon = try DaemonProcess(environment: ["SHRINKD_PRESSURE=off"])
        let control = Control(daemon: daemon)
        let objects = daemon.mountPoint + "/objects"
        func make(_ id: Int, name: String?, pages: Int) throws {
            try Files.makeDirectory("\(objects)/\(id)")
            guard pages > 0 else { return }
            let data = try Files.open("\(objects)/\(id)/data", [.readWrite, .create])
            if let name { try ExtendedAttributes.set("user.shrinkd.name", to: Array(name.utf8), of: data.number) }
            try Files.truncate(data.number, to: pages * basePageSize)
            let page = [UInt8](repeating: 7, count: basePageSize)
            try page.withBytes { (bytes) throws(Errno) in
                let written = Files.write(data.number, bytes, at: 0, [])
                if let error = written.error { throw error }
            }
        }
        // As the probe of an engine that died leaves it, as one that died after its first call, and as a person makes them.
        try make(1001, name: "probe", pages: 16)
        try make(1002, name: nil, pages: 0)
        try make(1003, name: "probes of soil", pages: 16)
        try make(1004, name: nil, pages: 3)
        #expect(try control("status").number("backup.orphans") == 4)
        let engine = try #require(daemon.process(of: "engine"))
        Glibc.kill(engine, SIGKILL)
        try daemon.waitFor("another engine", seconds: 60) { daemon.process(of: "engine").map { $0 != engine } ?? false }
        // Gone before the engine answers anybody.
        #expect(try control("status").number("backup.orphans") == 2)
        for (id, isThere) in [(1001, false), (1002, false), (1003, true), (1004, true)] {
            #expect(((try? Files.status(of: "\(objects)/\(id)")) != nil) == isThere, "\(id)")
        }
        #expect(try Files.contents(of: "\(objects)/1004/data", limit: 1 << 20).prefix(basePageSize).allSatisfy { $0 == 7 })
        #expect(try daemon.stop() == .exited(0))
    }
}
