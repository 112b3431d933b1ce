import Glibc
import ShrinkLinux
import ShrinkPressure
import SystemPackage
import TestSupport
import Testing

/// A version 2 cgroup whose one process really waits for memory: it reads a file again and again that is larger than what it may have.
///
/// The kernel counts stalls by version 2 groups wherever the memory is limited, so a machine with the controller in version 1 can show it too.
private final class StallingGroup {
    let group: String
    private let memory: MemoryGroup
    private let scratch: ScratchDirectory
    private var reader: ChildProcess?

    /// Nil, and it is said, where the machine can't.
    init?() throws {
        guard Machine.isRoot, let mount = try Mounts.all().first(where: { $0.type == "cgroup2" }) else {
            Machine.lacks("a mounted version 2 cgroup hierarchy", so: "its pressure trigger is tested by fixture only")
            return nil
        }
        group = "\(mount.path)/shrinkd-test.\(ThisProcess.processID)-stall"
        scratch = try ScratchDirectory()
        try? Files.removeDirectory(group)
        guard (try? Files.makeDirectory(group, mode: 0o755)) != nil, (try? Files.status(of: group + "/memory.pressure")) != nil,
            let memory = try? MemoryGroup.make("-stall")
        else {
            try? Files.removeDirectory(group)
            Machine.lacks("pressure figures in version 2 cgroups beside memory limits", so: "their trigger is tested by fixture only")
            return nil
        }
        self.memory = memory
        try memory.limit(24 << 20)
        let directory = try Files.open(scratch.path, [.readOnly, .directory])
        guard try FileSystem(of: directory.number).kind == .other else {
            Machine.lacks("a scratch directory on a disk", so: "real stalls are not made, and their trigger is tested by fixture only")
            return nil
        }
    }

    deinit {
        reader?.signal(SIGKILL)
        _ = try? reader?.wait()
        memory.remove()
        // It is empty as soon as the kernel has let the reader go.
        for _ in 0..<1000 where rmdir(group) != 0 && errno == EBUSY { usleep(10_000) }
    }

    var pressureFile: String { group + "/memory.pressure" }

    /// From here on it waits for memory much of the time.
    func stall() throws {
        let script = """
            echo $$ > '\(group)/cgroup.procs'; echo $$ > '\(memory.path)/cgroup.procs'
            head -c 33554432 /dev/urandom > '\(scratch.file("data"))'; sync '\(scratch.file("data"))'
            while :; do cat '\(scratch.file("data"))' > /dev/null; done
            """
        reader = try ChildProcess("/bin/sh", ["-c", script], environment: ["PATH=/usr/bin:/bin"])
    }
}

/// What the kernel really tells of a group's stalls, with its own trigger.
@Suite(.serialized) struct RealStallTests {
    private var settings: PressureSettings {
        var settings = PressureSettings()
        // A millisecond in a second: a test, not a policy.
        settings.stallMilliseconds = 1
        return settings
    }

    @Test func theTriggerOfTheOwnVersionTwoCgroupFires() throws {
        guard let stalling = try StallingGroup() else { return }
        // The daemon's group as it would be: limits by fixture, the pressure file is the kernel's.
        let scratch = try ScratchDirectory()
        try Files.makeDirectories(scratch.file("cgroup/a"))
        for (name, text) in [
            ("membership", "0::/a\n"), ("cgroup/a/memory.current", "1048576\n"), ("cgroup/a/memory.max", "max\n"),
            ("cgroup/a/memory.high", "max\n"), ("cgroup/a/memory.stat", "anon 1\ninactive_file 0\nactive_file 0\n"),
        ] {
            try Files.replaceContents(of: scratch.file(name), with: Array(text.utf8))
        }
        try #require(symlink(stalling.pressureFile, scratch.file("cgroup/a/memory.pressure")) == 0)
        let machine = try FakeMachine(availableMebibytes: 900)
        var places = machine.places
        places.cgroup = MemoryCgroup.ofThisProcess(mount: scratch.file("cgroup"), membership: scratch.file("membership"))
        try expectReclaim(places, stalling)
    }

    @Test func theFileThatSystemdNamesFires() throws {
        guard let stalling = try StallingGroup() else { return }
        let machine = try FakeMachine(availableMebibytes: 900)
        var places = machine.places
        // As systemd passes it: the file of the unit's group, and what to write to it.
        places.contract = .success(.watch(path: stalling.pressureFile, write: Array("some 1000 2000000".utf8) + [0]))
        try expectReclaim(places, stalling)
    }

    private func expectReclaim(_ places: PressurePlaces, _ stalling: StallingGroup) throws {
        let pools = FakePools(500 << 20)
        let monitor = try PressureMonitor(settings, places, target: pools)
        defer { monitor.stop() }
        #expect(pools.asked.isEmpty && monitor.journal.entries.allSatisfy { $0.reason != .told }, "nothing stalls yet")
        try stalling.stall()
        let limit = MonotonicTime.now().advanced(milliseconds: 90_000)
        var told: [PressureDecision] = []
        while told.isEmpty, MonotonicTime.now() < limit {
            told = monitor.journal.entries.filter { $0.reason == .told && $0.action == .reclaim }
            usleep(5000)
        }
        let figures = String(decoding: try Files.contents(of: stalling.pressureFile), as: UTF8.self)
        #expect(told.first != nil, "\(figures)")
        #expect(pools.waitUntilAsked())
    }
}
