import Glibc
import ShrinkLinux
import SystemPackage

/// Free huge pages of 2 MiB for a test, as many as it asks for and no fewer; the machine's own setting comes back afterwards.
///
/// A child process of its own session has set them aside and takes them back when this one lets go or dies, however it dies. It holds a lock, so that two
/// runs of tests on one machine do not take each other's.
public final class HugePageReserve: Sendable {
    private let child: ChildProcess
    private let lifeline: Monitor<SharedDescriptor?>

    /// How long for another run of tests that has huge pages.
    private static let patienceSeconds = 240

    private static let script = """
        trap '' HUP INT TERM
        nr=/proc/sys/vm/nr_hugepages
        sys=/sys/kernel/mm/hugepages/hugepages-2048kB
        [ -d $sys ] || { echo "huge pages of 2 MiB"; exit 1; }
        exec 9<$nr
        flock -w "$2" 9 || { echo "huge pages that another run of tests lets go of"; exit 1; }
        old=$(cat $sys/nr_hugepages)
        want=0
        [ "$1" -gt 0 ] && want=$((old - $(cat $sys/free_hugepages) + $1))
        [ "$1" -eq 0 ] && [ "$(cat $sys/free_hugepages)" -ne "$old" ] && { echo "huge pages that nobody uses"; exit 1; }
        (echo $want > $sys/nr_hugepages) 2>/dev/null || { echo "the right to set huge pages aside"; exit 1; }
        if [ $(cat $sys/free_hugepages) -lt "$1" ]; then
            echo $old > $sys/nr_hugepages
            echo "$1 free huge pages"
            exit 1
        fi
        echo ok
        read -r _
        echo $old > $sys/nr_hugepages
        """

    private init(_ child: ChildProcess, _ lifeline: SharedDescriptor) {
        self.child = child
        self.lifeline = Monitor(lifeline)
    }

    deinit { release() }

    /// Nil if the machine can't give them; that is told (`Machine.lacks`). 0: none at all on the whole machine, for as long as this lives.
    public static func take(_ count: Int, so consequence: String) async throws -> HugePageReserve? {
        let result: Result<HugePageReserve?, any Error> = await withCheckedContinuation { continuation in
            // Waiting blocks, and other tests need the threads of the pool meanwhile.
            do throws(Errno) {
                try DedicatedThread("huge-pages") {
                    continuation.resume(returning: Result { try takeBlocking(count, consequence) })
                }.detach()
            } catch { continuation.resume(returning: .failure(error)) }
        }
        return try result.get()
    }

    private static func takeBlocking(_ count: Int, _ consequence: String) throws -> HugePageReserve? {
        let (child, answers, lifeline) = try start(count)
        let answer = line(answers)
        if answer == "ok" { return HugePageReserve(child, lifeline) }
        _ = try child.wait()
        Machine.lacks(answer.isEmpty ? "huge pages" : answer, so: consequence)
        return nil
    }

    /// What is kept of the pipes is duplicates: the child has its ends alone when this returns.
    private static func start(_ count: Int) throws -> (ChildProcess, answers: SharedDescriptor, lifeline: SharedDescriptor) {
        let input = try ThisProcess.pipe()
        let output = try ThisProcess.pipe()
        let (reading, writing) = (input.output.number, output.input.number)
        let child = try ChildProcess(
            "/bin/sh", ["-c", script, "sh", "\(count)", "\(patienceSeconds)"], environment: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            standardInput: reading, standardOutput: writing, session: .own)
        return (child, SharedDescriptor(try output.output.duplicate()), SharedDescriptor(try input.input.duplicate()))
    }

    private static func line(_ answers: SharedDescriptor) -> String {
        var bytes: [UInt8] = []
        var byte: UInt8 = 0
        while Glibc.read(answers.number, &byte, 1) == 1, byte != UInt8(ascii: "\n") { bytes.append(byte) }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// Gives them back now; returns when the machine's setting is what it was.
    public func release() {
        let isMine = lifeline.withLock { lifeline in
            defer { lifeline = nil }
            return lifeline != nil
        }
        if isMine { _ = try? child.wait() }
    }
}

/// All of the machine's free huge pages, taken so that nobody else finds one.
public final class HugePageHoard: Sendable {
    private let file: Monitor<SharedDescriptor?>

    /// `leaving`: so many stay free.
    public init(leaving: Int = 0) throws {
        let count = try HugePages().available - leaving
        guard count > 0 else {
            file = Monitor(nil)
            return
        }
        let made = try MemoryFile.makeSealedOfHugePages("hoard", size: count * HugePages.pageBytes)
        try Files.allocate(made.number, mode: 0, at: 0, length: count * HugePages.pageBytes)
        file = Monitor(SharedDescriptor(made))
    }

    public func letGo() { file.withLock { $0 = nil } }
}
