import ArgumentParser
import ShrinkEngine
import ShrinkLinux

/// The flags for `Copying`.
struct CopyOptions: ParsableArguments {
    @Option(help: "Threads that copy in the engine.") var workers = 3
    @Flag(help: "As in the daemon, whose clients are strangers: a thread of the pool's own writes its memory, and none has priority.")
    var strangers = false
    @Flag(
        inversion: .prefixedNo,
        help: "Run the engine's threads at nice \(Engine.aheadOfServer), ahead of the file server's; needs root or CAP_SYS_NICE.")
    var priority = true

    func validate() throws {
        guard workers > 0, workers <= 64 else { throw ValidationError("give 1 to 64 workers") }
    }

    var copying: Copying { Copying(workers: workers, strangers: strangers, takesPriority: priority && !strangers) }
}

/// How the measured engine copies.
struct Copying {
    var workers: Int
    var strangers = false
    var takesPriority = false

    /// For the closing lines.
    var text: String {
        "\(workers) workers" + (strangers ? " with clients as strangers" : takesPriority ? " at nice \(Engine.aheadOfServer)" : "")
    }

    /// Runs `body` as the engine's threads run, and those that it starts: its peers are measured at the nice value that the program was started with.
    func withPriority<R>(_ body: () throws -> R) throws -> R {
        guard takesPriority else { return try body() }
        let before = Niceness.ofThisThread
        defer { try? Niceness.setOfThisThread(before) }
        // What the figures say they were measured at must be true.
        if let lack = Engine.takePriority().reason { throw BenchError("\(lack); or give --no-priority") }
        return try body()
    }
}
