import ArgumentParser
import ShrinkClient
import ShrinkProtocol

struct FaultCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "fault", abstract: "Make the store fail on purpose, to see what becomes of it.",
        discussion: "Only where shrinkd was started with --allow-faults, and for root or the user who runs it.",
        subcommands: [FaultSetCommand.self, FaultListCommand.self, FaultClearCommand.self])
}

struct FaultSetCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "set", abstract: "Set a fault beside those that are set.",
        discussion: """
            Operations: open, create, remove, resize, read, write, punch, sync, seek, status, list, hint.
            For example: shrinkctl fault set write --errno ENOSPC --every 100 --count 3
            """)

    @Argument(help: "What fails.") var operation: String
    @Option(help: ArgumentHelp("The error by its name; this or --delay.", valueName: "name")) var errno: String?
    @Option(help: ArgumentHelp("Wait so long and go on; this or --errno.", valueName: "milliseconds")) var delay: Int?
    @Option(help: ArgumentHelp("The share of calls, by chance.", valueName: "0..1")) var probability: Double?
    @Option(help: ArgumentHelp("Each Nth call.", valueName: "n")) var every: Int?
    @Option(help: ArgumentHelp("At most so many times.", valueName: "n")) var count: Int?
    @Option(help: ArgumentHelp("On one object alone.", valueName: "id")) var object: Int?
    @OptionGroup var global: GlobalOptions

    func validate() throws {
        if (errno == nil) == (delay == nil) { throw ValidationError("Give --errno NAME or --delay MILLISECONDS.") }
        if probability != nil, every != nil { throw ValidationError("Give --probability or --every, not both.") }
    }

    func run() throws {
        let client = try global.connect()
        let fault = SetFaultParameters(
            operation: operation, errno: errno, delayMilliseconds: delay, probability: probability, every: every, count: count,
            objectId: object)
        _ = try perform { () throws(ShrinkdError) in try client.call(Methods.setFault, fault) }
        try FaultListCommand.show(client, global)
    }
}

struct FaultListCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "List the faults that are set, and how often each struck.")

    @OptionGroup var global: GlobalOptions

    func run() throws { try Self.show(try global.connect(), global) }

    static func show(_ client: ShrinkdClient, _ global: GlobalOptions) throws {
        let faults = try perform { () throws(ShrinkdError) in try client.call(Methods.listFaults, NoParameters()).faults }
        if global.json { return Console.printJSON(FaultListDocument(faults)) }
        if faults.isEmpty { return Console.say("no faults are set") }
        var table = Table([
            ("OPERATION", .left), ("EFFECT", .left), ("WHEN", .left), ("OBJECT", .right), ("CALLS", .right), ("HITS", .right),
        ])
        for fault in faults {
            let effect = fault.errno ?? fault.delayMilliseconds.map { "wait \($0) ms" } ?? ""
            var when = fault.probability.map { "probability \($0)" } ?? fault.every.map { $0 == 1 ? "always" : "every \($0)" } ?? ""
            if let count = fault.count { when += ", \(count) times" }
            table.add([
                fault.operation, effect, when, fault.objectId.map { "\($0)" } ?? "all", "\(fault.seenCalls)", "\(fault.hits)",
            ])
        }
        Console.say(table.text)
    }
}

struct FaultClearCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "clear", abstract: "Take all faults away.")

    @OptionGroup var global: GlobalOptions

    func run() throws {
        let client = try global.connect()
        _ = try perform { () throws(ShrinkdError) in try client.call(Methods.clearFaults, NoParameters()) }
        if global.json { return Console.printJSON(FaultListDocument([])) }
        Console.say("no faults are set")
    }
}

struct FaultListDocument: Encodable {
    struct Fault: Encodable {
        var operation: String
        var errno: Nullable<String>
        var delayMs: Nullable<Int>
        var probability: Nullable<Double>
        var every: Nullable<Int>
        var count: Nullable<Int>
        var objectId: Nullable<Int>
        var seenCalls: Int
        var hits: Int
    }
    var faults: [Fault]

    init(_ faults: [WireFault]) {
        self.faults = faults.map {
            Fault(
                operation: $0.operation, errno: Nullable(value: $0.errno), delayMs: Nullable(value: $0.delayMilliseconds),
                probability: Nullable(value: $0.probability), every: Nullable(value: $0.every), count: Nullable(value: $0.count),
                objectId: Nullable(value: $0.objectId), seenCalls: $0.seenCalls, hits: $0.hits)
        }
    }
}
