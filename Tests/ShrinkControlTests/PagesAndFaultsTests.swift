import FoundationEssentials
import ShrinkControl
import ShrinkEngine
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import TestSupport
import Testing
import Varlink

@Suite(.serialized) struct PagesAndFaultsTests {
    private struct Pages: Decodable {
        struct Run: Decodable, Equatable {
            var first: Int
            var count: Int
            var state: String
            var tier: Int?
        }
        struct Total: Decodable {
            var state: String
            var pages: Int
        }
        var id: Int
        var pageCount: Int
        var runs: [Run]
        var totals: [Total]
    }

    /// A pool with one object of which every fourth page is zero and the rest is not; returns its id.
    private func makeObject(_ control: ControlFixture, pages: Int, shrinks: Bool = true) throws -> Int {
        let engine = control.engine
        let pool = try engine.createPool(name: "p", owner: ThisProcess.userID, size: .mebibytes(32)).id
        let file = try engine.poolDescriptor(pool)
        let memory = try MappedMemory(sharing: file.number, count: 32 << 20)
        let object = try engine.createObject(in: pool, name: "o", size: ByteCount(pages * basePageSize))
        for page in 0..<pages { memory.bytes[object.offsetBytes.rawValue + page * basePageSize] = page % 4 == 0 ? 0 : 1 }
        try engine.unpin(object.id)
        if shrinks { #expect(engine.shrink(.object(object.id)).failure == nil) }
        return Int(object.id.rawValue)
    }

    @Test func aLongListComesInBoundedRepliesWithoutGaps() async throws {
        try await withControl { control in
            let pages = 6000
            let id = try makeObject(control, pages: pages)
            let client = try control.client()
            // Asked for piece by piece.
            var first: Int? = 0
            var (next, replies) = (0, 0)
            while let start = first {
                let reply = try client.ask(Methods.listPages, ListPagesParameters(objectId: id, firstPage: start))
                #expect(reply.runs.count <= Methods.pageRunChunk)
                for run in reply.runs {
                    #expect(run.firstPage == next)
                    #expect(run.state == (run.firstPage % 4 == 0 ? "zero" : "backedUp"))
                    next += run.count
                }
                replies += 1
                first = reply.nextFirstPage
            }
            #expect(next == pages && replies == 3, "\(replies) replies")
            #expect(client.refusal(Methods.listPages, ListPagesParameters(objectId: id, firstPage: -1)) == "InvalidParameter firstPage")
            #expect(client.refusal(Methods.listPages, ListPagesParameters(objectId: id, firstPage: pages + 1)) == "InvalidSize")
            #expect(client.refusal(Methods.listPages, ListPagesParameters(objectId: id + 1)) == "NoSuchObject")
            // And as a series, by the tool.
            let run = try CommandRun(["pages", "\(id)", "--json"], socket: control.path)
            #expect(run.status == 0 && run.errors.isEmpty, "\(run.errors)")
            let document = try run.decode(Pages.self)
            #expect(document.id == id && document.pageCount == pages && document.runs.count == 3000)
            #expect(
                document.runs.prefix(2) == [
                    Pages.Run(first: 0, count: 1, state: "zero", tier: nil), Pages.Run(first: 1, count: 3, state: "backed_up", tier: nil),
                ])
            #expect(Dictionary(uniqueKeysWithValues: document.totals.map { ($0.state, $0.pages) }) == ["zero": 1500, "backed_up": 4500])
        }
    }

    @Test func theMapHasLettersWhereThereIsNoTerminal() async throws {
        try await withControl { control in
            let id = try makeObject(control, pages: 130)
            let run = try CommandRun(["pages", "\(id)"], socket: control.path)
            #expect(run.status == 0, "\(run.errors)")
            let lines = run.text.split(separator: "\n")
            #expect(lines[0] == "object \(id): o, 130 pages")
            #expect(lines[1] == "  0 " + String(repeating: "zBBB", count: 16))
            #expect(lines[3] == "128 zB")
            #expect(!run.text.contains("\u{1B}"))
            #expect(lines.contains { $0.contains("zero") && $0.contains(" 33 ") }, "\(run.text)")
            #expect(try CommandRun(["pages", "77"], socket: control.path).status == 1)
        }
    }

    @Test func aTerminalGetsColoursUnlessNoColorIsSet() async throws {
        guard Machine.has("/usr/bin/script") else { return Machine.lacks("script(1)", so: "the coloured map is not looked at") }
        try await withControl { control in
            let id = try makeObject(control, pages: 8)
            func onTerminal(_ environment: [String]) throws -> String {
                let command = Machine.program("shrinkctl") + " pages \(id) --socket " + control.path
                return try runProgram(
                    "/usr/bin/script", ["-qec", command, "/dev/null"], environment: ["PATH=/usr/bin:/bin", "SHELL=/bin/sh"] + environment
                ).output
            }
            #expect(try onTerminal([]).contains("\u{1B}[30;47mz\u{1B}[0m\u{1B}[30;44mB\u{1B}[0m"))
            #expect(try !onTerminal(["NO_COLOR=1"]).contains("\u{1B}["))
        }
    }

    @Test func aPlainDirectoryTakesNoFaultsAndSaysSo() async throws {
        try await withControl { control in
            let client = try control.client()
            #expect(client.refusal(Methods.setFault, SetFaultParameters(operation: "write", errno: "EIO")) == "FaultsNotAllowed")
            #expect(client.refusal(Methods.listFaults, NoParameters()) == "FaultsNotAllowed")
            #expect(client.refusal(Methods.clearFaults, NoParameters()) == "FaultsNotAllowed")
            #expect(client.refusal(Methods.setFault, SetFaultParameters(operation: "a b", errno: "EIO")) == "InvalidParameter operation")
            #expect(client.refusal(Methods.setFault, SetFaultParameters(operation: "a", errno: "EIO\n")) == "InvalidParameter errno")
            let run = try CommandRun(["fault", "list"], socket: control.path)
            #expect(run.status == 1 && run.isOneLine && run.errors.contains("--allow-faults"), "\(run.errors)")
            for arguments in [["fault", "set", "write"], ["fault", "set", "write", "--errno", "EIO", "--delay", "5"]] {
                #expect(try CommandRun(arguments, socket: control.path).status == 64)
            }
        }
    }

    @Test func onlyWhoRunsTheDaemonSetsFaults() async throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "faults asked for by another user are not tried") }
        try await withControl { control in
            let run = try CommandRun(["fault", "set", "write", "--errno", "EIO"], socket: control.path, user: 65534)
            #expect(run.status == 77 && run.isOneLine, "\(run.errors)")
            #expect(try CommandRun(["fault", "list"], socket: control.path, user: 65534).status == 77)
        }
    }
}

extension Machine {
    fileprivate static func has(_ program: String) -> Bool { (try? Files.status(of: program)) != nil }
}
