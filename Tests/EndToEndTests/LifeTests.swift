import ShrinkClient
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import TestSupport
import Testing

/// Keeper, engine, backupfs and shrinkctl as real processes over a real mount.
@Suite(.serialized) struct LifeTests {
    @Test(arguments: TroubleTests.layouts) func realFilesGoOutAreSeenInTheTreeAndComeBack(_ layout: String) throws {
        let daemon = try DaemonProcess(arguments: ["--layout", layout])
        let control = Control(daemon: daemon)
        let scratch = try ScratchDirectory()
        let files = ["/usr/bin/env", "/bin/ls", "/usr/bin/perl"].filter { (try? Files.status(of: $0)) != nil }
        #expect(try control("pool", "create", "life", "--size", "64M").status == 0)
        var objects: [(id: Int, content: [UInt8])] = []
        for file in files {
            let content = try Files.contents(of: file, limit: 32 << 20)
            let made = try control("object", "create", "life", "file", "--size", "\(content.count)", "--from", file)
            #expect(made.status == 0, "\(made.errors)")
            objects.append((try #require(made.number("id")), content))
        }
        let pages = objects.reduce(0) { $0 + ($1.content.count + 4095) / 4096 }
        let before = try control("status")
        #expect(before.number("pages.resident") == pages)

        let shrunk = try control("shrink", "--all")
        #expect(shrunk.status == 0, "\(shrunk.errors)")
        #expect(shrunk.number("scanned_pages") == pages)
        #expect(shrunk.number("freed_bytes") == pages * 4096)
        let after = try control("status")
        #expect(after.number("pages.resident") == 0)
        let backedUp = try #require(after.number("pages.backed_up"))
        let zero = try #require(after.number("pages.zero"))
        #expect(backedUp + zero == pages && backedUp == shrunk.number("backed_up_pages"))

        // What people see: one file for each backed-up page, with its bytes; `content` with all of them.
        for object in objects {
            let directory = daemon.mountPoint + "/objects/\(object.id)"
            let listing = try Files.open(directory + "/pages", [.readOnly, .directory])
            var names: [Int] = []
            try Files.forEachName(in: listing.number) { names.append(Int($0) ?? -1) }
            #expect(!names.contains(-1))
            for index in names.sorted().prefix(5) + names.sorted().suffix(3) {
                let page = try Files.contents(of: directory + "/pages/\(index)")
                var expected = Array(object.content[index * 4096..<min((index + 1) * 4096, object.content.count)])
                expected += [UInt8](repeating: 0, count: 4096 - expected.count)
                #expect(page == expected)
            }
            let content = try Files.contents(of: directory + "/content", limit: 64 << 20)
            #expect(content.prefix(object.content.count).elementsEqual(object.content))
        }

        // Reading for inspection changes nothing; then they come back.
        for object in objects {
            let copy = scratch.file("copy-\(object.id)")
            #expect(try control("object", "read", "\(object.id)", "--output", copy).status == 0)
            #expect(try Files.contents(of: copy, limit: 64 << 20) == object.content)
        }
        #expect(try control("status").number("pages.backed_up") == backedUp)
        let recovered = try control("recover", "--all")
        #expect(recovered.status == 0 && recovered.number("recovered_pages") == backedUp && recovered.number("failed_pages") == 0)
        for object in objects {
            let copy = scratch.file("again-\(object.id)")
            #expect(try control("object", "read", "\(object.id)", "--output", copy).status == 0)
            #expect(try Files.contents(of: copy, limit: 64 << 20) == object.content)
            #expect(try control("object", "destroy", "\(object.id)").status == 0)
        }
        #expect(try control("pool", "destroy", "life").status == 0)
        #expect(try daemon.stop() == .exited(0))
        #expect(try Mounts.mount(at: daemon.mountPoint) == nil)
        #expect(try Files.open(daemon.storeDirectory + "/objects", [.readOnly, .directory]).isEmptyDirectory)
    }

    @Test func aStopBringsBackWhatClientsHoldAndNamesTheRest() throws {
        let seed = testSeed("stop")
        let daemon = try DaemonProcess()
        let held = try PoolClient(daemon, pool: "held", sizeBytes: 16 << 20, seed: seed)
        let object = try held.makeObject(pages: 1500)
        try held.unpin(object)
        // A pool that nobody has open when the daemon ends.
        let other = try PoolClient(daemon, pool: "let-go", sizeBytes: 4 << 20, seed: seed)
        let lost = try other.makeObject(pages: 100)
        try other.unpin(lost)
        other.client.close()
        let control = Control(daemon: daemon)
        #expect(try control("shrink", "--all").status == 0)
        #expect(try control("object", "show", "\(object.objectId)").number("pages.backed_up") ?? 0 > 1000)

        #expect(try daemon.stop() == .exited(0))
        #expect(held.mappedMismatches(object) == [], "seed \(seed)")
        let log = daemon.said
        #expect(log.contains("object=\(lost.objectId)"), "\(log)")
        #expect(!log.contains("object=\(object.objectId) "), "\(log)")
        #expect(try Mounts.mount(at: daemon.mountPoint) == nil)
    }

    @Test func aSecondStartOnALiveSocketIsRefused() throws {
        let daemon = try DaemonProcess()
        let second = try runProgram(
            Machine.program("shrinkd"), ["--runtime-dir", daemon.runtimeDirectory, "--store", daemon.storeDirectory])
        #expect(second.ending == .exited(1))
        #expect(second.errors.contains("already serves"))
        #expect(try Control(daemon: daemon)("status").status == 0)
    }

    @Test func aDirectoryServesAsBackupWithoutAFileServer() throws {
        let scratch = try ScratchDirectory()
        let backup = scratch.file("backup")
        try Files.makeDirectory(backup)
        let run = scratch.file("run")
        let notify = scratch.file("notify")
        // The daemon of this test has no store, so it is started here and not by DaemonProcess.
        let socket = try UnixSocket.listen(notify, .datagram)
        let keeper = try ChildProcess(
            Machine.program("shrinkd"), ["--runtime-dir", run, "--backup", backup], environment: ["NOTIFY_SOCKET=\(notify)"])
        defer {
            keeper.signal(Signal.terminate)
            _ = try? keeper.wait(timeoutMilliseconds: 30_000)
        }
        var buffer = [UInt8](repeating: 0, count: 4096)
        var isReady = false
        while !isReady, try waitReadable(socket.number, timeoutMilliseconds: 30_000) {
            let received = try buffer.withMutableBytes { (b) throws(Errno) in try UnixSocket.receive(socket.number, into: b) }
            isReady = String(decoding: buffer[0..<(received?.count ?? 0)], as: UTF8.self).contains("READY=1")
        }
        #expect(isReady)
        let client = try ShrinkdClient(path: run + "/io.shrinkd")
        let status = try client.call(Methods.status, NoParameters())
        #expect(status.backup.mount == backup)
        #expect(status.features["passthrough"]?.available == false)
        #expect(status.features["passthrough"]?.reason?.isEmpty == false)
    }
}

extension OwnedDescriptor {
    var isEmptyDirectory: Bool {
        get throws {
            var count = 0
            try Files.forEachName(in: number) { _ in count += 1 }
            return count == 0
        }
    }
}
