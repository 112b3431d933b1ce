import Glibc
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@Suite(.serialized) struct FaultAttributeTests {
    private let name = "user.shrinkd.faults"

    @Test func withoutTheFlagFaultsAreRefused() throws {
        try withMount { server in
            #expect(throws: Errno.notPermitted) { try server.setAttribute(name, "op=write errno=EIO", of: "") }
            let (value, allowed) = (try server.attribute(name, of: ""), try server.statistic("faults.allowed"))
            #expect(value == nil && allowed == nil)
        }
    }

    @Test(arguments: ["raw", "packed"]) func faultsAreSetListedAndCleared(_ layout: String) throws {
        try withBackupFileSystem(arguments: ["--layout", layout, "--allow-faults"]) { server in
            #expect(try server.statistic("faults.allowed") == "yes")
            #expect(try server.statistic("passthrough") == "no: faults are allowed (--allow-faults)")
            #expect(try server.attribute(name, of: "") == "")
            let data = try server.makeObject(1, sizeBytes: 8 * page)
            try write(PagePattern(seed: 1).page(0, zeroEvery: 0), to: data.number, at: 0)

            try server.setAttribute(name, "op=write errno=ENOSPC every=2\nop=read errno=EIO object=1", of: "")
            #expect(throws: Errno.ioError) { try read(data.number, at: 0, count: page) }
            #expect(openError(server.file("objects/1/pages/0"), .readOnly) == .ioError, "page files are read too")
            try write([1, 2, 3], to: data.number, at: page)
            #expect(throws: Errno.noSpace) { try write([1, 2, 3], to: data.number, at: page) }
            try server.setAttribute(name, "+ op=punch errno=EIO", of: "")
            #expect(throws: Errno.ioError) { try Files.punch(data.number, at: 0, length: page) }
            let listed = try #require(try server.attribute(name, of: "")).split(separator: "\n")
            #expect(
                listed == [
                    "op=write errno=ENOSPC every=2 seen=2 hits=1", "op=read errno=EIO every=1 object=1 seen=2 hits=2",
                    "op=punch errno=EIO every=1 seen=1 hits=1",
                ])
            #expect(try server.statistic("faults.hits") == "4")
            #expect(try server.statistic("faults.0") == "op=write errno=ENOSPC every=2 seen=2 hits=1")

            #expect(throws: Errno.invalidArgument) { try server.setAttribute(name, "op=write errno=ENOSYS", of: "") }
            #expect(throws: Errno.notSupported) { try server.setAttribute(name, "op=write errno=EIO", of: "objects") }
            #expect(try server.statistic("faults.rules") == "3", "what is refused changes nothing")
            let list = try runProgram("/usr/bin/getfattr", ["-d", "--absolute-names", server.mountPoint])
            #expect(list.output.contains("user.shrinkd.faults="), "\(list)")
            #expect(try runProgram("/usr/bin/setfattr", ["-x", name, server.mountPoint]).ending == .exited(0))
            #expect(try server.attribute(name, of: "") == "")
            #expect(try read(data.number, at: 0, count: page) == PagePattern(seed: 1).page(0, zeroEvery: 0), "nothing was lost")
        }
    }

    @Test func othersMayNotSetFaults() throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "faults set by another user are not tried") }
        try withBackupFileSystem(arguments: ["--allow-faults"]) { server in
            #expect(chmod(server.mountPoint + "/..", 0o755) == 0)
            let result = try runProgram(
                "/usr/bin/setpriv",
                [
                    "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/setfattr", "-n", name, "-v", "op=read errno=EIO",
                    server.mountPoint,
                ])
            #expect(result.ending == .exited(1), "\(result)")
            #expect(try server.statistic("faults.rules") == "0")
        }
    }

    /// A delay holds its caller and nobody else.
    @Test func aHeldRequestDoesNotHoldTheRest() throws {
        try withBackupFileSystem(arguments: ["--allow-faults"]) { server in
            let data = try server.makeObject(1, sizeBytes: page)
            try server.setAttribute(name, "op=sync delay_ms=10000", of: "")
            let start = MonotonicTime.now()
            let number = data.number
            let held = try DedicatedThread("held") { try? Files.sync(number) }
            while try server.statistic("faults.hits") != "1", MonotonicTime.now().nanoseconds(since: start) < 5_000_000_000 {}
            #expect(try server.statistic("faults.hits") == "1", "it was held")
            #expect(try server.names("objects") == ["1"])
            try server.setAttribute(name, "", of: "")
            held.join()
            #expect(MonotonicTime.now().nanoseconds(since: start) < 9_000_000_000)
        }
    }
}
