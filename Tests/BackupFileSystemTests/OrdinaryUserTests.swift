import Glibc
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@Suite(.serialized) struct OrdinaryUserTests {
    @Test func anOrdinaryUserServesAndUsesAStoreOfItsOwn() throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "becoming an ordinary user is not tested") }
        guard access("/usr/bin/fusermount3", X_OK) == 0 else {
            return Machine.lacks("fusermount3", so: "ordinary users' mounts are not tested")
        }
        try withBackupFileSystem(user: .nobody) { server in
            let object = server.file("objects/1")
            let result = try server.runAsUser(
                """
                set -e
                grep -c ' \(server.mountPoint) .* fuse.backupfs ' /proc/self/mountinfo
                grep '^passthrough:' \(server.file("stats"))
                mkdir \(object)
                head -c 300000 /bin/bash > \(object)/data
                cmp -n 300000 \(object)/content /bin/bash
                fallocate -p -o 0 -l 8192 \(object)/data
                ls \(object)/pages | wc -l
                stat -c '%a %u' \(object) \(object)/data \(object)/content \(object)/pages/5
                rm \(object)/data
                rmdir \(object)
                """)
            #expect(result.ending == .exited(0), "\(result.errors)")
            let lines = result.output.split(separator: "\n").map(String.init)
            #expect(lines.first == "1")
            #expect(lines.dropFirst().first?.hasPrefix("passthrough: no: the kernel lets only root") == true)
            #expect(lines.dropFirst(2) == ["72", "700 65534", "600 65534", "400 65534", "400 65534"])
            #expect(try server.stop() == .exited(0))
        }
    }
}
