import Glibc
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// `ls -l` of an object's pages: attributes come with the names, a few hundred pages a request.
@Suite(.serialized) struct LongListingTests {
    private static let pages = 20_000

    /// A packed mount with an object whose pages are of one byte each, as an owner has it.
    private func withPages(_ layout: String, _ body: (BackupFileSystemProcess, CInt) throws -> Void) throws {
        let memory = Machine.isRoot ? try ScratchMemoryFileSystem(sizeBytes: 256 << 20) : nil
        try withExtendedLifetime(memory) {
            try withBackupFileSystem(store: memory?.path, arguments: ["--layout", layout]) { server in
                let data = try server.makeObject(1, sizeBytes: Self.pages * page)
                try server.setAttribute("user.shrinkd.owner", "\(ThisProcess.userID)", of: "objects/1")
                let run = [UInt8](repeating: 7, count: 1 << 20)
                for offset in stride(from: 0, to: Self.pages * page, by: run.count) {
                    try write(Array(run[..<min(run.count, Self.pages * page - offset)]), to: data.number, at: offset)
                }
                try body(server, data.number)
            }
        }
    }

    private func requests(_ server: BackupFileSystemProcess) throws -> Int {
        try ["lookup", "getattr", "getxattr", "readdir", "readdirplus"].reduce(0) { sum, kind in
            sum + (try #require(Int(try server.statistic("requests.\(kind)") ?? "")))
        }
    }

    @Test(arguments: ["packed", "raw"]) func takesFewRequestsForAPage(_ layout: String) throws {
        guard layout == "packed" || Machine.isRoot else { return Machine.lacks("root", so: "ls -l of a raw store is not tried") }
        try withPages(layout) { server, _ in
            let before = try requests(server)
            let result = try runProgram("/bin/ls", ["-l", server.file("objects/1/pages")])
            let taken = try requests(server) - before
            print("ls -l of \(Self.pages) pages, \(layout): \(taken) requests")
            #expect(result.ending == .exited(0), "\(result.errors)")
            let lines = result.output.split(separator: "\n").dropFirst()
            #expect(lines.count == Self.pages)
            #expect(lines.allSatisfy { $0.hasPrefix("-r") && $0.split(separator: " ").dropFirst(4).first == "4096" })
            // Ten for each page without; a machine that stops in the middle of a batch asks again for the rest of it.
            #expect(taken < Self.pages, "\(taken) requests for \(Self.pages) pages")
        }
    }

    @Test func whatTheListingSaysIsWhatStatSays() throws {
        try withPages("packed") { server, data in
            let pattern = PagePattern(seed: testSeed("long listing"))
            for index in stride(from: 0, to: 600, by: 3) { try write(pattern.page(index, zeroEvery: 0), to: data, at: index * page) }
            let listed = try runProgram(
                "/bin/sh", ["-c", "cd '\(server.file("objects/1/pages"))' && ls -lns --block-size=1 --time-style=+%s"])
            var compared = 0
            for line in listed.output.split(separator: "\n").dropFirst() {
                let fields = line.split(separator: " ")
                guard let index = Int(fields[7]), index < 600 else { continue }
                // By itself, and long after the listing was believed: from the server.
                let status = try Files.status(of: server.file("objects/1/pages/\(index)"))
                #expect(Int(fields[0]) == status.allocatedBytes && Int(fields[3]) == Int(status.userID), "\(line)")
                #expect(Int(fields[5]) == status.sizeBytes && Int(fields[6]) == status.modified.seconds, "\(line)")
                compared += 1
            }
            #expect(compared == 600)
        }
    }

    @Test func aPageThatWentAwayIsGoneAtOnceForWhoOpensItAndSoonForWhoLooks() throws {
        try withPages("packed") { server, data in
            #expect(try runProgram("/bin/ls", ["-l", server.file("objects/1/pages")]).ending == .exited(0))
            try Files.punch(data, at: 5 * page, length: page)
            #expect(openError(server.file("objects/1/pages/5"), .readOnly) == .noSuchFileOrDirectory)
            #expect(try !server.names("objects/1/pages").contains("5"))
            let deadline = MonotonicTime.now().advanced(milliseconds: 60_000)
            var isGone = false
            while !isGone, MonotonicTime.now() < deadline {
                do throws(Errno) { _ = try Files.status(of: server.file("objects/1/pages/5")) } catch {
                    isGone = error == .noSuchFileOrDirectory
                }
            }
            #expect(isGone, "a page that was dropped is still seen after a minute")
        }
    }
}
