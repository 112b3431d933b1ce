import ServiceSupport
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// One keeper with fake parts, as a process of its own, and what its parts say.
final class TrialRun {
    struct TimedOut: Error, CustomStringConvertible { var description: String }

    let scratch: ScratchDirectory
    let keeper: ChildProcess
    private let journal: OwnedDescriptor
    private let starter: NotifySocket
    private var ended: ChildProcess.Ending?
    private var heard: [String] = []

    var runtimeDirectory: String { scratch.file("run") }
    var mountPoint: String { runtimeDirectory + "/backup" }

    /// `backupfs` and `engine` are the parts' steps (FakePart.swift); `{mount}` and `{scratch}` stand for paths.
    init(backupfs: String, engine: String, in scratch: ScratchDirectory? = nil, standardError: CInt? = nil) throws {
        let scratch = try scratch ?? ScratchDirectory()
        self.scratch = scratch
        let run = scratch.file("run")
        let tag = "\(UInt32.random(in: 0 ... .max))"
        journal = try UnixSocket.listen(scratch.file("journal." + tag), .datagram)
        starter = try NotifySocket(binding: scratch.file("starter." + tag))
        func filled(_ steps: String) -> String {
            steps.replacing("{mount}", with: run + "/backup").replacing("{scratch}", with: scratch.path)
        }
        keeper = try ChildProcess(
            Machine.program("keepertrial"), ["keeper", run, scratch.file("journal." + tag), filled(backupfs), filled(engine)],
            environment: ["PATH=/usr/bin:/bin", "NOTIFY_SOCKET=" + starter.path], standardError: standardError)
    }

    /// Whatever a failed test left is ended: the keeper is killed, its lifelines end the parts, stuck calls are freed.
    deinit {
        if ended == nil {
            keeper.signal(Signal.kill)
            _ = try? keeper.wait()
        }
        for line in heard {
            let words = line.split(separator: " ")
            guard words.count >= 3, words[1] == "started", let number = Int32(words[2]), ThisProcess.processExists(number) else { continue }
            // Only a process that still is our program: the number may have a new owner.
            guard let name = try? Files.contents(of: "/proc/\(number)/comm"), name.starts(with: Array("keepertrial".utf8)) else { continue }
            try? endProcess(number)
        }
        if (try? Mounts.mount(at: mountPoint)) ?? nil != nil { try? Mounts.abortAndDetach(mountPoint) }
    }

    /// The next line of a part, within ten seconds.
    func next() throws -> String {
        guard try waitReadable(journal.number, timeoutMilliseconds: 10_000) else { throw TimedOut(description: "no word after \(heard)") }
        var buffer = [UInt8](repeating: 0, count: 512)
        let count = try buffer.withMutableBytes { (bytes) throws(Errno) in try UnixSocket.receive(journal.number, into: bytes)?.count ?? 0 }
        let line = String(decoding: buffer[0..<count], as: UTF8.self)
        heard.append(line)
        return line
    }

    /// Goes on until a line begins so; returns it.
    @discardableResult
    func wait(for beginning: String) throws -> String {
        while true {
            let line = try next()
            if line.hasPrefix(beginning) { return line }
        }
    }

    /// As `wait(for: "PART started")`, and returns the process number.
    func started(_ part: String) throws -> Int32 {
        let words = try wait(for: part + " started").split(separator: " ")
        return try #require(Int32(words[2]))
    }

    /// Goes on until the keeper told its starter this.
    func told(_ statement: NotifyMessage.Statement) throws {
        while true {
            guard try waitReadable(starter.number, timeoutMilliseconds: 10_000) else {
                throw TimedOut(description: "the starter never heard \(statement)")
            }
            if case .message(let message, _)? = try starter.receive(from: keeper.processID), message.statements.contains(statement) {
                return
            }
        }
    }

    /// The keeper's end, within twenty seconds.
    func end() throws -> ChildProcess.Ending {
        guard let ending = try keeper.wait(timeoutMilliseconds: 20_000) else {
            throw TimedOut(description: "the keeper does not end; heard \(heard)")
        }
        ended = ending
        return ending
    }

    /// What the parts said that nobody read yet, without waiting.
    func rest() throws -> [String] {
        while try waitReadable(journal.number, timeoutMilliseconds: 0) { _ = try next() }
        return heard
    }

    /// SIGKILL to a part by its number.
    func endProcess(_ number: Int32) throws {
        let kill = try ChildProcess("/bin/kill", ["-KILL", "\(number)"], environment: [])
        _ = try kill.wait()
    }
}
