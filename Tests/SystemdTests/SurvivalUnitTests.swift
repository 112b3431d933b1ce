import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// Both units beside a real systemd, with a client at work: whatever happens to them, it finds every page as it left it.
@Suite(.serialized) struct SurvivalUnitTests {
    /// Runs a script with the programs installed. `survive N` waits until the client has done N more steps; `running` tells that both units are.
    private func run(_ script: String, seconds: Int = 150) throws -> CommandRun? {
        let functions = """
            steps() { sed -n 's/^STEPS \\([0-9]*\\).*/\\1/p' /tmp/survivor | tail -1; }
            # until SECONDS COMMAND...: bounded, looking again.
            until_true() { local i n=$1; shift; for ((i = 0; i < n * 20; i++)); do "$@" >/dev/null 2>&1 && return 0; kill -0 $survivor || { cat /tmp/survivor; exit 9; }; sleep 0.05; done; echo "waited $n s for: $*"; cat /tmp/survivor; journalctl -o cat -n 60; exit 8; }
            more() { [ "$(steps)" -gt "$1" ]; }
            survive() { until_true 60 more "$(($(steps) + 0))"; }
            begin() {
                systemctl start shrinkd
                \(Machine.program("survivor")) /run/shrinkd/io.shrinkd pool \(testSeed("survivor under systemd")) >/tmp/survivor 2>&1 &
                survivor=$!
                until_true 60 grep -q STEPS /tmp/survivor
            }
            end() { kill -TERM $survivor; wait $survivor && echo "survivor right"; tail -1 /tmp/survivor; }
            pid() { systemctl show -p MainPID --value "$1"; }
            another() { local now; now=$(pid "$1"); [ "$now" != 0 ] && [ "$now" != "$2" ]; }
            # die SIGNAL UNIT...: all at once, and waits for the next processes.
            die() {
                local signal=$1 unit; shift
                declare -A old; for unit; do old[$unit]=$(pid "$unit"); done
                for unit; do kill -s "$signal" "${old[$unit]}"; done
                for unit; do until_true 60 another "$unit" "${old[$unit]}"; done
            }

            """
        return try InstalledStage.ofThisBuild().boot(
            functions + script, lacking: "nothing is killed beside a real systemd", seconds: seconds)
    }

    @Test func crashesRestartsAndUpgradesOfSystemdLoseNothing() throws {
        let script = """
            begin
            die KILL shrinkd; survive; echo engine-killed
            die KILL backupfs; survive; echo server-killed
            die KILL shrinkd backupfs; survive; echo both-killed
            systemctl restart shrinkd; survive; echo engine-restarted
            systemctl restart backupfs; survive; echo server-restarted
            systemctl restart shrinkd backupfs; survive; echo both-restarted
            systemctl daemon-reload; systemctl daemon-reexec; die KILL shrinkd; survive; echo reexecuted
            systemctl show -p NFileDescriptorStore shrinkd
            shrinkctl status
            end
            systemctl stop shrinkd backupfs
            systemctl show -p Result shrinkd backupfs
            grep -c /run/shrinkd/backup /proc/self/mountinfo || echo nothing-mounted
            ls -A /run/shrinkd
            """
        guard let run = try run(script) else { return }
        #expect(run.ending == .exited(0), "\(run.said)")
        for line in [
            "engine-killed", "server-killed", "both-killed", "engine-restarted", "server-restarted", "both-restarted", "reexecuted",
            "survivor right", "NFileDescriptorStore=6", "engine starts: 6", "nothing-mounted",
        ] {
            #expect(run.said.contains(line), "\(line) is missing in: \(run.said)")
        }
        #expect(run.said.contains(" lost 0;"), "\(run.said)")
        #expect(!run.said.contains("Result=exit-code") && !run.said.contains("Result=signal"), "\(run.said)")
    }

    @Test func whoHangsIsFoundByTheWatchdogAndReplaced() throws {
        let script = """
            for unit in shrinkd backupfs; do
                mkdir -p /etc/systemd/system/$unit.service.d
                printf '[Service]\\nWatchdogSec=15s\\nTimeoutAbortSec=1s\\n' >/etc/systemd/system/$unit.service.d/fast.conf
            done
            systemctl daemon-reload
            begin
            for unit in shrinkd backupfs; do
                die STOP $unit
                survive
                journalctl -u $unit -o cat | grep -c 'Watchdog timeout' | sed "s/^/$unit watchdog /"
            done
            end
            """
        guard let run = try run(script) else { return }
        #expect(run.ending == .exited(0), "\(run.said)")
        for line in ["shrinkd watchdog 1", "backupfs watchdog 1", "survivor right"] {
            #expect(run.said.contains(line), "\(line): \(run.said)")
        }
    }

    /// What is too much for systemd's store it drops without a word: the engine knows the limit and refuses before.
    @Test func aFullDescriptorStoreRefusesPoolsInsteadOfLosingThem() throws {
        let script = """
            mkdir -p /etc/systemd/system/shrinkd.service.d
            printf '[Service]\\nFileDescriptorStoreMax=6\\nEnvironment=FDSTORE=6\\n' >/etc/systemd/system/shrinkd.service.d/few.conf
            systemctl daemon-reload
            systemctl start shrinkd
            for name in a b; do shrinkctl pool create $name --size 1M; done
            shrinkctl pool create c --size 1M || echo refused $?
            systemctl show -p NFileDescriptorStore shrinkd
            old=$(pid shrinkd)
            systemctl kill -s KILL shrinkd
            survivor=$$
            until_true 60 another shrinkd $old
            shrinkctl pool list --json | tr -d ' \\n' | grep -o '"name":"[a-z]"' | tr '\\n' ' '
            """
        guard let run = try run(script) else { return }
        #expect(run.ending == .exited(0), "\(run.said)")
        #expect(run.said.contains("refused 1") && run.said.contains("FileDescriptorStoreMax"), "\(run.said)")
        #expect(run.said.contains("NFileDescriptorStore=5"), "\(run.said)")
        #expect(run.said.contains("\"name\":\"a\" \"name\":\"b\""), "\(run.said)")
    }

    /// The unit tells the engine what systemd keeps, for systemd tells it only since version 254.
    @Test func theUnitNamesItsLimitTwice() throws {
        let text = String(decoding: try Files.contents(of: packageRoot + "/systemd/shrinkd.service"), as: UTF8.self)
        func value(_ key: String) -> Substring? {
            text.split(separator: "\n").first { $0.hasPrefix(key + "=") }.map { $0.dropFirst(key.count + 1) }
        }
        #expect(value("FileDescriptorStoreMax") != nil && value("FileDescriptorStoreMax") == value("Environment=FDSTORE"))
    }
}
