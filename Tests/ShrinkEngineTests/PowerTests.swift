import Glibc
import ShrinkEngine
import ShrinkLinux
import Synchronization
import SystemPackage
import TestSupport
import Testing

@Suite struct PowerTests {
    // MARK: Simulated

    @Test func aSleepingDeviceIsWokenOnlyForABackgroundCaller() throws {
        let gate = SimulatedPowerGate()
        let tmpfs = try ScratchMemoryFileSystem(sizeBytes: 64 << 20)
        try Files.makeDirectory(tmpfs.path + "/awake")
        try Files.makeDirectory(tmpfs.path + "/asleep")
        let engine = try Engine(backup: try BackupDirectory(path: tmpfs.path + "/awake"), logger: quiet)
        let sleepy = GatedBackup(try BackupDirectory(path: tmpfs.path + "/asleep"), gate)
        let asleep = try engine.createPool(name: "asleep", owner: 0, size: .mebibytes(1), backup: sleepy).id
        let awake = try engine.createPool(name: "awake", owner: 0, size: .mebibytes(1)).id
        for pool in [asleep, awake] {
            let file = try engine.poolDescriptor(pool)
            let memory = try MappedMemory(sharing: file.number, count: 1 << 20)
            for _ in 0..<2 {
                let object = try engine.createObject(in: pool, name: "o", size: ByteCount(8 * basePageSize))
                for page in 0..<8 {
                    memory.base.storeBytes(of: 7, toByteOffset: object.offsetBytes.rawValue + page * basePageSize, as: UInt8.self)
                }
                try engine.unpin(object.id)
            }
        }
        // Direct: the sleeping one is passed over, woken for the next time; the other one goes.
        guard case .scanned(let direct) = engine.shrinker.scan(goalPages: 1000, .direct) else { return #expect(Bool(false)) }
        #expect(direct.freedBytes == ByteCount(16 * basePageSize) && direct.deferredObjects == 2 && direct.failure == nil)
        #expect(try engine.pool(asleep).pages.backedUp == 0)
        #expect(gate.counts == SimulatedPowerGate.Counts(holds: 0, releases: 0, wakesLater: 1))
        // By now it is awake, and its delay has not passed: a direct caller may use it.
        guard case .scanned(let retry) = engine.shrinker.scan(goalPages: 8, .direct) else { return #expect(Bool(false)) }
        #expect(retry.freedBytes == ByteCount(8 * basePageSize) && retry.deferredObjects == 0)
        gate.sleep()
        guard case .scanned(let background) = engine.shrinker.scan(goalPages: 1000, .background) else { return #expect(Bool(false)) }
        #expect(background.freedBytes == ByteCount(8 * basePageSize))
        #expect(gate.counts == SimulatedPowerGate.Counts(holds: 2, releases: 2, wakesLater: 1), "each hold is released")
    }

    /// What needs no device goes while it sleeps.
    @Test func purgingNeedsNoDevice() throws {
        let gate = SimulatedPowerGate()
        let tmpfs = try ScratchMemoryFileSystem(sizeBytes: 16 << 20)
        let engine = try Engine(backup: GatedBackup(try BackupDirectory(path: tmpfs.path), gate), logger: quiet)
        let pool = try engine.createPool(name: "p", owner: 0, size: .mebibytes(1)).id
        let memory = try MappedMemory(sharing: try engine.poolDescriptor(pool).release(), count: 1 << 20)
        let object = try engine.createObject(in: pool, name: "o", size: ByteCount(8 * basePageSize))
        for page in 0..<8 { memory.base.storeBytes(of: 7, toByteOffset: object.offsetBytes.rawValue + page * basePageSize, as: UInt8.self) }
        try engine.setPurgeable(object.id, true)
        try engine.unpin(object.id)
        #expect(engine.shrink(.bytes(ByteCount(8 * basePageSize))).purgedPages == 8)
        #expect(gate.counts == SimulatedPowerGate.Counts())
    }

    // MARK: sysfs, on a fixture tree

    /// As sysfs has it: links by device number to a disk and its partition, whose device is beside them.
    private func fixture(_ directory: ScratchDirectory, status: String, control: String = "auto") throws {
        let power = directory.file("devices/scsi/block/sda/device/power")
        try Files.makeDirectories(power)
        try Files.makeDirectories(directory.file("devices/scsi/block/sda/sda1"))
        try Files.makeDirectories(directory.file("dev/block"))
        for (number, name) in [("8:0", "sda"), ("8:1", "sda/sda1")] {
            let link = directory.file("dev/block/" + number)
            guard symlink("../../devices/scsi/block/" + name, link) == 0 else { throw Errno.ioError }
        }
        for (name, text) in [("control", control + "\n"), ("runtime_status", status + "\n"), ("autosuspend_delay_ms", "1500\n")] {
            try Files.replaceContents(of: power + "/" + name, with: Array(text.utf8))
        }
    }

    private func text(_ path: String) throws -> String { String(decoding: try Files.contents(of: path), as: UTF8.self) }

    @Test func aDeviceIsHeldAwakeAndLetGo() throws {
        let directory = try ScratchDirectory()
        try fixture(directory, status: "active")
        guard let gate = SysfsPowerGate(major: 8, minor: 0, sysfs: directory.path) else { return #expect(Bool(false), "no gate") }
        #expect(gate.isAwake && gate.autosuspendDelayMilliseconds == 1500)
        let control = directory.file("dev/block/8:0/device/power/control")
        #expect(gate.hold())
        #expect(gate.hold())
        #expect(try text(control).hasPrefix("on"))
        gate.release()
        #expect(try text(control).hasPrefix("on"), "still held once")
        gate.release()
        #expect(try text(control).hasPrefix("auto"))
    }

    @Test func aSleepingDeviceIsWaitedForAndOneThatDoesNotWakeIsRefused() throws {
        let directory = try ScratchDirectory()
        try fixture(directory, status: "suspended")
        let power = directory.file("dev/block/8:0/device/power")
        guard let gate = SysfsPowerGate(major: 8, minor: 0, sysfs: directory.path) else { return #expect(Bool(false), "no gate") }
        try withDedicatedThreads { threads in
            // The kernel's part: "on" resumes the device.
            threads.start("kernel") {
                while (try? Files.contents(of: power + "/control"))?.first != UInt8(ascii: "o") {}
                try? Files.replaceContents(of: power + "/runtime_status", with: Array("active\n".utf8))
            }
            #expect(!gate.isAwake)
            #expect(gate.hold())
            gate.release()
        }
        try Files.replaceContents(of: power + "/runtime_status", with: Array("error\n".utf8))
        guard let broken = SysfsPowerGate(major: 8, minor: 0, sysfs: directory.path, wakeTimeoutMilliseconds: 20) else {
            return #expect(Bool(false), "no gate")
        }
        #expect(!broken.hold())
        #expect(try text(power + "/control").hasPrefix("auto"), "what could not be woken is let go")
    }

    @Test func aPartitionsDeviceIsItsDisks() throws {
        let directory = try ScratchDirectory()
        try fixture(directory, status: "active")
        guard let gate = SysfsPowerGate(major: 8, minor: 1, sysfs: directory.path) else { return #expect(Bool(false), "no gate") }
        #expect(gate.hold())
        #expect(try text(directory.file("devices/scsi/block/sda/device/power/control")).hasPrefix("on"))
        gate.release()
    }

    /// A namespace's device is its controller, which has no power management of its own: the PCI device above has.
    @Test func anNVMeDiskIsAsAwakeAsItsPCIDevice() throws {
        let directory = try ScratchDirectory()
        let pci = directory.file("devices/pci0000:00/0000:00:04.0")
        let controller = pci + "/nvme/nvme0"
        try Files.makeDirectories(controller + "/nvme0n1/nvme0n1p1")
        try Files.makeDirectories(directory.file("dev/block"))
        for (link, target) in [
            ("\(controller)/device", "../../../0000:00:04.0"), ("\(controller)/nvme0n1/device", "../../nvme0"),
            (directory.file("dev/block/259:0"), "../../devices/pci0000:00/0000:00:04.0/nvme/nvme0/nvme0n1"),
            (directory.file("dev/block/259:1"), "../../devices/pci0000:00/0000:00:04.0/nvme/nvme0/nvme0n1/nvme0n1p1"),
        ] {
            guard symlink(target, link) == 0 else { throw Errno.ioError }
        }
        for (device, status) in [(controller, "unsupported"), (pci, "suspended")] {
            try Files.makeDirectories(device + "/power")
            for (name, text) in [("control", "auto\n"), ("runtime_status", status + "\n")] {
                try Files.replaceContents(of: device + "/power/" + name, with: Array(text.utf8))
            }
        }
        for minor in 0...1 {
            guard let gate = SysfsPowerGate(major: 259, minor: minor, sysfs: directory.path, wakeTimeoutMilliseconds: 1) else {
                return #expect(Bool(false), "no gate")
            }
            #expect(!gate.isAwake)
            try Files.replaceContents(of: pci + "/power/runtime_status", with: Array("active\n".utf8))
            #expect(gate.isAwake && gate.hold())
            #expect(try text(pci + "/power/control").hasPrefix("on"))
            gate.release()
            #expect(try text(pci + "/power/control").hasPrefix("auto"))
            try Files.replaceContents(of: pci + "/power/runtime_status", with: Array("suspended\n".utf8))
        }
    }

    /// Killed while it holds the device: the next one lets it sleep again. A device that somebody else set to stay awake stays so.
    @Test func aDeviceThatAnEngineThatDiedHeldMaySleepAgain() throws {
        let directory = try ScratchDirectory()
        try fixture(directory, status: "active")
        let control = directory.file("dev/block/8:0/device/power/control")
        let note = directory.file("power-held")
        func gate() throws -> SysfsPowerGate {
            try #require(SysfsPowerGate(major: 8, minor: 0, sysfs: directory.path, note: note))
        }
        // Its end is not seen: it stays in memory, as a process that is killed runs no code.
        let dead = Unmanaged.passRetained(try gate())
        defer { dead.release() }
        #expect(dead.takeUnretainedValue().hold())
        #expect(try text(control).hasPrefix("on"))
        // As the kernel shows it.
        try Files.replaceContents(of: control, with: Array("on\n".utf8))
        var next: SysfsPowerGate? = try gate()
        #expect(try text(control).hasPrefix("auto"), "left behind, and let go")
        #expect(next?.hold() == true)
        #expect(try text(control).hasPrefix("on"))
        next?.release()
        #expect(try text(control).hasPrefix("auto"), "managed on")
        next = nil
        #expect((try? Files.contents(of: note)) == nil, "an end that is an end leaves no note")
        try Files.replaceContents(of: control, with: Array("on\n".utf8))
        next = try gate()
        #expect(next?.hold() == true)
        next?.release()
        #expect(try text(control).hasPrefix("on"), "somebody else's wish")
        // And a note of another boot, or of another device, says nothing of this one.
        try Files.replaceContents(of: note, with: Array("8:0 of another boot\n".utf8))
        _ = try gate()
        #expect(try text(control).hasPrefix("on"))
    }

    /// Whoever set it so wants it so.
    @Test func aDeviceThatIsSetToStayAwakeIsLeftSo() throws {
        let directory = try ScratchDirectory()
        try fixture(directory, status: "active", control: "on")
        guard let gate = SysfsPowerGate(major: 8, minor: 0, sysfs: directory.path) else { return #expect(Bool(false), "no gate") }
        #expect(gate.hold())
        gate.release()
        #expect(try text(directory.file("dev/block/8:0/device/power/control")) == "on\n")
    }

    /// While somebody holds it, the last word is "on", whoever let go at the same time.
    @Test func whoHoldsTheDeviceIsNotLetDownByWhoLetsGo() throws {
        let directory = try ScratchDirectory()
        try fixture(directory, status: "active")
        let control = directory.file("dev/block/8:0/device/power/control")
        guard let gate = SysfsPowerGate(major: 8, minor: 0, sysfs: directory.path) else { return #expect(Bool(false), "no gate") }
        let letDown = Atomic(0)
        try withDedicatedThreads { threads in
            for worker in 0..<2 {
                threads.start("holder-\(worker)") {
                    for _ in 0..<2000 where gate.hold() {
                        for _ in 0..<4 where (try? Files.contents(of: control))?.first != UInt8(ascii: "o") {
                            letDown.add(1, ordering: .relaxed)
                        }
                        gate.release()
                    }
                }
            }
        }
        #expect(letDown.load(ordering: .relaxed) == 0)
        #expect(try text(control).hasPrefix("auto"))
    }

    @Test func devicesWithoutPowerManagementHaveNoGate() throws {
        let directory = try ScratchDirectory()
        try fixture(directory, status: "unsupported")
        #expect(SysfsPowerGate(major: 8, minor: 0, sysfs: directory.path) == nil)
        #expect(SysfsPowerGate(major: 9, minor: 0, sysfs: directory.path) == nil)
    }
}

/// A device whose sleep is a flag.
private final class SimulatedPowerGate: PowerGate {
    struct Counts: Equatable {
        var holds = 0
        var releases = 0
        var wakesLater = 0
    }

    private let state = Monitor((isAwake: false, counts: Counts()))

    var isAwake: Bool { state.withLock { $0.isAwake } }
    var counts: Counts { state.withLock { $0.counts } }
    func sleep() { state.withLock { $0.isAwake = false } }

    func hold() -> Bool {
        state.withLock { state in
            state.isAwake = true
            state.counts.holds += 1
            return true
        }
    }

    func release() { state.withLock { $0.counts.releases += 1 } }

    func wakeLater() {
        state.withLock { state in
            state.isAwake = true
            state.counts.wakesLater += 1
        }
    }
}

/// A directory behind a gate.
private final class GatedBackup: Backup {
    private let directory: BackupDirectory
    let power: (any PowerGate)?

    init(_ directory: BackupDirectory, _ power: any PowerGate) {
        self.directory = directory
        self.power = power
    }

    func create(_ id: ObjectID, sizeBytes: Int, hints: BackupHints) throws(EngineError) {
        try directory.create(id, sizeBytes: sizeBytes, hints: hints)
    }
    func open(_ id: ObjectID) throws(EngineError) -> BackupFile { try directory.open(id) }
    func remove(_ id: ObjectID) throws(EngineError) { try directory.remove(id) }
    func nextID() throws(EngineError) -> ObjectID { try directory.nextID() }
    func status() -> BackupStatus { directory.status() }
    var availableBytes: UInt64 { directory.availableBytes }
    var isMemory: Bool { directory.isMemory }
    func objects() throws(EngineError) -> [ObjectID] { try directory.objects() }
}
