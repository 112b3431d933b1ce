import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// systemd/backupfs.service as it is shipped, beside a real systemd, with the program just built.
@Suite(.serialized) struct BackupfsUnitTests {
    @Test func theMountIsThereForEveryoneAndOutlivesACrashButNotAStop() throws {
        let stage = try InstalledStage.ofThisBuild()
        // Everything here runs outside the unit: what it sees, anyone sees. Each look at the mount is bounded.
        let script = """
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
            stat -c 'store-mode %a %U' /var/lib/shrinkd/store
            """
        guard let run = try stage.boot(script, lacking: "backupfs.service is not started") else { return }
        #expect(run.ending == .exited(0), "\(run.said)")
        let expected = [
            "NFileDescriptorStore=2", "after-crash 1", "after-restart 1", "same-mount", "Result=success", "nothing-mounted",
            "store-mode 700 shrinkd",
        ]
        for line in expected { #expect(run.said.contains(line + "\n"), "\(line) is missing in: \(run.said)") }
    }
}
