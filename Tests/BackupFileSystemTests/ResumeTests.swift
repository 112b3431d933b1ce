import Glibc
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// A server that dies is followed by another on the same mount, and callers notice nothing but a pause. This process keeps the mount as a keeper would, so
/// it does not touch it: other programs do.
@Suite(.serialized) struct ResumeTests {
    @Test func aReaderBlockedWhileNobodyServesGetsItsBytes() throws {
        try resumable { server in
            let file = server.file("objects/1/content")
            try shell("mkdir \(server.file("objects/1")) && head -c 200000 /bin/bash > \(server.file("objects/1/data"))")
            #expect(server.keptNames.sorted() == ["fuse", "state"])
            try server.kill()
            let reader = try ChildProcess("/bin/sh", ["-c", "cmp -n 200000 \(file) /bin/bash"], environment: ["PATH=/usr/bin:/bin"])
            #expect(try reader.wait(timeoutMilliseconds: 300) == nil)
            try server.startAgain()
            #expect(try reader.wait(timeoutMilliseconds: 10_000) == .exited(0))
            #expect(try server.stop() == .exited(0))
            #expect(server.keptNames.isEmpty)
            #expect(try Mounts.mount(at: server.mountPoint) == nil)
        }
    }

    @Test(arguments: DataPath.allCases) func openFilesGoOnOverManyCrashes(_ path: DataPath) throws {
        try resumable(path) { server in
            try shell("mkdir \(server.file("objects/1")) && truncate -s 64M \(server.file("objects/1/data"))")
            // Writers check what they wrote; some requests are read and unanswered when the server dies.
            let workers = try (0..<4).map { worker in
                try ChildProcess(
                    "/usr/bin/python3", ["-c", Self.workerProgram, server.file("objects/1/data"), String(worker)],
                    environment: ["PATH=/usr/bin:/bin"])
            }
            // Another makes and removes objects, each step once: none may fail because it was done twice.
            let maker = try ChildProcess(
                "/usr/bin/python3", ["-c", Self.makerProgram, server.file("objects")], environment: ["PATH=/usr/bin:/bin"])
            var generator = SeededGenerator(seed: testSeed("crashes"))
            var resent = 0
            for _ in 0..<12 {
                usleep(UInt32.random(in: 20_000...120_000, using: &generator))  // Any moment will do: that is the point.
                // What this one was sent a second time, asked by somebody else.
                resent += try resentRequests(server)
                try server.kill()
                try server.startAgain()
            }
            for worker in workers + [maker] {
                worker.signal(SIGTERM)
                #expect(try worker.wait(timeoutMilliseconds: 20_000) == .exited(0))
            }
            resent += try resentRequests(server)
            print("\(path): \(resent) requests were resent over 12 crashes")
            if path != .passthrough { #expect(resent > 0) }
            // Passthrough files opened before the first crash can be opened again beside newer ones.
            let again = try runProgram("/bin/sh", ["-c", "head -c 4096 \(server.file("objects/1/data")) | wc -c"])
            #expect(again.output.hasPrefix("4096"))
            let open = try runProgram("/bin/grep", ["open.passthrough", server.file("stats")]).output
            print(open, terminator: "")
            #expect(try server.stop() == .exited(0))
        }
    }

    /// A window dies with the server that made it, and says so; the next one has windows of its own.
    @Test func windowsOfADeadServerAreStaleAndNewOnesHoldTheRightBytes() throws {
        let scratch = try ScratchDirectory()
        let started = scratch.file("started")
        try resumable(.packed) { server in
            try shell("mkdir \(server.file("objects/1"))")
            let reader = try ChildProcess(
                "/usr/bin/python3", ["-c", Self.windowProgram, server.file(""), "1", started], environment: ["PATH=/usr/bin:/bin"])
            let deadline = MonotonicTime.now().advanced(milliseconds: 60_000)
            while (try? Files.status(of: started)) == nil, MonotonicTime.now() < deadline { usleep(10_000) }
            var generator = SeededGenerator(seed: testSeed("window crashes"))
            for _ in 0..<10 {
                usleep(UInt32.random(in: 20_000...120_000, using: &generator))  // Any moment will do: that is the point.
                try server.kill()
                try server.startAgain()
            }
            reader.signal(SIGTERM)
            #expect(try reader.wait(timeoutMilliseconds: 20_000) == .exited(0))
            // None is left registered but what was being opened at a crash.
            // The kernel tells of a close a moment after it.
            func open() throws -> String? { try server.statistic("open.windows") }
            let closed = MonotonicTime.now().advanced(milliseconds: 60_000)
            while try open() != "0", MonotonicTime.now() < closed { usleep(1_000) }
            #expect(try open() == "0")
            #expect(try server.stop() == .exited(0))
        }
    }

    @Test func anAbortedMountIsLeftBehindAndMadeAnew() throws {
        try resumable { server in
            try shell("mkdir \(server.file("objects/1"))")
            try server.kill()
            let mount = try #require(try Mounts.mount(at: server.mountPoint))
            try abort(mount)
            try server.startAgain()
            #expect(try runProgram("/bin/ls", [server.file("objects")]).output == "1\n")
            #expect(try Mounts.all().filter { $0.path == server.mountPoint }.count == 1)
            #expect(server.keptNames.sorted() == ["fuse", "state"])
            #expect(try server.stop() == .exited(0))
        }
    }

    @Test(arguments: [true, false]) func aMountWhoseStateIsUselessIsMadeAnew(_ isThere: Bool) throws {
        try resumable { server in
            try shell("mkdir \(server.file("objects/1"))")
            try server.kill()
            if isThere {
                // As if a later version had written it.
                let state = try #require(server.keptDescriptor("state"))
                try write([99], to: state, at: 8)
            } else {
                server.lose("state")
            }
            let waiting = try ChildProcess("/bin/cat", [server.file("stats")], environment: [], standardError: nullFile())
            let deadline = MonotonicTime.now().advanced(milliseconds: 60_000)
            while try !isWaitingInFuse(waiting.processID), MonotonicTime.now() < deadline { usleep(1_000) }
            try server.startAgain()
            // Who waited for the old mount is told that it is gone.
            #expect(try waiting.wait(timeoutMilliseconds: 60_000) == .exited(1))
            #expect(try runProgram("/bin/ls", [server.file("objects")]).output == "1\n")
            #expect(try Mounts.all().filter { $0.path == server.mountPoint }.count == 1)
            #expect(try server.stop() == .exited(0))
        }
    }

    private func nullFile() throws -> CInt { try Files.open("/dev/null", .writeOnly).release() }

    @Test func aServerToldToKeepTheMountHandsItOver() throws {
        try resumable(environment: ["SHRINKD_KEEP_MOUNT=1"]) { server in
            try shell("mkdir \(server.file("objects/1")) && echo hello > \(server.file("objects/1/data"))")
            #expect(try server.stop() == .exited(0))
            #expect(server.keptNames.sorted() == ["fuse", "state"])
            let reader = try ChildProcess("/bin/grep", ["-q", "hello", server.file("objects/1/content")], environment: [])
            #expect(try reader.wait(timeoutMilliseconds: 200) == nil)
            try server.startAgain()
            #expect(try reader.wait(timeoutMilliseconds: 10_000) == .exited(0))
            #expect(try server.stop() == .exited(0))
            #expect(try Mounts.mount(at: server.mountPoint) == nil)
        }
    }

    @Test func anAbortUnderARunningServerEndsItAndRemovesTheDeadMount() throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "aborting a connection is not tested") }
        try withBackupFileSystem { server in
            let mount = try #require(try Mounts.mount(at: server.mountPoint))
            try abort(mount)
            #expect(try server.waitForEnd() == .exited(75))
            #expect(try Mounts.mount(at: server.mountPoint) == nil)
        }
    }

    @Test func unmountingByHandEndsTheServer() throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "unmounting by hand is not tested") }
        try withBackupFileSystem { server in
            try Mounts.unmount(server.mountPoint)
            #expect(try server.waitForEnd() == .exited(0))
        }
    }

    @Test func aDeadMountOfOursIsClearedAway() throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "clearing dead mounts is not tested") }
        try withBackupFileSystem { server in
            _ = try server.makeObject(1)
            try server.kill()
            #expect(throws: Errno.socketNotConnected) { try Files.status(of: server.file("stats")) }
            try server.startAgain()
            #expect(try server.names("objects") == ["1"])
            #expect(try Mounts.all().filter { $0.path == server.mountPoint }.count == 1)
        }
    }

    /// Rewrites pages of its own and reads them back through the same descriptor, until SIGTERM; exits 1 at the first wrong byte.
    private static let workerProgram = """
        import os, signal, sys
        stop = []
        signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
        fd = os.open(sys.argv[1], os.O_RDWR)
        base = int(sys.argv[2]) * (16 << 20)
        n = 0
        while not stop or n % 64:
            at = base + (n * 37 % 4000) * 4096
            page = (n + 1).to_bytes(8, "little") * 512
            if os.pwrite(fd, page, at) != 4096 or os.pread(fd, 4096, at) != page: sys.exit(1)
            if n % 7 == 0 and os.lseek(fd, at, os.SEEK_DATA) != at: sys.exit(2)
            if n % 50 == 0:
                other = os.open(sys.argv[1], os.O_RDONLY)
                if os.pread(other, 4096, at) != page: sys.exit(3)
                os.close(other)
            n += 1
        """

    /// Writes pages, also out of a window, has ranges copied into it and compares, until SIGTERM; a file tells that it has begun. Says 9 unless it met a stale window.
    private static let windowProgram = """
        import errno, mmap, os, random, signal, sys
        stop = []
        signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
        root = sys.argv[1]
        data = os.open(root + "objects/1/data", os.O_RDWR)
        random.seed(int(sys.argv[2]))
        pages = [os.urandom(64) * 64 for _ in range(512)]
        for i, page in enumerate(pages): os.pwrite(data, page, i * 4096)
        def open_window():
            for n in range(16):
                try: fd = os.open(root + ".window-%d" % n, os.O_RDWR)
                except OSError as e:
                    if e.errno != errno.EBUSY: raise
                    continue
                return fd, mmap.mmap(fd, 1 << 20)
            sys.exit(4)
        window, memory = open_window()
        stale = 0
        while not stop:
            i = random.randrange(512)
            pages[i] = os.urandom(64) * 64
            os.pwrite(data, pages[i], i * 4096)
            first = random.randrange(256)
            count = random.randrange(1, 257)
            try: n = os.copy_file_range(data, window, count * 4096, first * 4096, 0)
            except OSError as e:
                if e.errno != errno.ESTALE: sys.exit(2)
                stale += 1
                memory.close()
                os.close(window)
                window, memory = open_window()
                continue
            if n != count * 4096 or memory[:n] != b"".join(pages[first:first + count]): sys.exit(3)
            for k in range(count):
                pages[first + k] = os.urandom(64) * 64
                memory[k * 4096:(k + 1) * 4096] = pages[first + k]
            # A page that went astray would be found when it is read next.
            try: n = os.copy_file_range(window, data, count * 4096, 0, first * 4096)
            except OSError as e:
                if e.errno != errno.ESTALE: sys.exit(5)
                n = 0
            done = n
            while done < count * 4096: done += os.pwrite(data, memory[done:count * 4096], first * 4096 + done)
            open(sys.argv[3], "w").close()
        memory.close()
        os.close(window)
        sys.exit(0 if stale else 9)
        """

    /// Makes objects with ever new ids, fills, empties and removes them, until SIGTERM. Any error ends it with a trace.
    private static let makerProgram = """
        import os, signal, sys
        stop = []
        signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
        n = 100
        while not stop:
            n += 1
            d = sys.argv[1] + "/" + str(n)
            os.mkdir(d)
            fd = os.open(d + "/data", os.O_RDWR | os.O_CREAT)
            os.pwrite(fd, b"x" * 4096, 4096)
            os.setxattr(d, "user.shrinkd.name", b"n")
            os.close(fd)
            os.unlink(d + "/data")
            os.rmdir(d)
        """

    private func resentRequests(_ server: BackupFileSystemProcess) throws -> Int {
        let line = try runProgram("/bin/grep", ["requests.resent", server.file("stats")]).output
        return line.split(whereSeparator: { $0 == " " || $0 == "\n" }).compactMap { Int($0) }.last ?? 0
    }

    private func resumable(
        _ path: DataPath = .passthrough, environment: [String] = [], _ body: (BackupFileSystemProcess) throws -> Void
    ) throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "taking over a mount after a crash is not tested") }
        let memory = try ScratchMemoryFileSystem(sizeBytes: 256 << 20)
        let server = try BackupFileSystemProcess(
            store: memory.path, arguments: path.arguments, keepsMount: true, environment: environment)
        try withExtendedLifetime((memory, server)) { try body(server) }
    }

    /// As an administrator does it, through the control file system (which is mounted for that where it is not).
    private func abort(_ mount: MountPoint) throws {
        let scratch = try ScratchDirectory()
        try withExtendedLifetime(scratch) {
            let control = scratch.file("control")
            try Files.makeDirectory(control)
            try Mounts.mount("none", on: control, type: "fusectl", [], options: "")
            defer { try? Mounts.detach(control) }
            try shell("echo 1 > \(control)/\(mount.device.minor)/abort")
        }
    }

    private func shell(_ command: String) throws {
        let result = try runProgram("/bin/sh", ["-c", command])
        #expect(result.ending == .exited(0), "\(command): \(result.errors)")
    }
}
