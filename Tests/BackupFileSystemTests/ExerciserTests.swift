import Glibc
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@Suite(.serialized) struct ExerciserTests {
    @Test(arguments: DataPath.allCases) func randomOperationsGiveWhatAFileGives(_ path: DataPath) throws {
        try withMount(path) { server in
            do { _ = try server.makeObject(1) }
            let start = MonotonicTime.now()
            var exerciser = try FileExerciser(path: server.file("objects/1/data"), seed: testSeed("exerciser, \(path)"), holes: path.holes)
            try exerciser.run(operations: 100_000)
            print("\(path): \(Double(MonotonicTime.now().nanoseconds(since: start)) / 1e9) s")
        }
    }

    @Test(arguments: [DataPath.passthrough, .packed]) func onADiskTheyDoToo(_ path: DataPath) throws {
        try withBackupFileSystem(arguments: path.arguments) { server in
            do { _ = try server.makeObject(1) }
            var exerciser = try FileExerciser(path: server.file("objects/1/data"), seed: testSeed("exerciser, disk"), holes: path.holes)
            try exerciser.run(operations: 5_000)
        }
    }

    /// The exerciser itself is shown to see a difference: a file that somebody else changes.
    @Test func theExerciserSeesAStrayByte() throws {
        let scratch = try ScratchDirectory()
        try withExtendedLifetime(scratch) {
            let path = scratch.file("data")
            try Files.replaceContents(of: path, with: [])
            var exerciser = try FileExerciser(path: path, seed: 1, holes: .unchecked)
            let stray = try Files.open(path, .readWrite)
            let thread = try DedicatedThread("stray") {
                for i in 0..<2000 { _ = [UInt8(1)].withUnsafeBytes { Files.write(stray.number, $0, at: i * 500) } }
            }
            defer { thread.join() }
            var differed = false
            do { try exerciser.run(operations: 20_000) } catch { differed = true }
            #expect(differed)
        }
    }

    @Test(arguments: DataPath.allCases) func fioVerifiesWhatItWrote(_ path: DataPath) throws {
        guard access("/usr/bin/fio", X_OK) == 0 else { return Machine.lacks("fio", so: "fio --verify is not run") }
        try withMount(path) { server in
            do { _ = try server.makeObject(1, sizeBytes: 64 << 20) }
            for (block, direct) in [("4k", "1"), ("64k", "0"), ("1m", "1")] {
                let result = try runProgram(
                    "/usr/bin/fio",
                    [
                        "--name=verify", "--filename=" + server.file("objects/1/data"), "--size=64m", "--rw=randwrite", "--bs=" + block,
                        "--direct=" + direct, "--ioengine=psync", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1",
                        "--verify_state_save=0",
                        "--randseed=7", "--fallocate=none", "--allow_file_create=0", "--output=/dev/null",
                    ])
                #expect(result.ending == .exited(0), "\(block): \(result.output)\(result.errors)")
            }
        }
    }
}
