import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// systemd/backupfs.service as it is shipped, beside a real systemd, with the program just built.
@Suite(.serialized) struct BackupfsUnitTests {
    @Test func theMountIsThereForEveryoneAndOutlivesACrashButNotAStop() throws {
        let program = Machine.program("backupfs")
        guard (try? Files.status(of: program)) != nil else {
            Machine.lacks("a built backupfs", so: "its unit is not started")
            return
        }
        // Everything here runs outside the unit: what it sees, anyone sees. Each look at the mount is bounded.
        let script = """
            set -eu
            cp \(program) /usr/bin/backupfs
            systemctl start backupfs
            timeout -s KILL 10 mkdir /run/shrinkd/backup/objects/1
            systemctl show -p NFileDescriptorStore backupfs
            before=$(awk '$5 == "/run/shrinkd/backup" {print $3}' /proc/self/mountinfo)
            systemctl kill -s KILL backupfs
            echo after-crash $(timeout -s KILL 10 ls /run/shrinkd/backup/objects)
            systemctl restart backupfs
            echo after-restart $(timeout -s KILL 10 ls /run/shrinkd/backup/objects)
            [ "$before" = "$(awk '$5 == "/run/shrinkd/backup" {print $3}' /proc/self/mountinfo)" ] && echo same-mount
            systemctl stop backupfs
            systemctl show -p Result backupfs
            grep -c /run/shrinkd/backup /proc/self/mountinfo || echo nothing-mounted
            stat -c 'store-mode %a' /var/lib/shrinkd/store
            """
        let run = try CommandRun(
            packageRoot + "/Tests/with-systemd/with-systemd",
            ["-u", packageRoot + "/systemd", "-b", Machine.productsDirectory, "-t", "60", "--", "/bin/bash", "-c", script], seconds: 120)
        if run.ending == .exited(77) {
            Machine.lacks(
                run.said.split(separator: "\n").last.map(String.init) ?? "a systemd for tests", so: "backupfs.service is not started")
            return
        }
        #expect(run.ending == .exited(0), "\(run.said)")
        let expected = [
            "NFileDescriptorStore=2", "after-crash 1", "after-restart 1", "same-mount", "Result=success", "nothing-mounted",
            "store-mode 700",
        ]
        for line in expected { #expect(run.said.contains(line + "\n"), "\(line) is missing in: \(run.said)") }
    }
}
