import ShrinkLinux
import ShrinkPressure
import SystemPackage
import TestSupport
import Testing

/// Gives back what it is asked for, and says in a fixture that there is more memory then.
final class FakePools: PressureTarget {
    private struct State {
        var resident: Int
        var asked: [Int] = []
    }
    private let state: Monitor<State>
    private let freed: @Sendable (Int) -> Void

    init(_ resident: Int, freed: @escaping @Sendable (Int) -> Void = { _ in }) {
        state = Monitor(State(resident: resident))
        self.freed = freed
    }

    var residentBytes: Int { state.withLock { $0.resident } }
    var reclaimableBytes: Int { residentBytes }
    var isStoreInMemory: Bool { true }
    var asked: [Int] { state.withLock { $0.asked } }

    func reclaim(_ bytes: Int, isWanted: @escaping @Sendable () -> Bool) -> PressureOutcome {
        let out = state.withLock { state in
            let out = min(bytes, state.resident)
            state.resident -= out
            state.asked.append(bytes)
            return out
        }
        freed(out)
        state.notifyAll()
        var outcome = PressureOutcome()
        (outcome.freedBytes, outcome.netFreedBytes) = (out, out)
        return outcome
    }

    func waitUntilAsked() -> Bool {
        state.wait(deadline: MonotonicTime.now().advanced(milliseconds: 30_000)) { $0.asked.isEmpty ? nil : true } ?? false
    }
}

/// A machine in a directory.
struct FakeMachine {
    let scratch: ScratchDirectory
    var memoryInfo: String { scratch.file("meminfo") }

    init(availableMebibytes: Int) throws {
        scratch = try ScratchDirectory()
        try set(availableMebibytes: availableMebibytes)
        try Files.makeDirectory(scratch.file("pressure"))
        for name in ["memory", "io"] {
            let text = "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
            try Files.replaceContents(of: scratch.file("pressure/" + name), with: Array(text.utf8))
        }
    }

    func set(availableMebibytes: Int) throws {
        let text = "MemTotal: \(1000 << 10) kB\nMemFree: 1 kB\nMemAvailable: \(availableMebibytes << 10) kB\nSwapFree: 0 kB\n"
        try Files.replaceContents(of: memoryInfo, with: Array(text.utf8))
    }

    var places: PressurePlaces {
        var places = PressurePlaces()
        places.memoryInfo = memoryInfo
        places.stalls = scratch.file("pressure")
        return places
    }
}

func lines(of journal: PressureJournal, until isEnough: ([PressureDecision]) -> Bool) -> [PressureDecision] {
    let limit = MonotonicTime.now().advanced(milliseconds: 30_000)
    while !isEnough(journal.entries), MonotonicTime.now() < limit { _ = try? waitReadable(-1, timeoutMilliseconds: 5) }
    return journal.entries
}

@Suite(.serialized) struct SourceTests {
    @Test func whatIsBelowTheLowWatermarkIsRaisedToTheHigh() throws {
        let machine = try FakeMachine(availableMebibytes: 40)
        let available = Monitor(40 << 20)
        let pools = FakePools(500 << 20) { freed in
            let now = available.withLock { available in
                available += freed
                return available
            }
            try? machine.set(availableMebibytes: now >> 20)
        }
        let monitor = try PressureMonitor(PressureSettings(), machine.places, target: pools)
        defer { monitor.stop() }
        let entries = lines(of: monitor.journal) { $0.last?.reason == .calm && $0.count > 1 }
        // 5 and 8 percent of 1000 MiB.
        #expect(available.withLock { $0 } >= 79 << 20, "\(entries)")
        #expect(available.withLock { $0 } < 120 << 20, "\(entries)")
        #expect(entries.first?.reason == .belowLow && entries.last?.reason == .calm, "\(entries)")
        #expect(monitor.status.steps == pools.asked.count && monitor.status.freedBytes == 500 << 20 - pools.residentBytes)
    }

    @Test func aDryRunTellsAndDoesNothing() throws {
        let machine = try FakeMachine(availableMebibytes: 10)
        let pools = FakePools(500 << 20)
        var settings = PressureSettings()
        settings.mode = .dryRun
        let monitor = try PressureMonitor(settings, machine.places, target: pools)
        let entries = lines(of: monitor.journal) { $0.contains { $0.action == .wouldReclaim } }
        #expect(entries.contains { $0.action == .wouldReclaim && $0.goalBytes > 0 } && pools.asked.isEmpty)
        // Switched on while it runs.
        settings.mode = .on
        monitor.change(to: settings)
        #expect(pools.waitUntilAsked())
        monitor.stop()
    }

    @Test func aCgroupOfVersionTwoAndItsAncestorsCount() throws {
        let scratch = try ScratchDirectory()
        try Files.makeDirectories(scratch.file("cgroup/a/b"))
        func write(_ path: String, _ text: String) throws {
            try Files.replaceContents(of: scratch.file(path), with: Array((text + "\n").utf8))
        }
        try write("membership", "0::/a/b")
        for group in ["a", "a/b"] { try write("cgroup/\(group)/memory.stat", "anon 1\ninactive_file 0\nactive_file 7") }
        try write("cgroup/a/memory.current", "\(95 << 20)")
        try write("cgroup/a/memory.max", "\(100 << 20)")
        try write("cgroup/a/memory.high", "max")
        try write("cgroup/a/b/memory.current", "\(10 << 20)")
        try write("cgroup/a/b/memory.max", "max")
        try write("cgroup/a/b/memory.high", "max")
        let group = MemoryCgroup.ofThisProcess(mount: scratch.file("cgroup"), membership: scratch.file("membership"))
        let machine = try FakeMachine(availableMebibytes: 900)
        var places = machine.places
        places.cgroup = group
        let pools = FakePools(500 << 20)
        var settings = PressureSettings()
        (settings.low, settings.high) = (.percent(10), .percent(20))
        let monitor = try PressureMonitor(settings, places, target: pools)
        defer { monitor.stop() }
        #expect(pools.waitUntilAsked())
        let entries = lines(of: monitor.journal) { !$0.isEmpty }
        #expect(entries.contains { $0.text.contains("cgroup \(scratch.file("cgroup/a")) has 5 MiB") })
    }

    @Test func withoutStallInformationTheRestWorksAndItIsSaid() throws {
        let machine = try FakeMachine(availableMebibytes: 10)
        var places = machine.places
        places.stalls = machine.scratch.file("nowhere")
        let pools = FakePools(500 << 20)
        let monitor = try PressureMonitor(PressureSettings(), places, target: pools)
        defer { monitor.stop() }
        #expect(pools.waitUntilAsked())
        let lack = monitor.status.features.first { $0.name == "pressure_stall_information" }?.lack
        #expect(lack?.contains("psi=1") == true, "\(lack ?? "nil")")
    }
}

/// `MEMORY_PRESSURE_WATCH` and `MEMORY_PRESSURE_WRITE`, each kind that the contract names.
@Suite(.serialized) struct WatchContractTests {
    @Test func theVariablesAreReadAsTheContractSays() throws {
        #expect(try WatchContract(watch: nil, write: nil) == .unset)
        #expect(try WatchContract(watch: "", write: nil) == .unset)
        #expect(try WatchContract(watch: "/dev/null", write: "AA==") == .disabled)
        #expect(try WatchContract(watch: "/a", write: nil) == .watch(path: "/a", write: []))
        // Zero bytes are allowed: PSI wants one.
        #expect(try WatchContract(watch: "/a", write: "c29tZSAxIDIA") == .watch(path: "/a", write: Array("some 1 2".utf8) + [0]))
        #expect(try WatchContract(watch: "/a", write: "/+8=") == .watch(path: "/a", write: [0xff, 0xef]))
        for wrong in ["A", "AAA", "A===", "AA=A", "AA AA===", "%%%%"] {
            #expect(throws: PressureSourceError.self) { try WatchContract(watch: "/a", write: wrong) }
        }
        #expect(throws: PressureSourceError.self) { try WatchContract(watch: "relative", write: nil) }
    }

    private func monitor(_ contract: WatchContract, _ pools: FakePools, _ machine: FakeMachine) throws -> PressureMonitor {
        var places = machine.places
        places.contract = .success(contract)
        return try PressureMonitor(PressureSettings(), places, target: pools)
    }

    private func lack(_ monitor: PressureMonitor) -> String? {
        monitor.status.features.first { $0.name == "memory_pressure_watch" }?.lack
    }

    @Test func aFifoIsReadAndThrownAway() throws {
        let machine = try FakeMachine(availableMebibytes: 900)
        let path = machine.scratch.file("fifo")
        _ = try runProgram("/usr/bin/mkfifo", [path])
        // Held open for reading too, so that opening it for writing does not wait.
        let writer = try Files.open(path, .readWrite)
        let pools = FakePools(100 << 20)
        let monitor = try monitor(.watch(path: path, write: []), pools, machine)
        defer { monitor.stop() }
        #expect(lack(monitor) == nil)
        #expect(pools.asked.isEmpty)
        let number = writer.number
        try Array("anything".utf8).withBytes { (bytes) throws(Errno) in try Streams.write(number, bytes) }
        #expect(pools.waitUntilAsked())
        let entries = lines(of: monitor.journal) { $0.contains { $0.reason == .told } }
        #expect(entries.contains { $0.reason == .told && $0.action == .reclaim })
        withExtendedLifetime(writer) {}
    }

    @Test func aSocketIsConnectedToWrittenToAndConnectedToAgain() throws {
        let machine = try FakeMachine(availableMebibytes: 900)
        let path = machine.scratch.file("socket")
        let listener = try UnixSocket.listen(path)
        let pools = FakePools(100 << 20)
        let monitor = try monitor(.watch(path: path, write: [1, 0, 2]), pools, machine)
        defer { monitor.stop() }
        let listening = listener.number
        for round in 0..<2 {
            #expect(try waitReadable(listening, timeoutMilliseconds: 30_000), "no connection in round \(round)")
            guard let end = try UnixSocket.accept(listening, nonBlocking: false) else { return }
            let number = end.number
            var got = [UInt8](repeating: 9, count: 8)
            let count = try got.withMutableBytes { (bytes) throws(Errno) in try Streams.read(number, into: bytes) }
            #expect(Array(got[..<count]) == [1, 0, 2])
            let before = pools.asked.count
            try [UInt8(7)].withBytes { (bytes) throws(Errno) in try Streams.write(number, bytes) }
            let told = lines(of: monitor.journal) { _ in pools.asked.count > before }
            #expect(pools.asked.count > before, "\(told)")
            // The end of this round closes it: the monitor has to come again.
        }
    }

    /// The machine's own PSI, made to stall by a process that reads more than its cgroup may cache.
    @Test func aRegularFileIsPolledForPriority() throws {
        guard (try? Files.status(of: "/proc/pressure/memory")) != nil else {
            return Machine.lacks("pressure stall information (/proc/pressure)", so: "PSI triggers are not tested")
        }
        guard Machine.isRoot, let group = try? MemoryGroup.make("-psi") else {
            return Machine.lacks("a writable memory cgroup (version 1)", so: "PSI triggers are not tested")
        }
        defer { group.remove() }
        let machine = try FakeMachine(availableMebibytes: 900)
        let pools = FakePools(100 << 20)
        let monitor = try monitor(
            .watch(path: "/proc/pressure/memory", write: Array("some 500 2000000".utf8) + [0]), pools, machine)
        defer { monitor.stop() }
        #expect(lack(monitor) == nil)
        try group.limit(8 << 20)
        let file = machine.scratch.file("large")
        let script = "echo $$ >\(group.path)/cgroup.procs; exec dd if=/dev/zero of=\(file) bs=1M count=192 conv=fsync 2>/dev/null"
        for _ in 0..<5 where pools.asked.isEmpty { _ = try runProgram("/bin/sh", ["-c", script], seconds: 60) }
        #expect(pools.waitUntilAsked())
        let entries = lines(of: monitor.journal) { $0.contains { $0.reason == .told } }
        #expect(entries.contains { $0.reason == .told })
    }

    @Test func devNullTurnsWatchingOff() throws {
        let machine = try FakeMachine(availableMebibytes: 900)
        let monitor = try monitor(.disabled, FakePools(0), machine)
        defer { monitor.stop() }
        #expect(
            monitor.status.features.filter { $0.lack?.contains("/dev/null") == true }.map(\.name) == [
                "pressure_trigger", "memory_pressure_watch",
            ])
    }

    @Test func whatCannotBeWatchedIsSaid() throws {
        let machine = try FakeMachine(availableMebibytes: 900)
        for path in ["/proc/nothing-here", "/usr", machine.memoryInfo] {
            let monitor = try monitor(.watch(path: path, write: []), FakePools(0), machine)
            #expect(lack(monitor)?.contains(path) == true, "\(lack(monitor) ?? "nil")")
            monitor.stop()
        }
    }
}

/// The socket that other services are pointed at.
@Suite(.serialized) struct RelayTests {
    @Test func othersHearOfPressureByTheSameContract() throws {
        let machine = try FakeMachine(availableMebibytes: 900)
        let path = machine.scratch.file("relay")
        let listener = try UnixSocket.listen(path)
        let ours = FakePools(100 << 20)
        let giver = try PressureMonitor(PressureSettings(), machine.places, target: ours, relay: listener)
        defer { giver.stop() }

        // The other side is a monitor as well: a service that keeps the contract to the letter.
        let theirs = FakePools(100 << 20)
        let other = try FakeMachine(availableMebibytes: 900)
        var places = other.places
        places.contract = .success(.watch(path: path, write: Array("hello".utf8)))
        let taker = try PressureMonitor(PressureSettings(), places, target: theirs)
        defer { taker.stop() }
        _ = lines(of: giver.journal) { _ in giver.status.listeners == 1 }
        #expect(giver.status.listeners == 1)
        #expect(theirs.asked.isEmpty)
        // On request …
        #expect(giver.tellListeners() == 1)
        #expect(theirs.waitUntilAsked())
        let before = theirs.asked.count
        // … and when memory gets short here.
        try machine.set(availableMebibytes: 30)
        #expect(ours.waitUntilAsked())
        _ = lines(of: taker.journal) { _ in theirs.asked.count > before }
        #expect(theirs.asked.count > before)
    }
}
