import Glibc
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@Suite(.serialized) struct TreeTests {
    @Test func anObjectAppearsWithItsEntriesAndGoesWithThem() throws {
        try withMount { server in
            #expect(try server.names("").sorted() == ["objects", "stats"])
            #expect(try server.names("objects").isEmpty)
            try Files.makeDirectory(server.file("objects/5"))
            #expect(try server.names("objects") == ["5"])
            #expect(try server.names("objects/5").sorted() == ["content", "data", "info", "pages"])
            #expect(try Files.status(of: server.file("objects/5/data")).sizeBytes == 0)
            let data = try Files.open(server.file("objects/5/data"), [.readWrite, .create])
            try write([UInt8](repeating: 9, count: 2 * page), to: data.number, at: page)
            #expect(try server.names("objects/5/pages").sorted() == ["1", "2"])
            #expect(throws: Errno.directoryNotEmpty) { try Files.removeDirectory(server.file("objects/5")) }
            try Files.remove(server.file("objects/5/data"))
            #expect(try server.names("objects/5").isEmpty)
            for name in ["data", "content", "info", "pages"] {
                #expect(throws: Errno.noSuchFileOrDirectory) { try Files.status(of: server.file("objects/5/" + name)) }
            }
            try Files.removeDirectory(server.file("objects/5"))
            #expect(throws: Errno.noSuchFileOrDirectory) { try Files.status(of: server.file("objects/5")) }
            #expect(try server.names("objects").isEmpty)
            #expect(throws: Errno.fileExists) { try Files.makeDirectory(server.file("objects/5")) }
        }
    }

    @Test func anEmptyObjectCanBeRemovedWithItsData() throws {
        try withMount { server in
            try Files.makeDirectory(server.file("objects/9"))
            try Files.removeDirectory(server.file("objects/9"))
            #expect(try server.names("objects").isEmpty)
        }
    }

    @Test(arguments: DataPath.allCases) func dataComesBackEmptyAfterUnlinkWithOCreat(_ path: DataPath) throws {
        try withMount(path) { server in
            do {
                let data = try server.makeObject(3, sizeBytes: page)
                try write([1, 2, 3], to: data.number, at: 0)
                #expect(openError(server.file("objects/3/data"), [.readWrite, .create, .exclusive]) == .fileExists)
            }
            try Files.remove(server.file("objects/3/data"))
            #expect(openError(server.file("objects/3/data"), .readWrite) == .noSuchFileOrDirectory)
            let again = try Files.open(server.file("objects/3/data"), [.readWrite, .create, .exclusive])
            #expect(try Files.status(again.number).sizeBytes == 0)
            try write([7], to: again.number, at: page)
            // A second way in, while the first is open.
            let second = try Files.open(server.file("objects/3/data"), .readWrite)
            #expect(try read(second.number, at: page, count: 10) == [7])
            #expect(try server.names("objects/3/pages") == ["1"])
        }
    }

    @Test func whatTheTreeDoesNotHaveIsRefused() throws {
        try withMount { server in
            let data = try server.makeObject(1, sizeBytes: page)
            try write([UInt8](repeating: 1, count: page), to: data.number, at: 0)
            for name in ["abc", "01", "0", "-1", "4294967296", "1x"] {
                #expect(throws: Errno.invalidArgument) { try Files.makeDirectory(server.file("objects/" + name)) }
                #expect(throws: Errno.noSuchFileOrDirectory) { try Files.status(of: server.file("objects/" + name)) }
            }
            #expect(throws: Errno.notPermitted) { try Files.makeDirectory(server.file("new")) }
            #expect(throws: Errno.notPermitted) { try Files.makeDirectory(server.file("objects/1/new")) }
            #expect(openError(server.file("new"), [.readWrite, .create]) == .notPermitted)
            #expect(openError(server.file("objects/1/new"), [.readWrite, .create]) == .notPermitted)
            #expect(openError(server.file("objects/7"), [.readWrite, .create]) == .notPermitted)
            #expect(throws: Errno.notPermitted) { try Files.rename(server.file("objects/1"), to: server.file("objects/2")) }
            #expect(throws: Errno.notPermitted) { try Files.rename(server.file("objects/1/data"), to: server.file("objects/1/other")) }
            #expect(symlink("x", server.file("objects/1/link")) == -1 && errno == EPERM)
            #expect(link(server.file("objects/1/data"), server.file("objects/1/link")) == -1 && errno == EPERM)
            #expect(mkfifo(server.file("objects/1/fifo"), 0o600) == -1 && errno == EPERM)
            for name in ["content", "info", "pages/0"] {
                #expect(throws: Errno.notPermitted) { try Files.remove(server.file("objects/1/" + name)) }
                #expect(openError(server.file("objects/1/" + name), .readWrite) == .permissionDenied)
            }
            #expect(openError(server.file("stats"), [.writeOnly, .truncate]) == .permissionDenied)
            #expect(throws: Errno.notPermitted) { try Files.removeDirectory(server.file("objects/1/pages")) }
            #expect(throws: Errno.notPermitted) { try Files.removeDirectory(server.file("objects")) }
            #expect(throws: Errno.noSuchFileOrDirectory) { try Files.removeDirectory(server.file("objects/44")) }
            #expect(openError(server.file("objects/1/pages/1"), .readOnly) == .noSuchFileOrDirectory)
            #expect(openError(server.file("objects/1/pages/00"), .readOnly) == .noSuchFileOrDirectory)
            #expect(chmod(server.file("objects/1/data"), 0o644) == -1 && errno == EPERM)
            #expect(chmod(server.file("objects/1/data"), 0o600) == 0)
            #expect(chown(server.file("objects/1/data"), 77, 77) == -1 && errno == EPERM)
        }
    }

    @Test func modesOwnersAndHintsFollowTheObjectsOwner() throws {
        try withMount { server in
            let data = try server.makeObject(8, sizeBytes: page)
            try write([5], to: data.number, at: 0)
            let me = ThisProcess.userID
            let group = ThisProcess.groupID(named: "shrinkd") ?? ThisProcess.groupID
            func check(_ path: String, _ mode: UInt32, _ owner: UInt32) throws {
                let status = try Files.status(of: server.file(path))
                #expect(status.mode == mode, "\(path)")
                #expect(status.userID == owner, "\(path)")
                #expect(status.groupID == group, "\(path)")
            }
            try check("objects/8", 0o700, me)
            try check("objects/8/data", 0o600, me)
            for name in ["content", "info", "pages/0"] { try check("objects/8/" + name, 0o400, me) }
            guard Machine.isRoot else { return Machine.lacks("root", so: "objects of other users are not tested") }

            #expect(try server.attribute("user.shrinkd.owner", of: "objects/8") == nil)
            try server.setAttribute("user.shrinkd.owner", "4711", of: "objects/8")
            try server.setAttribute("user.shrinkd.name", "größe \"x\"", of: "objects/8/data")
            try server.setAttribute("user.shrinkd.priority", "2", of: "objects/8")
            #expect(try server.attribute("user.shrinkd.owner", of: "objects/8/data") == "4711")
            #expect(try server.attribute("user.shrinkd.name", of: "objects/8") == "größe \"x\"")
            try check("objects/8", 0o570, 4711)
            try check("objects/8/pages", 0o550, 4711)
            try check("objects/8/data", 0o600, me)
            for name in ["content", "info", "pages/0"] { try check("objects/8/" + name, 0o440, 4711) }
            let info = String(decoding: try Files.contents(of: server.file("objects/8/info")), as: UTF8.self)
            #expect(info.contains("\"owner\" : 4711") && info.contains("größe \\\"x\\\"") && info.contains("\"priority\" : 2"))

            // The owner reads and does not write; a stranger does neither.
            let page = server.file("objects/8/pages/0")
            func asUser(_ uid: Int, _ command: String) throws -> ProgramResult {
                try runProgram("/usr/bin/setpriv", ["--reuid=\(uid)", "--regid=\(uid)", "--clear-groups", "/bin/sh", "-c", command])
            }
            #expect(chmod(server.mountPoint + "/..", 0o755) == 0)
            #expect(try asUser(4711, "cat \(page) >/dev/null && cat \(server.file("objects/8/content")) >/dev/null").ending == .exited(0))
            #expect(try asUser(4711, "cat \(server.file("objects/8/data"))").ending == .exited(1))
            #expect(try asUser(4711, "rm -f \(server.file("objects/8/data"))").ending == .exited(1))
            #expect(try asUser(4712, "ls \(server.file("objects/8"))").ending == .exited(2))
            #expect(try asUser(4712, "cat \(server.file("stats")) >/dev/null").ending == .exited(0))
            #expect(try asUser(4712, "mkdir \(server.file("objects/90"))").ending == .exited(1))
        }
    }

    @Test func hintsThatMakeNoSenseAreRefused() throws {
        try withMount { server in
            _ = try server.makeObject(1)
            let object = "objects/1"
            for (name, value) in [("owner", "root"), ("owner", "-1"), ("owner", "007"), ("owner", ""), ("priority", "4"), ("name", "")] {
                #expect(throws: Errno.invalidArgument, "\(name)=\(value)") {
                    try server.setAttribute("user.shrinkd." + name, value, of: object)
                }
            }
            #expect(throws: Errno.invalidArgument) {
                try server.setAttribute("user.shrinkd.name", String(repeating: "x", count: 256), of: object)
            }
            #expect(throws: Errno.notPermitted) { try server.setAttribute("user.shrinkd.stored_bytes", "1", of: object) }
            #expect(throws: Errno.notSupported) { try server.setAttribute("user.other", "1", of: object) }
            #expect(throws: Errno.notPermitted) { try server.setAttribute("user.shrinkd.faults", "1", of: "") }
            #expect(throws: Errno.notSupported) { try server.setAttribute("user.shrinkd.faults", "1", of: "objects") }
            #expect(throws: Errno.notSupported) { try server.setAttribute("user.shrinkd.name", "1", of: "objects/1/content") }
        }
    }

    @Test func inodeNumbersAreTheSameInListingsAndStatus() throws {
        try withMount { server in
            let data = try server.makeObject(70_000, sizeBytes: 64 * page)
            try write([UInt8](repeating: 3, count: 8 * page), to: data.number, at: 0)
            for directory in ["", "objects", "objects/70000", "objects/70000/pages"] {
                let listed = try runProgram("/bin/ls", ["-i1", server.file(directory)])
                for line in listed.output.split(separator: "\n") {
                    let fields = line.split(separator: " ")
                    let status = try Files.status(of: server.file(directory + "/" + fields[1]))
                    #expect(UInt64(fields[0]) == status.inode)
                }
                #expect(!listed.output.isEmpty)
            }
        }
    }

    @Test func factsOfPagesAreTrueAndDuCountsEachOnce() throws {
        try withMount { server in
            let data = try server.makeObject(4, sizeBytes: 1000 * page)
            let bytes = PagePattern(seed: 1).page(0, zeroEvery: 0)
            for index in [0, 5, 6, 999] { try write(bytes, to: data.number, at: index * page) }
            for index in [0, 5, 6, 999] {
                let status = try Files.status(of: server.file("objects/4/pages/\(index)"))
                #expect(status.sizeBytes == page && status.allocatedBytes == page)
                #expect(try server.attribute("user.shrinkd.handle", of: "objects/4/pages/\(index)") == String(index + 1))
                #expect(try server.attribute("user.shrinkd.stored_bytes", of: "objects/4/pages/\(index)") == String(page))
                #expect(try server.attribute("user.shrinkd.tier", of: "objects/4/pages/\(index)") == "0")
                #expect(try Files.contents(of: server.file("objects/4/pages/\(index)")) == bytes)
            }
            for name in ["data", "content"] {
                let status = try Files.status(of: server.file("objects/4/" + name))
                #expect(status.sizeBytes == 1000 * page && status.allocatedBytes == 0)
            }
            let dataInode = try Files.status(of: server.file("objects/4/data")).inode
            #expect(try Files.status(of: server.file("objects/4/content")).inode != dataInode)
            let used = try runProgram("/usr/bin/du", ["-s", "--block-size=4096", server.file("objects/4")])
            #expect(used.output.hasPrefix("4\t"))
            #expect(try ExtendedAttributes.value("user.shrinkd.stored_bytes", of: data.number) == Array(String(4 * page).utf8))
            #expect(try ExtendedAttributes.value("security.capability", of: data.number) == nil)
            #expect(try server.statistic("objects") == "1")
            let info = String(decoding: try Files.contents(of: server.file("objects/4/info")), as: UTF8.self)
            #expect(info.contains("\"pages\" : 4") && info.contains("\"size_bytes\" : \(1000 * page)"))
        }
    }

    @Test func aPageFileIsASnapshotAtOpen() throws {
        try withMount { server in
            let data = try server.makeObject(2, sizeBytes: 4 * page)
            try write([UInt8](repeating: 1, count: page), to: data.number, at: page)
            let snapshot = try Files.open(server.file("objects/2/pages/1"), .readOnly)
            try write([UInt8](repeating: 2, count: page), to: data.number, at: page)
            #expect(try read(snapshot.number, at: 0, count: 2 * page) == [UInt8](repeating: 1, count: page))
            try Files.punch(data.number, at: page, length: page)
            #expect(try read(snapshot.number, at: 100, count: 10) == [UInt8](repeating: 1, count: 10))
            #expect(try read(snapshot.number, at: page, count: 10).isEmpty)
            #expect(openError(server.file("objects/2/pages/1"), .readOnly) == .noSuchFileOrDirectory)
            #expect(throws: Errno.noSuchFileOrDirectory) { try Files.status(of: server.file("objects/2/pages/1")) }
            // The last page of an object that ends within it is a whole page all the same.
            try Files.truncate(data.number, to: 2 * page + 10)
            try write([UInt8](repeating: 8, count: 10), to: data.number, at: 2 * page)
            let last = try Files.contents(of: server.file("objects/2/pages/2"))
            #expect(last == [UInt8](repeating: 8, count: 10) + [UInt8](repeating: 0, count: page - 10))
        }
    }
}
