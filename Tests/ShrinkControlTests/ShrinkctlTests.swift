import FoundationEssentials
import Glibc
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import TestSupport
import Testing

/// One run of `shrinkctl`, its two streams apart.
struct CommandRun {
    var status: Int32
    var output: [UInt8]
    var errors: String
    var text: String { String(decoding: output, as: UTF8.self) }

    /// `user` runs it under another uid; `socket` goes into the environment.
    init(_ arguments: [String], socket: String? = nil, environment: [String] = [], user: UInt32? = nil) throws {
        let out = try MemoryFile.make("out", size: 0)
        let err = try MemoryFile.make("err", size: 0)
        var program = Machine.program("shrinkctl")
        var all = arguments
        if let user {
            all = ["--reuid=\(user)", "--regid=\(user)", "--clear-groups", program] + arguments
            program = "/usr/bin/setpriv"
        }
        let child = try ChildProcess(
            program, all, environment: ["PATH=/usr/bin:/bin"] + (socket.map { ["SHRINKD_SOCKET=" + $0] } ?? []) + environment,
            standardInput: nil, standardOutput: out.number, standardError: err.number)
        guard let ending = try child.wait(timeoutMilliseconds: 60_000) else {
            child.signal(SIGKILL)
            _ = try child.wait()
            throw Errno.timedOut
        }
        if case .exited(let code) = ending { status = code } else { status = -1 }
        output = try Self.contents(out.number)
        errors = String(decoding: try Self.contents(err.number), as: UTF8.self)
    }

    private static func contents(_ fd: CInt) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: try Files.status(fd).sizeBytes)
        _ = try bytes.withUnsafeMutableBytes { try Files.read(fd, into: $0, at: 0) }
        return bytes
    }

    func decode<D: Decodable>(_ type: D.Type) throws -> D {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        return try decoder.decode(type, from: Data(output))
    }

    /// The members of the document, spelled as they are.
    var members: Set<String> { (try? JSONDecoder().decode([String: Ignored].self, from: Data(output))).map { Set($0.keys) } ?? [] }

    private struct Ignored: Decodable {
        init(from decoder: any Decoder) {}
    }

    var isOneLine: Bool { errors.hasPrefix("shrinkctl: ") && errors.hasSuffix("\n") && errors.count { $0 == "\n" } == 1 }
}

@Suite(.serialized) struct ShrinkctlTests {
    @Test(arguments: [
        ["shrink"], ["recover"], ["shrink", "--all", "--pool", "p"], ["shrink", "--bytes", "12X"], ["shrink", "--bytes", "-1"],
        ["shrink", "--bytes", "99999999999G"], ["recover", "--bytes", "1M"], ["recover", "--all", "--object", "1"],
        ["pool", "create", "p"],
        ["pool", "create", "p", "--size", ""], ["object", "create", "p", "o"],
        ["object", "create", "p", "o", "--size", "1M", "--priority", "4"],
        ["object", "read", "x"], ["object", "read", "1", "--json"], ["nonsense"], ["status", "--nonsense"],
        ["shrink", "--all", "--owner", "3"],
    ])
    func wrongUsageIsToldInOneLineWithStatus64(_ arguments: [String]) throws {
        let run = try CommandRun(arguments, socket: "/nonexistent")
        #expect(run.status == 64, "\(run.errors)")
        #expect(run.isOneLine, "\(run.errors)")
    }

    struct Failure: Decodable {
        struct Detail: Decodable {
            var name: String
            var message: String
            var exitStatus: Int32
        }
        var error: Detail
    }

    @Test func withoutADaemonItSaysHowToStartOne() throws {
        let scratch = try ScratchDirectory()
        let path = scratch.file("io.shrinkd")
        let run = try CommandRun(["status", "--json", "--socket", path])
        #expect(run.status == 69 && run.isOneLine && run.errors.contains("start it with `shrinkd`"), "\(run.errors)")
        #expect(try run.decode(Failure.self).error.name == "not_running")
        #expect(try run.decode(Failure.self).error.exitStatus == 69)
        // The order in which sockets are looked for.
        #expect(try CommandRun(["status"], socket: path).errors.contains(path))
        #expect(try CommandRun(["--socket", path, "status"], socket: "/else").errors.contains(path))
        let own = try CommandRun(["status"], environment: ["XDG_RUNTIME_DIR=" + scratch.path])
        #expect(own.errors.contains(Machine.isRoot ? "/run/shrinkd/io.shrinkd" : scratch.path + "/shrinkd/io.shrinkd"), "\(own.errors)")
        #expect(try CommandRun(["--version"]).text == "0.1.0\n")
        #expect(try CommandRun(["--help"]).text.contains("69  shrinkd is not running"))
    }

    struct Created: Decodable {
        var id: Int
        var pool: String
        var sizeBytes: Int
        var pinCount: Int
    }
    struct Shown: Decodable {
        var pages: Status.Pages
    }
    struct Shrunk: Decodable {
        var goalBytes: Int?
        var scannedPages: Int
        var backedUpPages: Int
        var zeroPages: Int
        var freedBytes: Int
        var storedBytes: Int
        var netFreedBytes: Int
        var durationNs: Int
    }
    struct Recovered: Decodable {
        var recoveredPages: Int
        var failedPages: Int
        var durationNs: Int
    }
    struct Status: Decodable {
        struct Pages: Decodable {
            var resident: Int
            var zero: Int
            var backedUp: Int
            var empty: Int
        }
        struct Backup: Decodable {
            var mount: String
            var bytesStored: Int?
            var bytesAvailable: Int?
            var orphans: Int
        }
        struct Feature: Decodable {
            var available: Bool
            var reason: String?
        }
        var pools: Int
        var objects: Int
        var pages: Pages
        var backup: Backup
        var features: [String: Feature]
    }

    @Test func aFileGoesInOutAndComesBackTheSame() async throws {
        let seed = testSeed("aFileGoesIn")
        try await withControl { control in
            func json<D: Decodable>(_ type: D.Type, _ arguments: [String]) throws -> D {
                let run = try CommandRun(arguments + ["--json"], socket: control.path)
                #expect(run.status == 0 && run.errors == "", "\(arguments): \(run.errors)")
                return try run.decode(type)
            }
            let scratch = try ScratchDirectory()
            let pattern = PagePattern(seed: seed)
            var content: [UInt8] = []
            for page in 0..<1200 { content += pattern.page(page, zeroEvery: 4) }
            content.removeLast(77)
            try Files.replaceContents(of: scratch.file("in"), with: content)
            _ = try json(Empty.self, ["pool", "create", "demo", "--size", "64M"])
            let object = try json(Created.self, ["object", "create", "demo", "file", "--size", "8M", "--from", scratch.file("in")])
            #expect(object.pool == "demo" && object.sizeBytes == 8 << 20 && object.pinCount == 0)
            let shrunk = try json(Shrunk.self, ["shrink", "--object", "\(object.id)"])
            #expect(shrunk.goalBytes == nil && shrunk.backedUpPages + shrunk.zeroPages == 1200 && shrunk.freedBytes == 1200 * 4096)
            let status = try json(Status.self, ["status"])
            #expect(status.pages.backedUp == shrunk.backedUpPages && status.pages.resident == 0 && status.pools == 1)
            #expect(status.features["passthrough"]?.available == false && status.features["passthrough"]?.reason != nil)
            // Read while it is out, to a pipe's place and to a file.
            let read = try CommandRun(["object", "read", "\(object.id)"], socket: control.path)
            let whole = content + [UInt8](repeating: 0, count: (8 << 20) - content.count)
            // Compared first: a failed expectation would describe megabytes.
            let isReadWhole = read.output == whole
            #expect(read.status == 0 && isReadWhole)
            _ = try json(Empty.self, ["object", "read", "\(object.id)", "--output", scratch.file("out")])
            let isFileWhole = try Files.contents(of: scratch.file("out"), limit: 16 << 20) == whole
            #expect(isFileWhole)
            let recovered = try json(Recovered.self, ["recover", "--all"])
            #expect(recovered.recoveredPages == shrunk.backedUpPages && recovered.failedPages == 0)
            let isRecoveredWhole = try CommandRun(["object", "read", "\(object.id)"], socket: control.path).output == whole
            #expect(isRecoveredWhole)
            // Written anew, shorter: the rest is zero.
            try Files.replaceContents(of: scratch.file("short"), with: [1, 2, 3])
            _ = try json(Empty.self, ["object", "write", "\(object.id)", "--from", scratch.file("short")])
            let rewritten = try CommandRun(["object", "read", "\(object.id)"], socket: control.path)
            let isRewritten = rewritten.output == [1, 2, 3] + [UInt8](repeating: 0, count: (8 << 20) - 3)
            #expect(isRewritten, "what the shorter file left of the object is not zero")
            // Holes stayed holes: no page was made only to be set to zero.
            #expect(try json(Status.self, ["status"]).pages.resident <= 1200)
            // Tables for people.
            for arguments in [
                ["status"], ["pool", "list"], ["object", "list"], ["object", "show", "\(object.id)"], ["shrink", "--pool", "demo"],
            ] {
                let run = try CommandRun(arguments, socket: control.path)
                #expect(run.status == 0 && run.errors == "" && !run.text.isEmpty, "\(arguments): \(run.errors)")
            }
            _ = try json(Empty.self, ["object", "destroy", "\(object.id)"])
            _ = try json(Empty.self, ["pool", "destroy", "demo"])
            #expect(try json(Status.self, ["status"]).pools == 0)
        }
    }

    struct Empty: Decodable {}

    @Test func documentsHaveTheMembersThatScriptsReadSpelledInSnakeCase() async throws {
        try await withControl { control in
            func members(_ arguments: [String]) throws -> Set<String> {
                try CommandRun(arguments + ["--json"], socket: control.path).members
            }
            _ = try CommandRun(["pool", "create", "p", "--size", "1M"], socket: control.path)
            #expect(try members(["object", "create", "p", "o", "--size", "4K"]).isSuperset(of: ["id", "pool", "size_bytes"]))
            #expect(
                try members(["shrink", "--all"]).isSuperset(of: [
                    "goal_bytes", "scanned_pages", "backed_up_pages", "zero_pages", "freed_bytes", "stored_bytes", "net_freed_bytes",
                    "duration_ns",
                ]))
            #expect(try members(["recover", "--all"]).isSuperset(of: ["recovered_pages", "failed_pages", "duration_ns"]))
            #expect(try members(["status"]).isSuperset(of: ["pools", "objects", "pages", "backup", "features"]))
            let status = try CommandRun(["status", "--json"], socket: control.path).text
            for name in [
                "resident", "zero", "backed_up", "empty", "mount", "bytes_stored", "bytes_available", "orphans", "passthrough", "reason",
            ] {
                #expect(status.contains("\"\(name)\" : "), "\(name)")
            }
            #expect(try members(["pool", "list"]) == ["pools"])
            #expect(try members(["object", "list"]) == ["objects"])
        }
    }

    @Test func failuresNameCauseAndWayOutAndLeaveNothingHalfMade() async throws {
        try await withControl { control in
            let scratch = try ScratchDirectory()
            try Files.replaceContents(of: scratch.file("large"), with: [UInt8](repeating: 7, count: 10_000))
            _ = try CommandRun(["pool", "create", "p", "--size", "1M"], socket: control.path)
            let cases: [(arguments: [String], status: Int32, text: String)] = [
                (["pool", "create", "p", "--size", "1M"], 1, "already"),
                (["pool", "create", "q", "--size", "1000"], 1, "multiple of 4096"),
                (["pool", "create", "a/b", "--size", "1M"], 1, "slash"),
                (["pool", "destroy", "none"], 1, "no pool named none"),
                (["object", "show", "99"], 1, "no object 99"),
                (["object", "show", "0"], 1, "objectId"),
                (["object", "create", "p", "o", "--size", "2M"], 1, "no free range"),
                (["object", "create", "p", "o", "--size", "8K", "--from", scratch.file("large")], 1, "larger object"),
                (["object", "create", "p", "o", "--from", scratch.file("none")], 66, "cannot read"),
                (["object", "create", "p", "o", "--from", scratch.path], 66, "cannot read"),
                (["object", "create", "p", "o", "--from", "/dev/zero"], 64, "--size"),
                (["object", "create", "p", "o", "--size", "8K", "--from", "/dev/zero"], 1, "larger object"),
                (["recover", "--object", "99"], 1, "no object 99"),
                (["shrink", "--bytes", "0"], 1, "positive"),
                (["shrink", "--bytes", "1G"], 1, "only"),
            ]
            for one in cases {
                let run = try CommandRun(one.arguments, socket: control.path)
                #expect(run.status == one.status && run.isOneLine && run.errors.contains(one.text), "\(one): \(run.status) \(run.errors)")
                let json = try CommandRun(one.arguments + ["--json"], socket: control.path)
                #expect(json.status == one.status, "\(one)")
                _ = try json.decode(Empty.self)
            }
            #expect(try CommandRun(["status", "--json"], socket: control.path).decode(Status.self).objects == 0)
            let object = try CommandRun(["object", "create", "p", "o", "--size", "1K", "--json"], socket: control.path).decode(Created.self)
            let refused = try CommandRun(
                ["object", "read", "\(object.id)", "--output", scratch.file("no/where")], socket: control.path)
            #expect(refused.status == 73, "\(refused.errors)")
            let full = try CommandRun(["object", "read", "\(object.id)", "--output", "/dev/full"], socket: control.path)
            #expect(full.status == 74, "\(full.errors)")
        }
    }

    @Test func anotherUserSeesAndTouchesOnlyItsOwn() async throws {
        guard Machine.isRoot, (try? CommandRun(["--version"], user: 12_345).status) == 0 else {
            return Machine.lacks("root, setpriv, or a build directory that others may read", so: "no second user tried the control socket")
        }
        try await withControl { control in
            func command(_ arguments: [String], user: UInt32? = nil) throws -> CommandRun {
                try CommandRun(arguments, socket: control.path, user: user)
            }
            let scratch = try ScratchDirectory()
            try Files.setMode(of: scratch.path, 0o755)
            try Files.replaceContents(of: scratch.file("content"), with: [1, 2, 3], mode: 0o644)
            var ids: [Int] = []
            for user: UInt32? in [nil, 12_345, 12_346] {
                let made = try command(["pool", "create", "same", "--size", "1M"], user: user)
                #expect(made.status == 0, "\(made.errors)")
                let create = ["object", "create", "same", "o", "--size", "4K", "--from", scratch.file("content"), "--json"]
                let object = try command(create, user: user).decode(Created.self)
                ids.append(object.id)
            }
            #expect(try command(["pool", "list"]).text.split(separator: "\n").count == 4)
            let list = try command(["object", "list", "--json"], user: 12_345).text
            #expect(list.contains("12345") && !list.contains("12346"))
            #expect(try command(["status", "--json"], user: 12_345).decode(Status.self).objects == 1)
            let (roots, others) = ("\(ids[0])", "\(ids[2])")
            for arguments in [
                ["object", "show", others], ["object", "read", others], ["object", "destroy", roots], ["shrink", "--object", others],
                ["recover", "--object", roots],
            ] {
                let run = try command(arguments, user: 12_345)
                #expect(run.status == 1 && run.errors.contains("there is no object"), "\(arguments): \(run.errors)")
            }
            let foreign = try command(["pool", "destroy", "same", "--owner", "12346"], user: 12_345)
            #expect(foreign.status == 77, "\(foreign.errors)")
            // Everything is everything that one sees, and so much of it is no more.
            for arguments in [["shrink", "--all"], ["recover", "--all"], ["shrink", "--bytes", "4K"]] {
                let run = try command(arguments, user: 12_345)
                #expect(run.status == 0, "\(run.errors)")
                let pages = try ids.map { try command(["object", "show", "\($0)", "--json"]).decode(Shown.self).pages }
                #expect(pages[0].resident == 1 && pages[2].resident == 1, "another user's pages were moved")
                #expect(pages[1].backedUp == (arguments[0] == "shrink" ? 1 : 0))
            }
            #expect(try command(["pool", "destroy", "same", "--owner", "12346"]).status == 0)
            #expect(try command(["pool", "destroy", "same"], user: 12_345).status == 0)
            #expect(try command(["pool", "list"]).text.split(separator: "\n").count == 2)
        }
    }
}
