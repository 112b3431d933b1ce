import ShrinkLinux
import SystemPackage

/// Runtime power management of a block device as sysfs shows it (Documentation/ABI/testing/sysfs-devices-power): `control` "on" wakes it and keeps it awake,
/// "auto" lets it sleep after `autosuspend_delay_ms`.
public final class SysfsPowerGate: PowerGate {
    private struct State {
        var holds = 0
        var isWaking = false
    }

    /// False if the device was set to stay awake before we came: then that is left so.
    private let mayEverSleep: Bool

    private let directory: String
    private let wakeTimeoutMilliseconds: UInt64
    private let state = Monitor(State())

    /// The gate of the device that a file system with this device number lies on, or nil where it has no runtime power management of its own.
    public init?(major: Int, minor: Int, sysfs: String = "/sys", wakeTimeoutMilliseconds: UInt64 = 5000) {
        let block = "\(sysfs)/dev/block/\(major):\(minor)"
        // A partition's device is its disk's.
        let candidates = ["\(block)/device/power", "\(block)/../device/power"]
        guard let directory = candidates.first(where: { Self.read($0 + "/control") == "auto" || Self.read($0 + "/control") == "on" }),
            let status = Self.read(directory + "/runtime_status"), status != "unsupported"
        else { return nil }
        self.directory = directory
        mayEverSleep = Self.read(directory + "/control") == "auto"
        self.wakeTimeoutMilliseconds = wakeTimeoutMilliseconds
    }

    /// The gate of the device under a directory.
    public static func under(path: String) -> SysfsPowerGate? {
        guard let file = try? Files.open(path, [.readOnly, .directory]), let device = try? Files.status(file.number).device else {
            return nil
        }
        // The kernel's encoding of dev_t in user space (makedev(3)).
        let major = Int((device >> 8) & 0xfff | (device >> 32) & ~0xfff)
        let minor = Int(device & 0xff | (device >> 12) & ~0xff)
        return SysfsPowerGate(major: major, minor: minor)
    }

    /// How long the device stays awake unused, where the driver says so.
    public var autosuspendDelayMilliseconds: Int? { Self.read(directory + "/autosuspend_delay_ms").flatMap { Int($0) } }

    public var isAwake: Bool { Self.read(directory + "/runtime_status") == "active" }

    public func hold() -> Bool {
        // Written under the lock: an "auto" of the last holder must not come after the "on" of the next.
        let isOn = state.withLock { state in
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
            _ = try DedicatedThread("shrink-wake") { [weak self] in
                guard let self else { return }
                if hold() { release() }
                state.withLock { $0.isWaking = false }
            }
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
