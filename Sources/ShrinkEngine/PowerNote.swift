import ShrinkLinux

/// A file that says which device somebody keeps awake, and since which boot: afterwards the device's own settings are new.
struct PowerNote: Sendable {
    let path: String
    /// Device number, `major:minor`.
    let device: String

    private var text: String? {
        guard let boot = try? Files.contents(of: "/proc/sys/kernel/random/boot_id") else { return nil }
        return device + " " + String(decoding: boot, as: UTF8.self)
    }

    /// Somebody held this device and did not live to let it go.
    var isLeftBehind: Bool {
        guard let text, let found = try? Files.contents(of: path) else { return false }
        return String(decoding: found, as: UTF8.self) == text
    }

    /// False if it can't be written: then a crash leaves the device awake, and nothing else is lost.
    func write() -> Bool {
        guard let text else { return false }
        do {
            try Files.replaceContents(of: path, with: Array(text.utf8))
            return true
        } catch { return false }
    }

    func remove() { try? Files.remove(path) }
}
