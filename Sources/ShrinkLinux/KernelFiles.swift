import Glibc
import Synchronization
public import SystemPackage

/// Small files that the kernel writes when they are read (/proc, /sys), kept open between two looks: opening one takes the kernel's memory, which is charged to
/// this process, and they are looked at when there is none left.
///
/// Elsewhere, as in tests' fixtures, a name may come to mean another file, so those are opened each time.
public enum KernelFiles {
    private static let limit = 64
    private static let open = Mutex<[String: SharedDescriptor]>([:])

    /// The whole file, at most a mebibyte.
    public static func contents(of path: String) throws(Errno) -> [UInt8] {
        guard path.hasPrefix("/proc/") || path.hasPrefix("/sys/") else { return try Files.contents(of: path) }
        if let kept = open.withLock({ $0[path] }) {
            // A cgroup may have gone, and another have come by its name.
            do throws(Errno) { return try read(kept) } catch { forget(path) }
        }
        let file = SharedDescriptor(try Files.open(path, .readOnly))
        let bytes = try read(file)
        open.withLock { open in
            if open.count < limit { open[path] = file }
        }
        return bytes
    }

    private static func forget(_ path: String) { open.withLock { _ = $0.removeValue(forKey: path) } }

    private static func read(_ file: SharedDescriptor) throws(Errno) -> [UInt8] {
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 16384)
        while true {
            let offset = bytes.count
            let n = try chunk.withMutableBytes { (buffer) throws(Errno) in try Files.read(file.number, into: buffer, at: offset) }
            if n == 0 { return bytes }
            bytes.append(contentsOf: chunk[0..<n])
            if bytes.count > 1 << 20 { throw .fileTooLarge }
        }
    }
}
