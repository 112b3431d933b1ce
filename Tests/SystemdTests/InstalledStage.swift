import ShrinkLinux
import SystemPackage
import TestSupport

/// What `make install` puts in place, in a tree of its own.
struct InstalledStage {
    let root: String
    private let scratch: ScratchDirectory

    /// With the programs that this test was built with.
    static func ofThisBuild() throws -> InstalledStage {
        try InstalledStage(
            packageRoot + "/systemd/install", [],
            environment: ["BIN=" + Machine.productsDirectory, "PATH=/usr/sbin:/usr/bin:/sbin:/bin"], seconds: 120)
    }

    /// With programs built as a distribution would: optimised, and with nothing of Swift beside them. The first time takes minutes.
    static func ofARelease() throws -> InstalledStage {
        let kept = ["PATH", "HOME", "TMPDIR"].compactMap { name in ThisProcess.environment(name).map { name + "=" + $0 } }
        return try InstalledStage(
            "/usr/bin/make", ["--no-print-directory", "-C", packageRoot, "install"], environment: kept, seconds: 1200)
    }

    private init(_ program: String, _ arguments: [String], environment: [String], seconds: Int32) throws {
        scratch = try ScratchDirectory()
        root = scratch.file("stage")
        try Files.makeDirectory(root, mode: 0o755)
        let run = try CommandRun(
            program, arguments, seconds: seconds, environment: environment + ["DESTDIR=" + root, "PREFIX=/usr", "SYSCONFDIR=/etc"])
        guard run.ending == .exited(0) else { throw Failure(description: "\(program): \(run.said)") }
    }

    struct Failure: Error, CustomStringConvertible {
        var description: String
    }

    /// The first lines of a script inside with-systemd: what was installed, and what a package's scripts do after that.
    var arrival: String {
        """
        set -eu
        cp -a --no-preserve=ownership \(root)/. /
        systemd-sysusers
        systemd-tmpfiles --create shrinkd.conf
        systemctl daemon-reload

        """
    }

    /// Runs a script beside a real systemd where this is installed. Nil if the machine has none for tests.
    func boot(_ script: String, lacking: String, seconds: Int = 60) throws -> CommandRun? {
        let run = try CommandRun(
            packageRoot + "/Tests/with-systemd/with-systemd",
            [
                "-b", scratch.path, "-b", Machine.productsDirectory, "-t", "\(seconds)", "--", "/bin/bash", "-c", arrival + script,
            ], seconds: Int32(seconds) + 60)
        if run.ending == .exited(77) {
            Machine.lacks(run.said.split(separator: "\n").last.map(String.init) ?? "a systemd for tests", so: lacking)
            return nil
        }
        return run
    }
}
