import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// Beside a real systemd, booted by Tests/with-systemd in namespaces of its own.
@Suite(.serialized) struct RealSystemdTests {
    /// Runs a script beside systemd, with one unit. Nil if this machine cannot.
    private func run(_ script: String, unit name: String, _ text: String) throws -> CommandRun? {
        let scratch = try ScratchDirectory()
        let units = scratch.file("units")
        try Files.makeDirectory(units)
        try Files.replaceContents(of: units + "/" + name, with: Array(text.utf8), mode: 0o644)
        let run = try CommandRun(
            packageRoot + "/Tests/with-systemd/with-systemd",
            ["-u", units, "-b", Machine.productsDirectory, "-t", "30", "--", "/bin/bash", "-c", script], seconds: 90)
        if run.ending == .exited(77) {
            Machine.lacks(
                run.said.split(separator: "\n").last.map(String.init) ?? "a systemd for tests",
                so: "nothing is tested beside a real systemd")
            return nil
        }
        return run
    }

    @Test func whatAProgramKeepsComesBackAfterACrash() throws {
        let unit = """
            [Service]
            Type=notify
            ExecStart=\(Machine.program("keepertrial")) part trial - keep:state,ready,serve
            Restart=on-failure
            RestartSec=100ms
            FileDescriptorStoreMax=4
            """
        // The second `ready` line is waited for in the journal, bounded by the harness.
        let script = """
            set -eu
            systemctl start trial
            systemctl show -p NFileDescriptorStore trial
            systemctl kill -s KILL trial
            journalctl -f -n all -u trial -o cat | grep -m 1 'trial started .* state$'
            systemctl stop trial
            systemctl show -p Result trial
            journalctl --sync
            journalctl -u trial -o cat
            """
        guard let run = try run(script, unit: "trial.service", unit) else { return }
        #expect(run.ending == .exited(0), "\(run.said)")
        #expect(run.said.contains("NFileDescriptorStore=1"), "\(run.said)")
        #expect(run.said.contains("trial term"), "\(run.said)")
        #expect(run.said.contains("Result=success"), "\(run.said)")
    }

    @Test func theHarnessPassesTheExitStatusOn() throws {
        guard let run = try run("exit 3", unit: "none.service", "[Service]\nExecStart=/bin/true\n") else { return }
        #expect(run.ending == .exited(3), "\(run.said)")
    }
}
