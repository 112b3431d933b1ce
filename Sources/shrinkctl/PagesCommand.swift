import ArgumentParser
import ShrinkClient
import ShrinkLinux
import ShrinkProtocol

struct PagesCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pages", abstract: "Show where an object's pages are, as a map. Changes no page's state.",
        discussion: """
            On a terminal the map is in colour; NO_COLOR in the environment, or another output, gives letters: R resident, z zero, . empty, \
            x purged, 0 1 2 … backed up in that tier (0 is the fastest), B backed up where the backup does not tell the tier. A large object's cell \
            stands for several pages and shows what most of them are.
            """)

    @Argument(help: "The object's id.") var id: Int
    @OptionGroup var global: GlobalOptions

    func run() throws {
        let client = try global.connect()
        let object = try perform { () throws(ShrinkdError) in
            try client.call(Methods.getObject, ObjectAddress(objectId: id)).bufferObject
        }
        let pageBytes = object.pageBytes ?? 4096
        let pageCount = object.roundedBytes / pageBytes
        var map = PageMap(pageCount: pageCount, pageBytes: pageBytes)
        var runs: [WirePageRun] = []
        let (wantsRuns, pages) = (global.json, ListPagesParameters(objectId: id))
        try perform { () throws(ShrinkdError) in
            try client.series(Methods.listPages, pages) { reply, _ in
                for run in reply.runs {
                    map.add(run)
                    if wantsRuns { runs.appendMerging(run) }
                }
                return .proceed
            }
        }
        if global.json { return Console.printJSON(PagesDocument(object, runs, map.totals)) }
        let style: PageMap.Style =
            Streams.isTerminal(1) && (ThisProcess.environment("NO_COLOR") ?? "").isEmpty ? .colour : .letters
        Console.say(
            "object \(object.objectId): \(object.objectName), \(pageCount) pages\(pageBytes == 4096 ? "" : " of \(Size.readable(pageBytes))")"
        )
        Console.say(map.text(style))
    }
}

extension [WirePageRun] {
    /// A run may be cut where a reply ended.
    fileprivate mutating func appendMerging(_ run: WirePageRun) {
        if let last, last.state == run.state, last.tier == run.tier, last.firstPage + last.count == run.firstPage {
            self[count - 1].count += run.count
        } else {
            append(run)
        }
    }
}

struct PagesDocument: Encodable {
    struct Run: Encodable {
        var first: Int
        var count: Int
        var state: String
        var tier: Nullable<Int>
    }
    struct Total: Encodable {
        var state: String
        var tier: Nullable<Int>
        var pages: Int
    }
    var id: Int
    var pageCount: Int
    var pageBytes: Int
    var runs: [Run]
    var totals: [Total]

    init(_ object: WireObject, _ runs: [WirePageRun], _ totals: [(PageMap.Kind, Int)]) {
        id = object.objectId
        pageBytes = object.pageBytes ?? 4096
        pageCount = object.roundedBytes / pageBytes
        self.runs = runs.map {
            Run(first: $0.firstPage, count: $0.count, state: PageMap.Kind($0).word, tier: Nullable(value: $0.tier))
        }
        self.totals = totals.map { Total(state: $0.0.word, tier: Nullable(value: $0.0.tier), pages: $0.1) }
    }
}
