import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// The program as it is installed, alone in a directory.
@Suite struct ShrinkdProgramTests {
    private func run(_ arguments: [String], program: String = Machine.program("shrinkd")) throws -> (
        ending: ChildProcess.Ending?, said: String
    ) {
        let output = try MemoryFile.make("output", size: 0)
        let child = try ChildProcess(
            program, arguments, environment: ["HOME=/nonexistent", "PATH=/usr/bin:/bin"], standardOutput: output.number,
            standardError: output.number)
        let ending = try child.wait(timeoutMilliseconds: 20_000)
        var bytes = [UInt8](repeating: 0, count: try Files.status(output.number).sizeBytes)
        _ = try bytes.withMutableBytes { (buffer) throws(Errno) in try Files.read(output.number, into: buffer, at: 0) }
        return (ending, String(decoding: bytes, as: UTF8.self))
    }

    @Test func versionAndHelpEndWithZeroAndUsageWithSixtyFour() throws {
        #expect(try run(["--version"]).ending == .exited(0))
        let help = try run(["--help"])
        #expect(help.ending == .exited(0) && help.said.contains("--store"))
        #expect(try run(["--no-such-flag"]).ending == .exited(64))
        for wrong in [
            ["--runtime-dir", ""], ["--store", ""], ["--pressure", "maybe"], ["--low-watermark", "5%%"], ["--layout", "flat"],
            ["--codec", "gzip"], ["--segment", "4Q"], ["--age", "0"], ["--layout", "raw", "--codec", "lz4"],
        ] {
            let (ending, said) = try run(wrong)
            #expect(ending == .exited(64) && said.contains("give ") || said.contains("--layout packed"), "\(wrong): \(said)")
        }
    }

    @Test func aBackupAndAStoreExcludeEachOther() throws {
        #expect(try run(["--backup", "/tmp", "--store", "/tmp"]).ending == .exited(64))
        #expect(try run(["--backup", "/tmp", "--codec", "lz4"]).ending == .exited(64))
    }

    @Test func aMistakeInTheConfigurationIsNamedByItsLine() throws {
        let scratch = try ScratchDirectory()
        let file = scratch.file("shrinkd.conf")
        try Files.replaceContents(of: file, with: Array("# fine\nlow_watermark = 5%\n".utf8))
        for command in [["--config", file], ["engine", "--runtime-dir", scratch.path, "--backup", scratch.path, "--config", file]] {
            let (ending, said) = try run(command)
            #expect(ending == .exited(78), "\(said)")
            #expect(said.contains("\(file):2: there is no key 'low_watermark' (did you mean 'low-watermark'?)"), "\(said)")
        }
        let (ending, said) = try run(["--config", scratch.file("none")])
        #expect(ending == .exited(78) && said.contains("\(scratch.file("none")): No such file"), "\(said)")
    }

    @Test func aMissingFileServerIsNamedAndNothingIsLeft() throws {
        let scratch = try ScratchDirectory()
        // A program that is not on its own path any more would look for its neighbour elsewhere: copy, not link.
        let copy = try ChildProcess("/bin/cp", [Machine.program("shrinkd"), scratch.file("shrinkd")], environment: [])
        #expect(try copy.wait() == .exited(0))
        let (ending, said) = try run(["--runtime-dir", scratch.file("run")], program: scratch.file("shrinkd"))
        #expect(ending == .exited(1))
        #expect(said.contains("failed to start (\(scratch.path)/backupfs: No such file or directory)"))
        #expect(try Mounts.mount(at: scratch.file("run") + "/backup") == nil)
    }

    @Test func aRuntimeDirectoryThatOthersMayWriteIsRefused() throws {
        let scratch = try ScratchDirectory()
        try Files.makeDirectory(scratch.file("open"))
        let directory = try Files.open(scratch.file("open"), [.readOnly, .directory])
        try Files.setMode(directory.number, 0o777)
        let (ending, said) = try run(["--runtime-dir", scratch.file("open")])
        #expect(ending == .exited(1) && said.contains("use a directory of your own"))
    }

    @Test func aPathTooLongForSocketsIsRefused() throws {
        let scratch = try ScratchDirectory()
        let (ending, said) = try run(["--runtime-dir", scratch.file(String(repeating: "x", count: 100))])
        #expect(ending == .exited(1) && said.contains("give a shorter --runtime-dir"))
    }
}
