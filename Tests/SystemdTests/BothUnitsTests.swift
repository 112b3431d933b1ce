import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// The two units together, as they are shipped, beside a real systemd.
@Suite(.serialized) struct BothUnitsTests {
    private func run(_ script: String) throws -> CommandRun? {
        try InstalledStage.ofThisBuild().boot(script, lacking: "the units are not started together")
    }

    @Test func startingTheEngineBringsTheFileServerAndRestartingThatLosesNothing() throws {
        let script = """
            head -c 4000000 /dev/urandom >/tmp/content
            systemctl start shrinkd
            systemctl is-active backupfs shrinkd
            shrinkctl pool create pool --size 16M
            id=$(shrinkctl object create pool object --size 4M --from /tmp/content --json | tr -d ' ' | sed -n 's/^"id":\\([0-9]*\\),*$/\\1/p')
            shrinkctl shrink --all >/dev/null
            systemctl restart backupfs
            shrinkctl recover --all >/dev/null
            shrinkctl object read "$id" | head -c 4000000 | cmp - /tmp/content && echo content-is-whole
            systemctl stop shrinkd backupfs
            grep -c /run/shrinkd/backup /proc/self/mountinfo || echo nothing-mounted
            """
        guard let run = try run(script) else { return }
        #expect(run.ending == .exited(0), "\(run.said)")
        #expect(run.said.contains("active\nactive\n"), "\(run.said)")
        #expect(run.said.contains("content-is-whole\n") && run.said.contains("nothing-mounted\n"), "\(run.said)")
    }

    /// /run is memory: shrinking to an empty directory there would free nothing and fill what is short.
    @Test func withoutTheMountTheEngineDoesNotStart() throws {
        let script = """
            rm /usr/bin/backupfs
            systemctl start shrinkd && echo started || echo refused
            systemctl is-active -q shrinkd && echo runs || echo runs-not
            ls -A /run/shrinkd/backup
            """
        guard let run = try run(script) else { return }
        #expect(run.said.contains("refused\n") && !run.said.contains("io.shrinkd"), "\(run.said)")
        #expect(run.said.hasSuffix("runs-not\n"), "\(run.said)")
    }
}
