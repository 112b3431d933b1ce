import ArgumentParser
import ShrinkClient
import ShrinkProtocol

struct WatchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "watch", abstract: "Follow what the daemon decides about memory pressure, and why.",
        discussion: "One line a decision, the latest first, until interrupted. With --json one JSON document a line.")

    @Option(help: ArgumentHelp("End after so many decisions.", valueName: "n")) var count: Int?
    @OptionGroup var global: GlobalOptions

    func validate() throws { if let count, count < 1 { throw ValidationError("--count is 1 or more.") } }

    func run() throws {
        let client = try global.connect()
        var left = count ?? .max
        try perform { () throws(ShrinkdError) in
            do throws(ShrinkdError) {
                try follow(client, &left)
            } catch {
                // Leaving a series early is an error to the client, and what was wanted here.
                if left > 0 { throw error }
            }
        }
    }

    private func follow(_ client: ShrinkdClient, _ left: inout Int) throws(ShrinkdError) {
        try client.series(Methods.watchPressure, NoParameters()) { reply, _ in
            if global.json {
                Console.printJSONLine(DecisionDocument(reply.decision))
            } else {
                Console.say(PressureText.line(reply.decision))
            }
            left -= 1
            return left > 0 ? .proceed : .stop
        }
    }
}

struct TellCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "tell", abstract: "Tell the services that listen at the daemon's pressure socket to give memory back.",
        discussion: "For root and the user who runs the daemon. The daemon does it by itself when memory is short.")

    @OptionGroup var global: GlobalOptions

    func run() throws {
        let client = try global.connect()
        let reply = try perform { () throws(ShrinkdError) in try client.call(Methods.tellPressure, NoParameters()) }
        if global.json { Console.printJSON(reply) } else { Console.say("\(reply.listeners) services told") }
    }
}

/// Pressure for people.
enum PressureText {
    static func line(_ decision: WirePressureDecision) -> String {
        var text = "\(decision.number) \(decision.action)"
        if decision.goalBytes > 0 { text += " \(Size.readable(decision.goalBytes))" }
        text += " (\(decision.reason)): \(decision.text)"
        if let freed = decision.freedBytes {
            text += "; freed \(Size.readable(freed))"
            if let duration = decision.durationNanoseconds { text += " in \(Size.duration(duration))" }
        }
        if let failure = decision.failure { text += "; \(failure)" }
        return text
    }

    static func show(_ pressure: PressureReply) {
        Console.say("pressure: \(pressure.mode)")
        for room in pressure.headrooms {
            Console.say(
                "  \(room.scope): \(Size.readable(room.availableBytes)) of \(Size.readable(room.totalBytes)) available; shrinking from \(Size.readable(room.lowBytes)) to \(Size.readable(room.highBytes))"
            )
        }
        let stalls = [("memory", pressure.memoryStallPercent), ("I/O", pressure.ioStallPercent)]
            .map { "\($0.0) \($0.1.map { "\($0) %" } ?? "not told")" }
        Console.say("  stalled of the last 10 s: \(stalls.joined(separator: ", "))")
        Console.say(
            "  \(pressure.steps) steps freed \(Size.readable(pressure.freedBytes)) and stored \(Size.readable(pressure.storedBytes)); \(pressure.listeners) services listen"
        )
        if let last = pressure.decisions.last { Console.say("  last: \(line(last))") }
    }
}

struct PressureDocument: Encodable {
    struct Headroom: Encodable {
        var scope: String
        var totalBytes: Int
        var availableBytes: Int
        var lowBytes: Int
        var highBytes: Int
    }
    var mode: String
    var headrooms: [Headroom]
    var memoryStallPercent: Nullable<Double>
    var ioStallPercent: Nullable<Double>
    var steps: Int
    var freedBytes: Int
    var storedBytes: Int
    var listeners: Int
    var decisions: [DecisionDocument]

    init(_ reply: PressureReply) {
        mode = reply.mode
        headrooms = reply.headrooms.map {
            Headroom(
                scope: $0.scope, totalBytes: $0.totalBytes, availableBytes: $0.availableBytes, lowBytes: $0.lowBytes,
                highBytes: $0.highBytes)
        }
        memoryStallPercent = Nullable(value: reply.memoryStallPercent)
        ioStallPercent = Nullable(value: reply.ioStallPercent)
        (steps, freedBytes, storedBytes, listeners) = (reply.steps, reply.freedBytes, reply.storedBytes, reply.listeners)
        decisions = reply.decisions.map { DecisionDocument($0) }
    }
}

struct DecisionDocument: Encodable {
    var number: Int
    var time: Int
    var action: String
    var reason: String
    var text: String
    var goalBytes: Int
    var urgent: Bool
    var freedBytes: Nullable<Int>
    var storedBytes: Nullable<Int>
    var netFreedBytes: Nullable<Int>
    var durationNs: Nullable<Int>
    var failure: Nullable<String>

    init(_ decision: WirePressureDecision) {
        number = decision.number
        time = decision.time
        action = decision.action
        reason = decision.reason
        text = decision.text
        goalBytes = decision.goalBytes
        urgent = decision.urgent
        freedBytes = Nullable(value: decision.freedBytes)
        storedBytes = Nullable(value: decision.storedBytes)
        netFreedBytes = Nullable(value: decision.netFreedBytes)
        durationNs = Nullable(value: decision.durationNanoseconds)
        failure = Nullable(value: decision.failure)
    }
}
