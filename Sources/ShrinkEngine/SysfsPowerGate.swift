import ShrinkLinux
import SystemPackage

/// Runtime power management of a block device as sysfs shows it (Documentation/ABI/testing/sysfs-devices-power): `control` "on" wakes it and keeps it awake,
/// "auto" lets it sleep after `autosuspend_delay_ms`.
///
/// A process that dies while it holds the device would leave it awake for good. So who names a file for it has a note there from the first hold to the gate's
/// end, and the next gate of the device that finds one of this boot lets the device sleep again.
public final class SysfsPowerGate: PowerGate {
    private struct State {
        var holds = 0
        var isWaking = false
        var isNoted = false
    }

    /// False if the device was set to stay awake before we came: then that is left so.
    private let mayEverSleep: Bool

    private let directory: String
    private let note: PowerNote?
    private let wakeTimeoutMilliseconds: UInt64
    private let state = Monitor(State())

    /// The gate of the device that a file system with this device number lies on, or nil where it has no runtime power management of its own.
    ///
    /// `note`: the file that tells the next gate that this one holds the device.
    public init?(major: Int, minor: Int, sysfs: String = "/sys", note: String? = nil, wakeTimeoutMilliseconds: UInt64 = 5000) {
        let block = "\(sysfs)/dev/block/\(major):\(minor)"
        // A partition's device is its disk's; a namespace of NVMe's is its controller, which leaves power to the PCI device above.
        let candidates = ["device", "../device", "device/device", "../device/device"].map { "\(block)/\($0)/power" }
        guard let directory = candidates.first(where: { Self.managesPower($0) }) else { return nil }
        self.directory = directory
        self.note = note.map { PowerNote(path: $0, device: "\(major):\(minor)") }
        self.wakeTimeoutMilliseconds = wakeTimeoutMilliseconds
        if self.note?.isLeftBehind == true {
            mayEverSleep = true
            if write("auto") { self.note?.remove() }
        } else {
            mayEverSleep = Self.read(directory + "/control") == "auto"
        }
    }

    deinit { if state.withLock({ $0.isNoted }) { note?.remove() } }

    private static func managesPower(_ directory: String) -> Bool {
        guard let control = read(directory + "/control"), control == "auto" || control == "on",
            let status = read(directory + "/runtime_status")
        else { return false }
        return status != "unsupported"
    }

    /// The gate of the device under a directory, with its note in the directory.
    public static func under(path: String) -> SysfsPowerGate? {
        guard let file = try? Files.open(path, [.readOnly, .directory]), let device = try? Files.status(file.number).device else {
            return nil
        }
        // The kernel's encoding of dev_t in user space (makedev(3)).
        let major = Int((device >> 8) & 0xfff | (device >> 32) & ~0xfff)
        let minor = Int(device & 0xff | (device >> 12) & ~0xff)
        return SysfsPowerGate(major: major, minor: minor, note: path + "/power-held")
    }

    /// How long the device stays awake unused, where the driver says so.
    public var autosuspendDelayMilliseconds: Int? { Self.read(directory + "/autosuspend_delay_ms").flatMap { Int($0) } }

    public var isAwake: Bool { Self.read(directory + "/runtime_status") == "active" }

    public func hold() -> Bool {
        // Written under the lock: an "auto" of the last holder must not come after the "on" of the next.
        let isOn = state.withLock { state in
            if !state.isNoted, mayEverSleep, let note { state.isNoted = note.write() }
            guard state.holds > 0 || write("on") else { return false }
            state.holds += 1
            return true
        }
        guard isOn else { return false }
        // The write returns when the device is resumed; one that resumes asynchronously is given time.
        let deadline = MonotonicTime.now().advanced(milliseconds: wakeTimeoutMilliseconds)
        while !isAwake {
            guard MonotonicTime.now() < deadline else {
                release()
                return false
            }
            DedicatedThread.pause(milliseconds: 2)
        }
        return true
    }

    public func release() {
        state.withLock { state in
            state.holds -= 1
            if state.holds == 0 { _ = write("auto") }
        }
    }

    public func wakeLater() {
        let isNeeded = state.withLock { state in
            defer { state.isWaking = true }
            return !state.isWaking
        }
        guard isNeeded else { return }
        do throws(Errno) {
            let thread = try DedicatedThread("shrink-wake") { [weak self] in
                guard let self else { return }
                if hold() { release() }
                state.withLock { $0.isWaking = false }
            }
            thread.detach()
        } catch {
            // No thread now: the next scan tries again.
            state.withLock { $0.isWaking = false }
        }
    }

    private func write(_ text: String) -> Bool {
        if !mayEverSleep { return true }
        guard let file = try? Files.open(directory + "/control", .writeOnly) else { return false }
        return Array(text.utf8).withUnsafeBytes { Files.writeStream(file.number, $0).error == nil }
    }

    private static func read(_ path: String) -> String? {
        guard let bytes = try? Files.contents(of: path) else { return nil }
        return String(decoding: bytes, as: UTF8.self).split(separator: "\n").first.map(String.init)
    }
}
