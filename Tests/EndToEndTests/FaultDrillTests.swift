import FoundationEssentials
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import TestSupport
import Testing

/// The store fails on purpose under a whole daemon: what was promised holds, and when the fault is gone all goes on.
@Suite(.serialized) struct FaultDrillTests {
    @Test func aStoreThatFailsLosesNothing() throws {
        let daemon = try DaemonProcess(arguments: ["--allow-faults"])
        let control = Control(daemon: daemon)
        #expect(try control("status").output.contains("faults are allowed"), "passthrough is off, and status says why")
        let pool = try PoolClient(daemon, pool: "drill", sizeBytes: 32 << 20, seed: testSeed("fault drill"))
        var objects: [WireObject] = []
        for _ in 0..<4 { objects.append(try pool.makeObject(pages: 512)) }
        for object in objects { try pool.unpin(object) }

        // Every third write finds the store full: the shrink fails in part, and what it could not store stays resident.
        #expect(try control("fault", "set", "write", "--errno", "ENOSPC", "--every", "3").status == 0)
        let failed = try control("shrink", "--all")
        #expect(failed.status == 1, "\(failed.output) \(failed.errors)")
        #expect(try #require(try control("fault", "list").number("faults.0.hits") ?? hits(control)) > 0)
        for object in objects { #expect(try pool.mismatches(object).isEmpty) }
        #expect(try control("fault", "clear").status == 0)
        #expect(try control("shrink", "--all").status == 0)

        // Reads fail for one object: that one is not recovered, the others are, and nothing is ever zeros instead.
        let bad = objects[1]
        let set = try control("fault", "set", "read", "--errno", "EIO", "--object", "\(bad.objectId)")
        #expect(set.status == 0, "\(set.errors)")
        #expect(try control("recover", "--object", "\(objects[0].objectId)").status == 0)
        #expect(try control("recover", "--object", "\(bad.objectId)").status == 1)
        #expect(try control("object", "read", "\(bad.objectId)", "--output", "/dev/null").status == 1)
        #expect(try pool.mismatches(objects[2]).isEmpty)
        #expect(try control("fault", "clear").status == 0)
        let recovered = try control("recover", "--all")
        #expect(recovered.status == 0, "\(recovered.errors)")
        for object in objects { #expect(try pool.mismatches(object).isEmpty) }

        let wrong = try control("fault", "set", "fly", "--errno", "EIO")
        #expect(wrong.status == 1 && wrong.errors.contains("operations are: open create"), "\(wrong.errors)")
        #expect(wrong.errors.contains("EIO ENOSPC"))
        try daemon.stop()
    }

    private func hits(_ control: Control) throws -> Int? {
        struct List: Decodable {
            struct Fault: Decodable { var hits: Int }
            var faults: [Fault]
        }
        return try JSONDecoder().decode(List.self, from: Data(try control("fault", "list").output.utf8)).faults.first?.hits
    }

    @Test func theMapFollowsThePages() throws {
        let daemon = try DaemonProcess()
        let control = Control(daemon: daemon)
        #expect(try control("fault", "set", "write", "--errno", "EIO").status == 1, "refused without --allow-faults")
        let pool = try PoolClient(daemon, pool: "map", sizeBytes: 4 << 20, seed: testSeed("map"))
        let object = try pool.makeObject(pages: 64, zeroEvery: 0)
        try pool.unpin(object)
        let id = "\(object.objectId)"
        func map() throws -> String { try runProgram(Machine.program("shrinkctl"), ["pages", id, "--socket", daemon.socket]).output }
        #expect(try map().contains(" " + String(repeating: "R", count: 64) + "\n"))
        #expect(try control("shrink", "--object", id).status == 0)
        #expect(try map().contains(" " + String(repeating: "0", count: 64) + "\n"), "the only tier is the fastest")
        try pool.pin(object)
        #expect(try map().contains(" " + String(repeating: "R", count: 64) + "\n"))
        try daemon.stop()
    }
}
