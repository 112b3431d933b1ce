import Glibc
import ShrinkLinux
import SystemPackage
import TestSupport

/// Programs as their authors build them: libshrinkd linked from this build, and what uses it.
struct ClientPrograms {
    /// Where libshrinkd, its header and its pkg-config file are installed.
    let prefix: String
    private let scratch: ScratchDirectory

    static let root = #filePath.split(separator: "/").dropLast(3).reduce("") { $0 + "/" + $1 }

    init() throws {
        scratch = try ScratchDirectory()
        // One that is built already, as `make library` leaves it.
        if let installed = environmentValue("SHRINKD_TEST_LIBRARY") {
            prefix = installed
            return
        }
        prefix = scratch.file("installed")
        let linked = try Ran("/bin/bash", [Self.root + "/.ci/library", Machine.productsDirectory, prefix], environment: Self.tools)
        guard linked.ending == .exited(0) else { throw ProgramFailure(description: "libshrinkd can't be linked: \(linked.output)") }
    }

    /// The compiler lies where the tests were started from.
    private static var tools: [String] { ["PATH=" + (environmentValue("PATH") ?? "/usr/bin:/bin")] }

    /// Builds a C program the way the documentation says.
    func compile(_ source: String, _ name: String) throws -> String {
        try Files.replaceContents(of: scratch.file(name + ".c"), with: Array(source.utf8))
        let command = "cc -Wall -Wextra -Werror -O1 \(name).c $(pkg-config --cflags --libs shrinkd) -o \(name)"
        let built = try Ran(
            "/bin/sh", ["-c", "cd '\(scratch.path)' && \(command)"],
            environment: Self.tools + ["PKG_CONFIG_PATH=\(prefix)/lib/pkgconfig"])
        guard built.ending == .exited(0) else { throw ProgramFailure(description: "\(command): \(built.output)") }
        return scratch.file(name)
    }

    func write(_ source: String, _ name: String) throws -> String {
        try Files.replaceContents(of: scratch.file(name), with: Array(source.utf8))
        return scratch.file(name)
    }

    /// The first code block of a language in docs/clients.md.
    static func documented(_ language: String) throws -> String {
        let document = String(decoding: try Files.contents(of: root + "/docs/clients.md"), as: UTF8.self)
        let opening = "```\(language)\n"
        guard let start = document.split(separator: opening, omittingEmptySubsequences: false).dropFirst().first,
            let block = start.split(separator: "\n```", omittingEmptySubsequences: false).first
        else { throw ProgramFailure(description: "docs/clients.md has no block in \(language)") }
        return block + "\n"
    }
}

struct ProgramFailure: Error, CustomStringConvertible {
    var description: String
}

/// A program that runs beside the test, with its standard input in the test's hand.
final class RunningProgram {
    let child: ChildProcess
    private let output: OwnedDescriptor
    private let input: OwnedDescriptor

    init(_ program: String, _ arguments: [String] = [], socket: String, library: String, environment: [String] = []) throws {
        output = try MemoryFile.make("output", size: 0)
        var ends: [CInt] = [0, 0]
        guard pipe(&ends) == 0 else { throw Errno(rawValue: errno) }
        let reading = OwnedDescriptor(owning: ends[0])
        input = OwnedDescriptor(owning: ends[1])
        _ = fcntl(input.number, F_SETFD, FD_CLOEXEC)
        let appending = try Files.open("/proc/self/fd/\(output.number)", [.writeOnly, .append])
        child = try ChildProcess(
            program, arguments,
            environment: ["PATH=/usr/bin:/bin", "LANG=C.UTF-8", "SHRINKD_SOCKET=" + socket, "LD_LIBRARY_PATH=" + library + "/lib"]
                + environment,
            standardInput: reading.number, standardOutput: appending.number, standardError: appending.number)
    }

    deinit { child.signal(SIGKILL) }

    var said: String {
        guard let size = try? Files.status(output.number).sizeBytes else { return "" }
        var bytes = [UInt8](repeating: 0, count: size)
        let count = (try? bytes.withMutableBytes { (buffer) throws(Errno) in try Files.read(output.number, into: buffer, at: 0) }) ?? 0
        return String(decoding: bytes[0..<count], as: UTF8.self)
    }

    func pressEnter() throws {
        try [UInt8(ascii: "\n")].withBytes { (bytes) throws(Errno) in
            if let error = Files.writeStream(input.number, bytes).error { throw error }
        }
    }

    /// How it ended, within a minute; killed otherwise.
    func end() throws -> ChildProcess.Ending {
        if let ending = try child.wait(timeoutMilliseconds: 60_000) { return ending }
        child.signal(SIGKILL)
        _ = try child.wait()
        throw ProgramFailure(description: "the program does not end: \(said)")
    }

    func kill() throws {
        child.signal(SIGKILL)
        _ = try child.wait()
    }
}
