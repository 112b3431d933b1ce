import CShrinkLinux
import Glibc
import Synchronization
public import SystemPackage

/// Small files that the kernel writes when they are read (/proc, /sys), kept open between two looks: opening one takes the kernel's memory, which is charged to
/// this process, and they are looked at when there is none left.
///
/// Elsewhere, as in tests' fixtures, a name may come to mean another file, so those are opened each time.
public enum KernelFiles {
    private static let limit = 64
    private static let kept = Mutex<[String: SharedDescriptor]>([:])

    /// The whole file, at most a mebibyte.
    public static func contents(of path: String) throws(Errno) -> [UInt8] {
        guard isKept(path) else { return try Files.contents(of: path) }
        return try withOpen(path) { (number) throws(Errno) in
            var bytes: [UInt8] = []
            var chunk = [UInt8](repeating: 0, count: 16384)
            while true {
                let offset = bytes.count
                let n = try chunk.withMutableBytes { (buffer) throws(Errno) in try Files.read(number, into: buffer, at: offset) }
                if n == 0 { return bytes }
                bytes.append(contentsOf: chunk[0..<n])
                if bytes.count > 1 << 20 { throw .fileTooLarge }
            }
        }
    }

    private static func isKept(_ path: String) -> Bool { path.hasPrefix("/proc/") || path.hasPrefix("/sys/") }

    /// Calls `body` with the file, open for reading; read it by offset. Asks for no memory but the first time.
    static func withOpen<R>(_ path: String, _ body: (CInt) throws(Errno) -> R) throws(Errno) -> R {
        if isKept(path), let file = kept.withLock({ $0[path] }) {
            // A cgroup may have gone, and another have come by its name.
            do throws(Errno) { return try body(file.number) } catch { kept.withLock { _ = $0.removeValue(forKey: path) } }
        }
        // A string given where C wants a pointer is copied; here its own bytes are used.
        let number = path.withCString { shl_openat(AT_FDCWD, $0, O_RDONLY | O_CLOEXEC, 0) }
        let file = OwnedDescriptor(owning: try check(number))
        let result = try body(file.number)
        if isKept(path) {
            let shared = SharedDescriptor(file)
            kept.withLock { kept in
                if kept.count < limit { kept[path] = shared }
            }
        }
        return result
    }
}
