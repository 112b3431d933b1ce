import Glibc
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// The daemon brings pages back through windows of its file server, and finds those of the next server by itself.
@Suite(.serialized) struct WindowUseTests {
    private func requests(_ daemon: DaemonProcess, _ kind: String) throws -> Int {
        let text = try runProgram("/bin/grep", ["-E", "^requests.\(kind):", daemon.mountPoint + "/stats"]).output
        return text.split(separator: " ").last.flatMap { Int($0.filter(\.isNumber)) } ?? 0
    }

    @Test func pagesComeBackThroughWindowsAlsoOfTheNextServer() throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "windows are not tested") }
        // A store in memory: what goes to a disk is written durably, and that is a write, not a copy.
        let store = try ScratchMemoryFileSystem(sizeBytes: 64 << 20)
        let daemon = try DaemonProcess(store: store.path)
        let control = Control(daemon: daemon)
        let offered = try runProgram("/bin/grep", ["^windows:", daemon.mountPoint + "/stats"]).output
        if offered.hasPrefix("windows: no: the kernel does not offer") {
            return Machine.lacks("FUSE passthrough", so: "windows are not tested")
        }
        #expect(offered == "windows: yes\n")
        // There before memory is short: one for each copy buffer.
        #expect(try runProgram("/bin/grep", ["^open.windows:", daemon.mountPoint + "/stats"]).output == "open.windows: 7\n")
        let status = try control("status", "--json").output
        #expect(status.contains("\"windows\"") && status.contains("\"huge_segments\""))
        let pool = try PoolClient(daemon, pool: "p", sizeBytes: 16 << 20, seed: testSeed("windows"))
        let object = try pool.makeObject(pages: 2048, zeroEvery: 7)
        try pool.unpin(object)
        for round in 0..<3 {
            let written = try requests(daemon, "write")
            let out = try requests(daemon, "copy_file_range")
            #expect(try control("shrink", "--all").status == 0)
            // The first run of a copy buffer whose window died with its server goes out as a write, in pieces between the pages of zeros.
            #expect(try requests(daemon, "copy_file_range") - out >= 1, "round \(round)")
            if round == 0 { #expect(try requests(daemon, "write") == written) }
            let before = try requests(daemon, "copy_file_range")
            let read = try requests(daemon, "read")
            #expect(try control("recover", "--all").status == 0)
            // 8 MiB in runs of up to 1 MiB; what was read otherwise is `stats`.
            #expect(try requests(daemon, "copy_file_range") - before >= 8, "round \(round)")
            #expect(try requests(daemon, "read") - read < 20, "round \(round)")
            try pool.pin(object)
            #expect(try pool.mismatches(object, zeroEvery: 7) == [], "round \(round)")
            try pool.unpin(object)
            if round < 2 { try daemon.killPart("backupfs") }
        }
        #expect(try daemon.stop() == .exited(0))
    }
}
