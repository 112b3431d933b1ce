import Glibc
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// How `data` reaches its bytes, and how a store keeps them; what callers see is the same but for pages of zeros.
enum DataPath: String, CaseIterable, Sendable {
    case passthrough
    case direct
    case packed

    var arguments: [String] {
        switch self {
        case .passthrough: []
        case .direct: ["--no-passthrough"]
        case .packed: ["--layout", "packed", "--segment", "1M"]
        }
    }

    /// What SEEK_DATA finds.
    var holes: FileExerciser.Holes { self == .packed ? .zerosAreHoles : .exact }
}

/// Runs `body` on a fresh mount, whose store is on a tmpfs of its own where that is allowed.
func withMount<R>(_ path: DataPath = .passthrough, _ body: (BackupFileSystemProcess) throws -> R) throws -> R {
    guard Machine.isRoot else { return try withBackupFileSystem(arguments: path.arguments, body) }
    let memory = try ScratchMemoryFileSystem(sizeBytes: 1 << 30)
    return try withExtendedLifetime(memory) { try withBackupFileSystem(store: memory.path, arguments: path.arguments, body) }
}

extension BackupFileSystemProcess {
    /// Why passthrough is not to be tested here, or nil.
    func reasonAgainstPassthrough() throws -> String? {
        let verdict = try statistic("passthrough")
        return verdict == "yes" ? nil : verdict ?? "nothing said"
    }

    func names(_ path: String) throws -> [String] {
        let directory = try Files.open(file(path), [.readOnly, .directory])
        var names: [String] = []
        try Files.forEachName(in: directory.number) { names.append($0) }
        return names
    }

    func attribute(_ name: String, of path: String) throws -> String? {
        let opened = try Files.open(file(path), .readOnly)
        return try ExtendedAttributes.value(name, of: opened.number).map { String(decoding: $0, as: UTF8.self) }
    }

    func setAttribute(_ name: String, _ value: String, of path: String) throws(Errno) {
        let opened = try Files.open(file(path), .readOnly)
        try ExtendedAttributes.set(name, to: Array(value.utf8), of: opened.number)
    }
}

/// Writes all of it, or fails the test.
func write(_ bytes: [UInt8], to file: CInt, at offset: Int, _ flags: Files.WriteFlags = []) throws {
    let written = bytes.withUnsafeBytes { Files.write(file, $0, at: offset, flags) }
    if let error = written.error { throw error }
    #expect(written.bytes == bytes.count)
}

func read(_ file: CInt, at offset: Int, count: Int) throws -> [UInt8] {
    var bytes = [UInt8](repeating: 0xee, count: count)
    let n = try bytes.withUnsafeMutableBytes { try Files.read(file, into: $0, at: offset) }
    return Array(bytes[..<n])
}

let page = basePageSize

/// Why a file can't be opened, or nil if it can.
func openError(_ path: String, _ flags: Files.OpenFlags) -> Errno? {
    do throws(Errno) {
        _ = try Files.open(path, flags)
        return nil
    } catch {
        return error
    }
}
