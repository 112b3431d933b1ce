import ShrinkLinux
import SystemPackage
import TestSupport

/// The top of the checkout these tests were built from.
let packageRoot = #filePath.split(separator: "/").dropLast(3).reduce("") { $0 + "/" + $1 }

/// A command run to its end, bounded, with everything it said on either stream.
struct CommandRun {
    let ending: ChildProcess.Ending?
    let said: String

    init(
        _ path: String, _ arguments: [String], seconds: Int32,
        environment: [String] = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    ) throws {
        let output = try MemoryFile.make("output", size: 0)
        let child = try ChildProcess(
            path, arguments, environment: environment + ["LC_ALL=C.UTF-8"],
            standardOutput: output.number, standardError: output.number)
        var ending = try child.wait(timeoutMilliseconds: seconds * 1000)
        if ending == nil {
            child.signal(Signal.terminate)
            ending = try child.wait(timeoutMilliseconds: 20_000)
            if ending == nil { child.signal(Signal.kill) }
        }
        self.ending = ending
        var bytes = [UInt8](repeating: 0, count: try Files.status(output.number).sizeBytes)
        _ = try bytes.withMutableBytes { (buffer) throws(Errno) in try Files.read(output.number, into: buffer, at: 0) }
        said = String(decoding: bytes, as: UTF8.self)
    }
}
