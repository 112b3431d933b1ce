import CShrinkLinux
import Glibc
public import SystemPackage

/// What lies under a mounted file system.
public enum BlockDevices {
    /// The name of the compressed memory device (`zram0`) on which the descriptor's file system lies, itself or through a
    /// device made of others (dm, md), or nil. Read from /sys/dev/block; a file system without a block device has none.
    public static func compressedMemory(under fd: CInt) throws(Errno) -> String? {
        let device = try Files.status(fd).device
        let major = (device >> 8 & 0xfff) | (device >> 32 & ~0xfff)
        let minor = (device & 0xff) | (device >> 12 & ~0xff)
        return compressedMemory(at: "/sys/dev/block/\(major):\(minor)", depth: 0)
    }

    private static func compressedMemory(at path: String, depth: Int) -> String? {
        // Stacks deeper than this don't occur; a loop in /sys would be worse.
        guard depth < 8 else { return nil }
        var buffer = [CChar](repeating: 0, count: 4096)
        let n = readlink(path, &buffer, 4095)
        guard n > 0 else { return nil }
        let target = String(decoding: buffer[0..<n].map { UInt8(bitPattern: $0) }, as: UTF8.self)
        if let name = target.split(separator: "/").last, name.hasPrefix("zram") { return String(name) }
        guard let slaves = try? Files.open(path + "/slaves", [.readOnly, .directory]) else { return nil }
        var names: [String] = []
        try? Files.forEachName(in: slaves.number) { names.append($0) }
        for name in names {
            if let found = compressedMemory(at: path + "/slaves/" + name, depth: depth + 1) { return found }
        }
        return nil
    }
}
