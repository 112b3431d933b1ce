import Glibc
import ShrinkLinux
import SystemPackage

/// What a run needs on the machine; all of it goes when the run ends, also when it fails.
final class Scratch {
    let path: String
    private var mounts: [String] = []
    private var servers: [BackupServer] = []

    init() throws {
        var template = Array("/tmp/shrinkbench.XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw Errno(rawValue: errno) }
        path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// A tmpfs of its own, or a directory in /dev/shm for an ordinary user.
    func memoryDirectory(_ name: String, sizeBytes: Int, options: String? = nil) throws -> String {
        let directory = path + "/" + name
        try Files.makeDirectory(directory)
        guard ThisProcess.userID == 0 else {
            throw BenchError("a tmpfs of its own needs root; run shrinkbench as root")
        }
        try Mounts.mount(
            "shrinkbench", on: directory, type: "tmpfs", [.noSetUserID, .noDevices],
            options: "size=\(sizeBytes),mode=700" + (options.map { "," + $0 } ?? ""))
        mounts.append(directory)
        return directory
    }

    /// A tmpfs for a packed store, as docs/packed-store.md advises: segments in large pages where the kernel has them.
    func packedDirectory(_ name: String, sizeBytes: Int) throws -> String {
        do { return try memoryDirectory(name, sizeBytes: sizeBytes, options: "huge=within_size") } catch let error as Errno {
            guard error == .invalidArgument else { throw error }
            try Files.removeDirectory(path + "/" + name)
            return try memoryDirectory(name, sizeBytes: sizeBytes)
        }
    }

    /// A backupfs over a store, as a user would start it: the program beside this one.
    func serve(store: String, _ arguments: [String] = []) throws -> BackupServer {
        let mount = path + "/mount\(servers.count)"
        try Files.makeDirectory(mount)
        let server = try BackupServer(mount: mount, store: store, notifyPath: path + "/notify\(servers.count)", arguments)
        servers.append(server)
        return server
    }

    func cleanUp() {
        for server in servers { server.stop() }
        servers = []
        for mount in mounts.reversed() { try? Mounts.detach(mount) }
        mounts = []
        guard let remover = try? ChildProcess("/bin/rm", ["-rf", "--one-file-system", "--", path], environment: []) else { return }
        _ = try? remover.wait()
    }
}

/// A running backupfs.
final class BackupServer {
    let mount: String
    private let process: ChildProcess
    /// Open as long as the server lives: its last words go there.
    private let notify: OwnedDescriptor
    private var isRunning = true
    var processID: Int32 { process.processID }

    init(mount: String, store: String, notifyPath: String, _ arguments: [String]) throws {
        self.mount = mount
        notify = try UnixSocket.listen(notifyPath, .datagram)
        let program = try ThisProcess.executablePath().split(separator: "/").dropLast().reduce("") { $0 + "/" + $1 } + "/backupfs"
        let process = try ChildProcess(
            program, [mount, "--store", store] + arguments,
            environment: ThisProcess.environmentStrings.filter { !$0.hasPrefix("NOTIFY_SOCKET=") } + ["NOTIFY_SOCKET=\(notifyPath)"])
        self.process = process
        // Ready, or ended: whichever comes first. Thirty seconds are more than any start takes.
        let poll = try Epoll()
        try poll.add(notify.number, .input, token: 0)
        try poll.add(process.endDescriptor, .input, token: 1)
        let deadline = MonotonicTime.now().advanced(milliseconds: 30_000)
        while MonotonicTime.now() < deadline {
            for event in try poll.wait(timeoutMilliseconds: 1000) {
                if event.token == 1 { throw BenchError("backupfs ended before it was ready (\(try process.wait()))") }
                var bytes = [UInt8](repeating: 0, count: 4096)
                guard
                    let received = try bytes.withMutableBytes({ (buffer) throws(Errno) in
                        try UnixSocket.receive(notify.number, into: buffer)
                    })
                else { continue }
                for descriptor in received.descriptors { _ = close(descriptor) }
                if String(decoding: bytes[0..<received.count], as: UTF8.self).split(separator: "\n").contains("READY=1") { return }
            }
        }
        stop()
        throw BenchError("backupfs was not ready after 30 s")
    }

    /// Ends the server; one that hangs loses its connection, so that nobody hangs with it.
    func stop() {
        guard isRunning else { return }
        isRunning = false
        if let ending = (try? process.wait(timeoutMilliseconds: 0)) ?? nil {
            // The reason for whatever failed before.
            _ = try? FileDescriptor.standardError.writeAll("backupfs ended by itself: \(ending)\n".utf8)
            if ((try? Mounts.mount(at: mount)) ?? nil) != nil { try? Mounts.detach(mount) }
            return
        }
        let minor = (try? Mounts.mount(at: mount))??.device.minor
        process.signal(SIGTERM)
        if (try? process.wait(timeoutMilliseconds: 10_000)) ?? nil == nil {
            if let minor, let abort = try? Files.open("/sys/fs/fuse/connections/\(minor)/abort", .writeOnly) {
                _ = write(abort.number, "1", 1)
            }
            process.signal(SIGKILL)
            _ = try? process.wait()
        }
        if ((try? Mounts.mount(at: mount)) ?? nil) != nil { try? Mounts.detach(mount) }
    }
}
