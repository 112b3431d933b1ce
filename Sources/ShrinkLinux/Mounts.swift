import CShrinkLinux
import Glibc
public import SystemPackage

/// One line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
public struct MountPoint: Sendable, Equatable {
    public var path: String
    public var type: String
    public var source: String
    /// `major:minor` of the file system; for FUSE the minor names the connection in /sys/fs/fuse/connections.
    public var device: (major: Int, minor: Int) { (deviceMajor, deviceMinor) }
    var deviceMajor: Int
    var deviceMinor: Int
}

public enum Mounts {
    public struct Flags: OptionSet, Sendable {
        public let rawValue: UInt
        public init(rawValue: UInt) { self.rawValue = rawValue }
        public static let noSetUserID = Flags(rawValue: UInt(SHL_MS_NOSUID))
        public static let noDevices = Flags(rawValue: UInt(SHL_MS_NODEV))
        public static let noExecution = Flags(rawValue: UInt(SHL_MS_NOEXEC))
    }

    /// The corresponding C function is `mount`.
    public static func mount(_ source: String, on target: String, type: String, _ flags: Flags, options: String) throws(Errno) {
        try retrying { shl_mount(source, target, type, flags.rawValue, options) }
    }

    /// Detaches the mount now and frees it when the last user leaves; never waits for a server. `umount2(MNT_DETACH)`.
    public static func detach(_ target: String) throws(Errno) { try retrying { shl_unmount(target, SHL_MNT_DETACH.rawInt) } }

    /// EBUSY while anybody uses it. The corresponding C function is `umount2`.
    public static func unmount(_ target: String) throws(Errno) { try retrying { shl_unmount(target, 0) } }

    /// All mounts this process sees. Reading the list never touches the mounted file systems.
    public static func all() throws(Errno) -> [MountPoint] {
        parse(String(decoding: try Files.contents(of: "/proc/self/mountinfo", limit: 16 << 20), as: UTF8.self))
    }

    /// The topmost mount on exactly this path.
    public static func mount(at path: String) throws(Errno) -> MountPoint? { try all().last { $0.path == path } }

    static func parse(_ text: String) -> [MountPoint] {
        text.split(separator: "\n").compactMap { line in
            let fields = line.split(separator: " ")
            guard let dash = fields.firstIndex(of: "-"), fields.count > dash + 2, fields.count > 5 else { return nil }
            let device = fields[2].split(separator: ":").compactMap { Int($0) }
            guard device.count == 2 else { return nil }
            return MountPoint(
                path: unescape(fields[4]), type: String(fields[dash + 1]), source: unescape(fields[dash + 2]),
                deviceMajor: device[0], deviceMinor: device[1])
        }
    }

    /// The kernel writes space, tab, newline and backslash as three octal digits.
    private static func unescape(_ text: Substring) -> String {
        guard text.contains("\\") else { return String(text) }
        var bytes: [UInt8] = []
        let source = Array(text.utf8)
        var i = 0
        while i < source.count {
            if source[i] == UInt8(ascii: "\\"), i + 3 < source.count,
                let code = UInt8(String(decoding: source[i + 1...i + 3], as: UTF8.self), radix: 8)
            {
                bytes.append(code)
                i += 4
            } else {
                bytes.append(source[i])
                i += 1
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}
