import ArgumentParser
import ShrinkClient
import ShrinkProtocol

struct ShrinkCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "shrink", abstract: "Move pages out to the backup.",
        discussion: "Give exactly one target. Pinned objects are left alone. What is out stays out, whatever ends the command.")

    @Option(help: ArgumentHelp("Free so much, from the longest unused objects.", valueName: "size")) var bytes: Size?
    @Option(help: ArgumentHelp("One object.", valueName: "id")) var object: Int?
    @Option(help: ArgumentHelp("One pool.", valueName: "name")) var pool: String?
    @Option(help: ArgumentHelp("Whose pool, if not yours (root only).", valueName: "uid")) var owner: Int?
    @Flag(help: "Everything that you see.") var all = false
    @OptionGroup var global: GlobalOptions

    func validate() throws { _ = try target() }

    private func target() throws -> WireTarget {
        try onlyTarget(
            [
                bytes.map { .goalBytes($0.bytes) }, object.map { .object($0) }, pool.map { .pool(PoolAddress(name: $0, ownerUid: owner)) },
                all ? .everything : nil,
            ],
            owner, "--bytes SIZE, --object ID, --pool NAME or --all")
    }

    func run() throws {
        let client = try global.connect()
        let parameters = ShrinkParameters(try target())
        let progress = ProgressLine()
        var last = ShrinkReply()
        do throws(CommandFailure) {
            try perform { () throws(ShrinkdError) in
                try client.series(Methods.shrink, parameters) { reply, continues in
                    last = reply
                    if continues { progress.show("\(reply.scannedPages) pages scanned, \(Size.readable(reply.freedBytes)) freed") }
                    return .proceed
                }
            }
        } catch {
            progress.clear()
            throw error
        }
        progress.clear()
        if global.json { Console.printJSON(ShrinkDocument(last)) } else { Console.say(Self.table(last)) }
        if let failure = last.failure {
            throw partly("shrunk in part: \(failure.message)", failure)
        }
        if let goal = last.goalBytes, last.freedBytes < goal {
            throw partly("only \(last.freedBytes) of \(goal) bytes were freed: the rest is pinned, busy or out already", nil)
        }
    }

    private static func table(_ reply: ShrinkReply) -> String {
        var table = Table([("SHRINK", .left), ("", .right)])
        if let goal = reply.goalBytes { table.add(["goal", Size.readable(goal)]) }
        table.add(["pages scanned", "\(reply.scannedPages)"])
        table.add(["pages backed up", "\(reply.backedUpPages)"])
        table.add(["zero pages", "\(reply.zeroPages)"])
        table.add(["freed", Size.readable(reply.freedBytes)])
        if let huge = reply.hugePageBytes {
            table.add(["of that huge pages", Size.readable(huge)])
            table.add(["returned to the huge-page pool", reply.returnedHugePageBytes.map(Size.readable) ?? "not measured"])
        }
        table.add(["stored", Size.readable(reply.storedBytes)])
        table.add(["net freed", Size.readable(reply.netFreedBytes)])
        table.add(["objects skipped", "\(reply.skippedObjects)"])
        table.add(["time", Size.duration(reply.durationNanoseconds)])
        table.add(["speed", Size.rate(pages: reply.backedUpPages + reply.zeroPages, nanoseconds: reply.durationNanoseconds)])
        return table.text
    }
}

struct RecoverCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "recover", abstract: "Bring pages back from the backup.",
        discussion:
            "Give exactly one target. A page that cannot be brought back is counted and does not stop the rest; the exit status is 1.")

    @Option(help: ArgumentHelp("One object.", valueName: "id")) var object: Int?
    @Option(help: ArgumentHelp("One pool.", valueName: "name")) var pool: String?
    @Option(help: ArgumentHelp("Whose pool, if not yours (root only).", valueName: "uid")) var owner: Int?
    @Flag(help: "Everything that you see.") var all = false
    @OptionGroup var global: GlobalOptions

    func validate() throws { _ = try target() }

    private func target() throws -> WireTarget {
        try onlyTarget(
            [object.map { .object($0) }, pool.map { .pool(PoolAddress(name: $0, ownerUid: owner)) }, all ? .everything : nil],
            owner, "--object ID, --pool NAME or --all")
    }

    func run() throws {
        guard let parameters = RecoverParameters(try target()) else { throw ValidationError("recover takes no --bytes.") }
        let client = try global.connect()
        let progress = ProgressLine()
        var last = RecoverReply()
        do throws(CommandFailure) {
            try perform { () throws(ShrinkdError) in
                try client.series(Methods.recover, parameters) { reply, continues in
                    last = reply
                    if continues { progress.show("\(reply.recoveredPages) pages recovered, \(reply.failedPages) failed") }
                    return .proceed
                }
            }
        } catch {
            progress.clear()
            throw error
        }
        progress.clear()
        if global.json { Console.printJSON(RecoverDocument(last)) } else { Console.say(Self.table(last)) }
        if let failure = last.failure { throw partly("recovered in part, \(last.failedPages) pages failed: \(failure.message)", failure) }
        if last.failedPages > 0 { throw partly("\(last.failedPages) pages could not be recovered; see the daemon's log", nil) }
    }

    private static func table(_ reply: RecoverReply) -> String {
        var table = Table([("RECOVER", .left), ("", .right)])
        table.add(["pages recovered", "\(reply.recoveredPages)"])
        table.add(["pages failed", "\(reply.failedPages)"])
        table.add(["time", Size.duration(reply.durationNanoseconds)])
        table.add(["speed", Size.rate(pages: reply.recoveredPages, nanoseconds: reply.durationNanoseconds)])
        return table.text
    }
}

/// The one target that was given.
private func onlyTarget(_ given: [WireTarget?], _ owner: Int?, _ choice: String) throws -> WireTarget {
    let targets = given.compactMap { $0 }
    guard targets.count == 1 else {
        throw ValidationError(targets.isEmpty ? "No target: give \(choice)." : "More than one target: give one of \(choice).")
    }
    if owner != nil {
        guard case .pool = targets[0] else { throw ValidationError("--owner needs --pool.") }
    }
    return targets[0]
}

/// Done in part; the document is out already.
private func partly(_ message: String, _ failure: WireFailure?) -> CommandFailure {
    var result = CommandFailure(message, name: failure == nil ? "partly" : CommandFailure(ShrinkdError(failure!)).name)
    result.isReported = true
    return result
}
