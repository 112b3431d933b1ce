import ArgumentParser
import ShrinkClient
import ShrinkProtocol

struct StatusCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "status", abstract: "How the daemon, its pools and its backup stand.")

    @OptionGroup var global: GlobalOptions

    func run() throws {
        let client = try global.connect()
        let status = try perform { () throws(ShrinkdError) in try client.call(Methods.status, NoParameters()) }
        var users: [WireUserUsage] = []
        try perform { () throws(ShrinkdError) in
            try client.series(Methods.listUsers, ListUsersParameters()) { reply, _ in
                users += reply.users
                return .proceed
            }
        }
        let leases = try perform { () throws(ShrinkdError) in try client.call(Methods.getLeases, NoParameters()) }
        // A daemon that does not look for pressure has nothing to tell about it.
        let pressure = try? client.call(Methods.getPressure, NoParameters())
        if global.json { return Console.printJSON(StatusDocument(status, pressure, users, leases)) }
        Console.say("shrinkd \(status.version): \(status.pools) pools, \(status.objects) objects")
        var pages = Table([("PAGES", .left), ("COUNT", .right), ("BYTES", .right)])
        for (name, count) in [
            ("resident", status.pages.resident), ("zero", status.pages.zero), ("backed up", status.pages.backedUp),
            ("empty", status.pages.empty),
        ] {
            pages.add([name, "\(count)", Size.readable(count * 4096)])
        }
        Console.say(pages.text)
        Console.say("backup: \(status.backup.mount)")
        if let silent = status.backup.silentMilliseconds {
            Console.say("  not answering for \(silent) ms: what follows is what it last said (see the log of backupfs)")
        }
        Console.say("  stored: \(status.backup.bytesStored.map(Size.readable) ?? "not told")")
        Console.say("  available: \(status.backup.bytesAvailable.map(Size.readable) ?? "without limit")")
        Console.say("  orphans: \(status.backup.orphans)")
        showUsers(users)
        if leases.leasedObjects > 0 || leases.revocations > 0 || leases.unanswered > 0 {
            Console.say(
                "leases: \(leases.leasedObjects) objects; users asked \(leases.revocations) times, \(leases.answered) let go, \(leases.unanswered) did not (see the daemon's log)"
            )
        }
        if status.strayPages > 0 { Console.say("stray pages: \(status.strayPages) (written by clients while the backup had them)") }
        if status.damagedPages > 0 { Console.say("damaged pages: \(status.damagedPages) (see the daemon's log)") }
        if let survival = status.survival {
            Console.say(
                survival.descriptorLimit.map { "kept over restarts: \(survival.descriptors) descriptors of at most \($0)" }
                    ?? "kept over restarts: nothing (whoever started the engine keeps no descriptors)")
            if survival.starts > 1 {
                Console.say(
                    "engine starts: \(survival.starts); pages healed \(survival.healedPages), lost \(survival.lostPages); clients awaited \(survival.waitingSessions)"
                )
            }
        }
        if let pressure { PressureText.show(pressure) }
        for (name, feature) in status.features.sorted(by: { $0.key < $1.key }) {
            Console.say("\(name): \(feature.available ? "yes" : "no")\(feature.reason.map { " (\($0))" } ?? "")")
        }
    }

    private func showUsers(_ users: [WireUserUsage]) {
        var table = Table([
            ("UID", .right), ("POOLS", .right), ("OBJECTS", .right), ("POOL BYTES", .right), ("RESIDENT", .right), ("BACKED UP", .right),
        ])
        func of(_ value: String, _ limit: String?) -> String { limit.map { value + " of " + $0 } ?? value }
        for user in users {
            table.add([
                "\(user.uid)", of("\(user.pools)", user.poolLimit.map { "\($0)" }), of("\(user.objects)", user.objectLimit.map { "\($0)" }),
                of(Size.readable(user.poolBytes), user.poolBytesLimit.map(Size.readable)), Size.readable(user.residentBytes),
                of(Size.readable(user.backedUpBytes), user.backedUpLimitBytes.map(Size.readable)),
            ])
        }
        if !users.isEmpty { Console.say(table.text) }
    }
}
