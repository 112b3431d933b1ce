import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@Suite struct UnitFileTests {
    /// The units in a root of their own, with programs that are only names, and the few units of systemd that any service depends on.
    private func stage(_ scratch: ScratchDirectory) throws -> String {
        let root = scratch.file("root")
        let units = root + "/usr/lib/systemd/system"
        for directory in [units, root + "/usr/bin", root + "/bin"] { try Files.makeDirectories(directory, mode: 0o755) }
        for program in ["/usr/bin/shrinkd", "/usr/bin/backupfs", "/bin/sh", "/bin/grep"] {
            try Files.replaceContents(of: root + program, with: Array("#!/bin/sh\n".utf8), mode: 0o755)
        }
        for unit in ["shrinkd.service", "backupfs.service"] {
            try Files.replaceContents(of: units + "/" + unit, with: Files.contents(of: packageRoot + "/systemd/" + unit))
        }
        for unit in ["sysinit.target", "basic.target", "shutdown.target", "multi-user.target"] {
            guard let text = try? Files.contents(of: "/lib/systemd/system/" + unit) else { continue }
            try Files.replaceContents(of: units + "/" + unit, with: text)
        }
        return root
    }

    private var hasAnalyze: Bool {
        guard (try? Files.status(of: "/usr/bin/systemd-analyze")) != nil else {
            Machine.lacks("systemd-analyze", so: "the units are not verified")
            return false
        }
        return true
    }

    @Test func systemdFindsNothingWrongWithTheUnits() throws {
        guard hasAnalyze else { return }
        let scratch = try ScratchDirectory()
        let root = try stage(scratch)
        let run = try CommandRun(
            "/usr/bin/systemd-analyze", ["verify", "--man=no", "--root=" + root, "backupfs.service", "shrinkd.service"], seconds: 60)
        #expect(run.ending == .exited(0))
        #expect(run.said.isEmpty, "\(run.said)")
    }

    /// That the test above would see a mistake.
    @Test func aMistypedSettingIsFound() throws {
        guard hasAnalyze else { return }
        let scratch = try ScratchDirectory()
        let root = try stage(scratch)
        let path = root + "/usr/lib/systemd/system/shrinkd.service"
        let text = String(decoding: try Files.contents(of: path), as: UTF8.self)
        try Files.replaceContents(of: path, with: Array(text.replacing("Type=notify", with: "Tpye=notify").utf8))
        let run = try CommandRun("/usr/bin/systemd-analyze", ["verify", "--man=no", "--root=" + root, "shrinkd.service"], seconds: 60)
        #expect(run.said.contains("'Tpye'"), "\(run.said)")
    }

    @Test(arguments: ["shrinkd.service", "backupfs.service"])
    func pathsAreLiteralAndTheMountStaysVisible(_ unit: String) throws {
        let text = String(decoding: try Files.contents(of: packageRoot + "/systemd/" + unit), as: UTF8.self)
        let settings = text.split(separator: "\n").filter { !$0.hasPrefix("#") }
        for command in settings where command.hasPrefix("ExecStart=") { #expect(command.hasPrefix("ExecStart=/usr/bin/")) }
        // Each of these gives the unit a mount namespace, in which its mount is invisible to everyone else (systemd.exec(5)).
        let hiding = [
            "PrivateTmp", "PrivateDevices", "PrivateMounts", "ProtectSystem", "ProtectHome", "ProtectKernel", "ProtectControlGroups",
            "ReadOnlyPaths",
        ]
        for setting in settings { #expect(!hiding.contains { setting.hasPrefix($0) }, "\(setting)") }
    }
}
