import Glibc
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// What one user may take, from the configuration file of a running daemon.
@Suite(.serialized) struct UserLimitReloadTests {
    /// Another user than the daemon's.
    private static let user = 65_534

    /// `shrinkctl` as that user; the exit status.
    private func asUser(_ daemon: DaemonProcess, _ arguments: String...) throws -> (status: Int32, errors: String) {
        let result = try runProgram(
            "/usr/bin/setpriv",
            ["--reuid=\(Self.user)", "--regid=\(Self.user)", "--clear-groups", Machine.program("shrinkctl")] + arguments
                + ["--json", "--socket", daemon.socket])
        guard case .exited(let status) = result.ending else { throw DaemonProcess.Failure(description: "shrinkctl: \(result.ending)") }
        return (status, result.errors + result.output)
    }

    @Test func theFileCountsAtTheStartAndAgainAfterAReload() throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "limits of another user are not tried on a running daemon") }
        let scratch = try ScratchDirectory()
        let file = scratch.file("shrinkd.conf")
        func write(_ text: String) throws { try Files.replaceContents(of: file, with: Array(text.utf8)) }
        try write("user-pools = 1\nuser-objects = 2\nuser-bytes = 8M\nuser-backup = 1M\n")
        let daemon = try DaemonProcess(arguments: ["--config", file])
        // Whoever may reach the socket: the way there, and the socket.
        for (path, mode) in [
            (daemon.runtimeDirectory + "/..", 0o755), (daemon.runtimeDirectory, 0o755), (scratch.path, 0o755), (daemon.socket, 0o666),
        ] {
            guard chmod(path, mode_t(mode)) == 0 else { throw Errno(rawValue: errno) }
        }
        let refused = try asUser(daemon, "pool", "create", "big", "--size", "16M")
        #expect(refused.status != 0 && refused.errors.contains("limit_reached"), "\(refused)")
        let created = try asUser(daemon, "pool", "create", "own", "--size", "8M")
        #expect(created.status == 0, "\(created)")
        let second = try asUser(daemon, "pool", "create", "second", "--size", "4K")
        #expect(second.status != 0 && second.errors.contains("1 pools, which is its limit"), "\(second)")
        let content = scratch.file("content")
        try Files.replaceContents(of: content, with: [UInt8](repeating: 7, count: 2 << 20))
        chmod(content, 0o644)
        for name in ["a", "b"] {
            let object = try asUser(daemon, "object", "create", "own", name, "--size", "2M", "--from", content)
            #expect(object.status == 0, "\(object)")
        }
        #expect(try asUser(daemon, "object", "create", "own", "c", "--size", "4K").errors.contains("which is its limit"))
        let shrunk = try asUser(daemon, "shrink", "--all")
        #expect(shrunk.status != 0 && shrunk.errors.contains("all the backup it may have"), "its backup takes 1 MiB of 4: \(shrunk)")
        let control = Control(daemon: daemon)
        #expect(try control("status").number("pages.backed_up") == 256)
        // Root has none.
        #expect(try control("pool", "create", "roots", "--size", "64M").status == 0)

        // Raised: at once, and told.
        try write("user-pools = 2\nuser-objects = 3\nuser-bytes = 16M\nuser-backup = 64M\n")
        daemon.hangUp()
        try daemon.waitFor("the new limits") { try control("status").compact.contains("\"pool_limit\":2") }
        #expect(daemon.said.contains("changed, and counts from now on") && !daemon.said.contains("counts when"), "\(daemon.said)")
        #expect(try asUser(daemon, "pool", "create", "second", "--size", "8M").status == 0)
        #expect(try asUser(daemon, "object", "create", "own", "c", "--size", "4K").status == 0)
        #expect(try asUser(daemon, "shrink", "--all").status == 0)
        #expect(try control("status").number("pages.backed_up") == 1024)

        // Lowered below what there is: that stays, and nothing is added.
        try write("user-pools = 1\nuser-objects = 1\nuser-bytes = 1M\nuser-backup = 0\n")
        daemon.hangUp()
        try daemon.waitFor("the lower limits") { try control("status").compact.contains("\"pool_limit\":1") }
        #expect(try asUser(daemon, "pool", "create", "third", "--size", "4K").errors.contains("limit_reached"))
        #expect(try asUser(daemon, "object", "create", "own", "d", "--size", "4K").errors.contains("limit_reached"))
        #expect(try asUser(daemon, "recover", "--all").status == 0)
        #expect(try asUser(daemon, "shrink", "--all").errors.contains("limit_reached"))
        #expect(try control("status").number("pages.backed_up") == 0)
        #expect(try asUser(daemon, "pool", "destroy", "second").status == 0)
    }
}
