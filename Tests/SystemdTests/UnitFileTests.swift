import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// The units as `make install` puts them in place.
@Suite(.serialized) struct UnitFileTests {
    private static let services = ["shrinkd.service", "backupfs.service"]
    private static let units = services + ["shrinkd.socket", "shrinkd-pressure.socket", "var-lib-shrinkd-memory.mount"]

    /// The installed tree with what the units name besides: programs that are only names, and the units of systemd that any unit depends on.
    private func stage() throws -> InstalledStage? {
        guard (try? Files.status(of: "/usr/bin/systemd-analyze")) != nil else {
            Machine.lacks("systemd-analyze", so: "the units are not verified")
            return nil
        }
        let stage = try InstalledStage.ofThisBuild()
        for program in ["/bin/sh", "/bin/grep", "/bin/kill", "/usr/bin/nsenter"] {
            try Files.makeDirectories(stage.root + program.split(separator: "/").dropLast().reduce("") { $0 + "/" + $1 }, mode: 0o755)
            try Files.replaceContents(of: stage.root + program, with: Array("#!/bin/sh\n".utf8), mode: 0o755)
        }
        let known = [
            "sysinit.target", "basic.target", "shutdown.target", "multi-user.target", "sockets.target", "local-fs.target",
            "local-fs-pre.target", "umount.target", "swap.target", "system.slice", "-.slice", "-.mount",
        ]
        for unit in known {
            guard let text = try? Files.contents(of: "/lib/systemd/system/" + unit) else { continue }
            try Files.replaceContents(of: stage.root + "/usr/lib/systemd/system/" + unit, with: text)
        }
        return stage
    }

    @Test func systemdFindsNothingWrongWithTheUnits() throws {
        guard let stage = try stage() else { return }
        let run = try CommandRun("/usr/bin/systemd-analyze", ["verify", "--man=no", "--root=" + stage.root] + Self.units, seconds: 60)
        #expect(run.ending == .exited(0))
        #expect(run.said.isEmpty, "\(run.said)")
    }

    /// That the test above would see a mistake.
    @Test func aMistypedSettingIsFound() throws {
        guard let stage = try stage() else { return }
        let path = stage.root + "/usr/lib/systemd/system/shrinkd.service"
        let text = String(decoding: try Files.contents(of: path), as: UTF8.self)
        try Files.replaceContents(of: path, with: Array(text.replacing("Type=notify", with: "Tpye=notify").utf8))
        let run = try CommandRun(
            "/usr/bin/systemd-analyze", ["verify", "--man=no", "--root=" + stage.root, "shrinkd.service"], seconds: 60)
        #expect(run.said.contains("'Tpye'"), "\(run.said)")
    }

    /// At most 2.0 of 10; systemd-analyze counts in tenths.
    @Test(arguments: services) func theSandboxIsTight(_ unit: String) throws {
        guard let stage = try stage() else { return }
        let run = try CommandRun(
            "/usr/bin/systemd-analyze", ["security", "--offline=true", "--threshold=20", "--no-pager", "--root=" + stage.root, unit],
            seconds: 60)
        #expect(run.ending == .exited(0), "\(run.said)")
        print(run.said.split(separator: "\n").last { $0.contains("exposure") }.map(String.init) ?? "no verdict")
    }

    @Test(arguments: services) func settingsThatPromisesDependOnAreThere(_ unit: String) throws {
        guard let stage = try stage() else { return }
        let text = String(decoding: try Files.contents(of: stage.root + "/usr/lib/systemd/system/" + unit), as: UTF8.self)
        let settings = text.split(separator: "\n").filter { !$0.hasPrefix("#") }
        for wanted in [
            "User=shrinkd", "StartLimitIntervalSec=0", "Restart=on-failure", "OOMScoreAdjust=-900", "LimitMEMLOCK=infinity", "Type=notify",
        ] {
            #expect(settings.contains { $0 == wanted }, "\(wanted) is missing")
        }
        for wanted in ["WatchdogSec=", "MemoryMin=", "FileDescriptorStoreMax="] {
            #expect(settings.contains { $0.hasPrefix(wanted) }, "\(wanted) is missing")
        }
        // Peers' uids would all read 65534; /proc/meminfo would be gone; a limit would count what clients have in memory.
        for never in ["PrivateUsers=", "ProcSubset=", "MemoryMax=", "MemoryHigh="] {
            #expect(!settings.contains { $0.hasPrefix(never) }, "\(never)")
        }
    }
}
