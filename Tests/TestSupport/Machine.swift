import Glibc
import ShrinkLinux
import SystemPackage

public func environmentValue(_ name: String) -> String? { getenv(name).map { String(cString: $0) } }

/// What this machine lacks, told in the closing lines of the run instead of skipping in silence.
///
/// A test that cannot run calls `Machine.lacks` and returns. `make test` prints the collected lines last.
public enum Machine {
    public static func lacks(_ what: String, so consequence: String) {
        let line = "This machine lacks \(what): \(consequence)\n"
        print(line, terminator: "")
        guard let path = environmentValue("SHRINKD_TEST_LACKS") else { return }
        guard let file = try? Files.open(path, [.writeOnly, .create, .append]) else { return }
        let bytes = Array(line.utf8)
        _ = bytes.withUnsafeBytes { Glibc.write(file.number, $0.baseAddress, $0.count) }
    }

    public static var isRoot: Bool { geteuid() == 0 }

    /// The directory of the built programs: where this test bundle lies.
    public static let productsDirectory: String = {
        // The runner loads the bundle; its own mapping in /proc/self/maps tells where from.
        guard let maps = try? Files.contents(of: "/proc/self/maps", limit: 16 << 20) else { return ".build/debug" }
        for line in String(decoding: maps, as: UTF8.self).split(separator: "\n") {
            guard let slash = line.firstIndex(of: "/") else { continue }
            let path = line[slash...]
            if path.hasSuffix(".xctest") || path.hasSuffix("PackageTests") {
                return path.split(separator: "/").dropLast().reduce("") { $0 + "/" + $1 }
            }
        }
        return ".build/debug"
    }()

    /// The path of one of our programs, `backupfs` for example.
    public static func program(_ name: String) -> String { productsDirectory + "/" + name }
}
