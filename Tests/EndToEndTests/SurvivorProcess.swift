import ShrinkLinux
import SystemPackage
import TestSupport

/// A `survivor` (Tests/Survivor) as a child.
final class SurvivorProcess {
    let process: ChildProcess
    private let output: OwnedDescriptor

    /// `touches`: it has a thread as well that uses memory without pins.
    init(socket: String, pool: String, seed: UInt64, touches: Bool = true) throws {
        output = try MemoryFile.make("survivor", size: 0)
        let appending = try Files.open("/proc/self/fd/\(output.number)", [.writeOnly, .append])
        process = try ChildProcess(
            Machine.program("survivor"), [socket, pool, String(seed)] + (touches ? [] : ["pinned"]), environment: ["PATH=/usr/bin:/bin"],
            standardOutput: appending.number, standardError: appending.number)
    }

    deinit {
        if ending == nil {
            process.signal(Signal.kill)
            _ = try? process.wait()
        }
    }

    private(set) var ending: ChildProcess.Ending?

    /// SIGTERM, and its last words; nil if it hangs.
    func finish(seconds: Int32 = 120) throws -> ChildProcess.Ending? {
        process.signal(Signal.terminate)
        ending = try process.wait(timeoutMilliseconds: seconds * 1000)
        return ending
    }

    /// True if it ended although nobody asked it to.
    func hasEnded() throws -> Bool { try waitReadable(process.endDescriptor, timeoutMilliseconds: 0) }

    var said: String {
        guard let size = try? Files.status(output.number).sizeBytes else { return "" }
        var bytes = [UInt8](repeating: 0, count: size)
        let count = (try? bytes.withMutableBytes { (buffer) throws(Errno) in try Files.read(output.number, into: buffer, at: 0) }) ?? 0
        return String(decoding: bytes[0..<count], as: UTF8.self)
    }

    /// The last number after a word.
    func number(_ word: String) -> Int? {
        let words = said.split { $0 == " " || $0 == "\n" }
        guard let place = words.lastIndex(where: { $0 == word }), place + 1 < words.count else { return nil }
        return Int(words[place + 1])
    }

    var isReady: Bool { said.contains("READY") }
}
