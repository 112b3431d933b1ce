import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// A release as it is installed, on a machine that has never heard of Swift.
@Suite(.serialized) struct InstallTests {
    @Test func aReleaseRunsWithoutSwiftAsAnOrdinaryServiceAndSurvivesRestarts() throws {
        let stage = try InstalledStage.ofARelease()
        for path in [
            "/usr/bin/shrinkd", "/usr/bin/backupfs", "/usr/bin/shrinkctl", "/usr/libexec/shrinkd/backupfs-mount",
            "/usr/lib/systemd/system/shrinkd.service", "/usr/lib/sysusers.d/shrinkd.conf", "/usr/lib/tmpfiles.d/shrinkd.conf",
            "/usr/lib/systemd/system-preset/80-shrinkd.preset", "/etc/shrinkd/shrinkd.conf", "/usr/share/man/man5/shrinkd.conf.5",
            "/usr/share/man/man8/shrinkd.8", "/usr/share/man/man8/backupfs.8", "/usr/share/man/man1/shrinkctl.1",
            "/usr/share/doc/shrinkd/README.md",
        ] {
            #expect((try? Files.status(of: stage.root + path)) != nil, "\(path) is not installed")
        }
        let script = """
            # Nothing of the toolchain is left.
            toolchain=$(dirname "$(dirname "$(readlink -f "\(swiftPath)")")")
            [ "$toolchain" = / ] || [ "$toolchain" = /usr ] || mount -t tmpfs none "$toolchain"
            command -v swift && echo swift-is-there || :
            for program in shrinkd backupfs shrinkctl; do env -i /usr/bin/$program --version; done
            head -c 4000000 /dev/urandom >/tmp/content
            echo 'low-watermark = 1M' >>/etc/shrinkd/shrinkd.conf
            systemctl preset backupfs shrinkd shrinkd.socket shrinkd-pressure.socket 2>/dev/null
            systemctl start shrinkd
            systemctl is-active backupfs shrinkd shrinkd.socket shrinkd-pressure.socket
            for unit in backupfs shrinkd; do echo $unit runs-as $(ps -o user= -p "$(systemctl show -p MainPID --value $unit)"); done
            # Outside of the units, as somebody who is nobody.
            as_user() { setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; }
            as_user shrinkctl pool create pool --size 16M >/dev/null
            id=$(as_user shrinkctl object create pool object --size 4M --from /tmp/content --json | tr -d ' ' | sed -n 's/^"id":\\([0-9]*\\),*$/\\1/p')
            as_user shrinkctl shrink --all >/dev/null
            echo pages-seen-outside $(as_user timeout 20 ls /run/shrinkd/backup/objects/$id/pages | wc -l)
            # Told every few seconds.
            until systemctl status shrinkd | grep -o 'Status: "1 pools, 1 objects; .* out; pressure: [a-z-]*"'; do sleep 0.2; done
            systemctl kill -s KILL backupfs
            as_user shrinkctl recover --all >/dev/null
            as_user shrinkctl object read "$id" | head -c 4000000 | cmp - /tmp/content && echo content-is-whole
            echo 'low-watermark = 2M' >/etc/shrinkd/shrinkd.conf.d/a.conf
            systemctl reload shrinkd
            journalctl -f -n all -u shrinkd -o cat | grep -m 1 -o 'Configuration read again.*changed=1'
            echo 'no-such-key = 1' >/etc/shrinkd/shrinkd.conf.d/b.conf
            systemctl reload shrinkd
            journalctl -f -n all -u shrinkd -o cat | grep -m 1 -o "b.conf:1: there is no key 'no-such-key'"
            systemctl is-active shrinkd
            # Entries have fields.
            until journalctl -u shrinkd SHRINKD_KEY=low-watermark PRIORITY=5 -o cat | grep -q 'counts from now on'; do sleep 0.2; done
            echo found-by-field
            systemctl stop shrinkd backupfs
            grep -c /run/shrinkd/backup /proc/self/mountinfo || echo nothing-mounted
            systemctl show -p Result backupfs shrinkd
            """
        guard let run = try stage.boot(script, lacking: "a release is not started beside systemd", seconds: 120) else { return }
        #expect(run.ending == .exited(0), "\(run.said)")
        #expect(!run.said.contains("swift-is-there"))
        for line in [
            "active\nactive\nactive\nactive\n", "backupfs runs-as shrinkd\n", "shrinkd runs-as shrinkd\n", "pages-seen-outside 977\n",
            "content-is-whole\n", "changed=1", "found-by-field\n", "b.conf:1: there is no key 'no-such-key'\nactive\n", "nothing-mounted\n",
            "Result=success\n\nResult=success\n",
        ] {
            #expect(run.said.contains(line), "\(line) is missing in: \(run.said)")
        }
    }

    /// The sockets are enough: the first client, and the first service that wants to hear of pressure, start the daemon.
    @Test func aClientStartsTheDaemonAndTheDevicesAreTheGroups() throws {
        let stage = try InstalledStage.ofThisBuild()
        let script = """
            mknod -m 600 /dev/userfaultfd c 10 257
            systemd-tmpfiles --create shrinkd.conf
            stat -c 'userfaultfd %a %U:%G' /dev/userfaultfd
            systemctl start shrinkd.socket shrinkd-pressure.socket
            stat -c 'control %a' /run/shrinkd/io.shrinkd
            systemctl is-active shrinkd || :
            setpriv --reuid=65534 --regid=65534 --clear-groups shrinkctl status | grep '^shrinkd '
            systemctl is-active shrinkd
            # Whoever is told to watch this socket connects to it; `tell` counts who has.
            coproc listener { perl -MIO::Socket::UNIX -e \
                '$s = IO::Socket::UNIX->new(Peer => "/run/shrinkd/pressure") or die; sysread($s, $b, 1); print "heard\\n"; STDOUT->flush(); sleep 60'; }
            until shrinkctl tell | grep -q '^[1-9]'; do sleep 0.1; done
            read -r -t 30 word <&${listener[0]}; echo "a service $word"
            systemctl stop shrinkd.socket shrinkd-pressure.socket shrinkd backupfs
            """
        guard let run = try stage.boot(script, lacking: "socket activation is not tested") else { return }
        #expect(run.ending == .exited(0), "\(run.said)")
        for line in [
            "userfaultfd 660 root:shrinkd\n", "control 666\n", "inactive\n", "shrinkd 0.1.0: 0 pools, 0 objects\nactive\n",
            "a service heard\n",
        ] {
            #expect(run.said.contains(line), "\(line) is missing in: \(run.said)")
        }
    }

    /// Raw, so that the kernel reads and writes the store's files itself; in a memory tier with a mount unit of its own.
    @Test func passthroughWorksInTheSandboxAndTheMemoryTierIsAMount() throws {
        let stage = try InstalledStage.ofThisBuild()
        let script = """
            systemctl start backupfs
            journalctl --sync
            journalctl -u backupfs -o cat | grep -o 'layout=packed' | head -1
            systemctl stop backupfs
            mkdir -p /etc/systemd/system/backupfs.service.d
            printf '[Unit]\\nRequiresMountsFor=/var/lib/shrinkd/memory\\n' >/etc/systemd/system/backupfs.service.d/memory.conf
            printf 'store = /var/lib/shrinkd/memory\\nlayout = raw\\n' >>/etc/shrinkd/shrinkd.conf
            systemctl daemon-reload
            systemctl start backupfs
            findmnt -n -o FSTYPE /var/lib/shrinkd/memory
            stat -c 'tier %a %U' /var/lib/shrinkd/memory
            journalctl -f -n all -u backupfs -o cat | grep -m 1 -o 'Serving.* layout=raw .*passthrough=yes'
            systemctl show -p User --value backupfs
            mkdir /run/shrinkd/backup/objects/1
            head -c 1000000 /dev/urandom >/tmp/content
            dd if=/tmp/content of=/run/shrinkd/backup/objects/1/data bs=64k conv=notrunc 2>/dev/null
            cmp -n 1000000 /tmp/content /run/shrinkd/backup/objects/1/data && echo the-same
            systemctl stop backupfs
            """
        guard let run = try stage.boot(script, lacking: "passthrough in the sandbox is not tested") else { return }
        #expect(run.ending == .exited(0), "\(run.said)")
        for line in ["layout=packed\n", "tmpfs\n", "tier 700 shrinkd\n", "passthrough=yes\n", "the-same\n"] {
            #expect(run.said.contains(line), "\(line) is missing in: \(run.said)")
        }
    }

    private var swiftPath: String {
        for directory in (ThisProcess.environment("PATH") ?? "").split(separator: ":") {
            let path = String(directory) + "/swift"
            if (try? Files.status(of: path)) != nil { return path }
        }
        return "/usr/bin/true"
    }
}
