import ArgumentParser
import ShrinkClient
import ShrinkProtocol

struct StatusCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "status", abstract: "How the daemon, its pools and its backup stand.")

    @OptionGroup var global: GlobalOptions

    func run() throws {
        let client = try global.connect()
        let status = try perform { () throws(ShrinkdError) in try client.call(Methods.status, NoParameters()) }
        if global.json { return Console.printJSON(StatusDocument(status)) }
        print("shrinkd \(status.version): \(status.pools) pools, \(status.objects) objects")
        var pages = Table([("PAGES", .left), ("COUNT", .right), ("BYTES", .right)])
        for (name, count) in [
            ("resident", status.pages.resident), ("zero", status.pages.zero), ("backed up", status.pages.backedUp),
            ("empty", status.pages.empty),
        ] {
            pages.add([name, "\(count)", Size.readable(count * 4096)])
        }
        print(pages.text)
        print("backup: \(status.backup.mount)")
        print("  stored: \(status.backup.bytesStored.map(Size.readable) ?? "not told")")
        print("  available: \(status.backup.bytesAvailable.map(Size.readable) ?? "without limit")")
        print("  orphans: \(status.backup.orphans)")
        if status.strayPages > 0 { print("stray pages: \(status.strayPages) (written by clients while the backup had them)") }
        if status.damagedPages > 0 { print("damaged pages: \(status.damagedPages) (see the daemon's log)") }
        for (name, feature) in status.features.sorted(by: { $0.key < $1.key }) {
            print("\(name): \(feature.available ? "yes" : "no")\(feature.reason.map { " (\($0))" } ?? "")")
        }
    }
}
