import Glibc
import ShrinkLinux
import SystemPackage

/// A directory of a test's own, removed with everything in it when the test lets go of it.
public final class ScratchDirectory: Sendable {
    public let path: String

    public init() throws {
        // CI gives each run a directory of its own, so that it can tell what the run left behind. Short: socket paths lie below.
        let root = environmentValue("SHRINKD_TEST_SCRATCH") ?? "/tmp"
        var template = Array("\(root)/shrinkd-test.XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw Errno(rawValue: errno) }
        path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    deinit { removeTree(path) }

    public func file(_ name: String) -> String { path + "/" + name }
}

/// Removes a tree without leaving the file system it starts on.
func removeTree(_ path: String) {
    guard let child = try? ChildProcess("/bin/rm", ["-rf", "--one-file-system", "--", path], environment: []) else { return }
    _ = try? child.wait()
}

/// A tmpfs of a given size, detached when the test lets go of it. Needs root.
public final class ScratchMemoryFileSystem: Sendable {
    public let path: String
    private let directory: ScratchDirectory

    /// `options`: further ones of tmpfs(5).
    public init(sizeBytes: Int, options: String? = nil) throws {
        directory = try ScratchDirectory()
        path = directory.file("tmpfs")
        try Files.makeDirectory(path)
        try Mounts.mount(
            "shrinkd-test", on: path, type: "tmpfs", [.noSetUserID, .noDevices],
            options: "size=\(sizeBytes),mode=700" + (options.map { "," + $0 } ?? ""))
    }

    deinit { try? Mounts.detach(path) }
}
