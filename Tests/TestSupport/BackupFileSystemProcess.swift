import Glibc
import ServiceSupport
public import ShrinkLinux
import SystemPackage

/// A `backupfs` of a test's own: started as a child on a scratch store, waited for until it serves, and taken down safely whatever happens.
///
/// A process must never touch a mount that it serves; here the server is always another process. By default what the server wants kept is let go,
/// so that the mount dies with it and nobody hangs. With `keepsMount` this process keeps it over a crash as a keeper would, and then must not
/// touch the mount itself: use `runProgram`.
public final class BackupFileSystemProcess {
    /// Who serves. An ordinary user is `nobody`, and mounts through fusermount3.
    public enum User: Sendable {
        case same
        case nobody
    }

    public struct Failure: Error, CustomStringConvertible {
        public var description: String
    }

    public let mountPoint: String
    /// The store's first directory.
    public let storeDirectory: String
    public private(set) var process: ChildProcess
    private let scratch: ScratchDirectory
    private let arguments: [String]
    private let user: User
    private let keepsMount: Bool
    private let notify: NotifySocket
    private var kept = DescriptorStore(limit: 16)
    private var isRunning = true

    /// The number that the unprivileged system user `nobody` has.
    public static let nobody: UInt32 = 65534

    /// Starts a server and waits until it is ready. Without `store` the store is a scratch directory beside the mount point.
    /// `layoutArguments` follow `--store DIR`.
    public init(
        store: String? = nil, arguments layoutArguments: [String] = [], user: User = .same, keepsMount: Bool = false,
        environment: [String] = []
    ) throws {
        scratch = try ScratchDirectory()
        mountPoint = scratch.file("mount")
        storeDirectory = store ?? scratch.file("store")
        try Files.makeDirectory(mountPoint)
        if store == nil { try Files.makeDirectory(storeDirectory) }
        self.user = user
        self.keepsMount = keepsMount
        arguments = [mountPoint, "--store", storeDirectory] + layoutArguments
        notify = try NotifySocket(binding: scratch.file("notify"))
        if user == .nobody {
            for path in [scratch.path, mountPoint, storeDirectory, notify.path] {
                try Files.setOwner(path, uid: Self.nobody, gid: Self.nobody)
            }
        }
        process = try Self.spawn(arguments, user, notify, kept, environment)
        do { try waitUntilReady(environment) } catch {
            tearDown()
            throw error
        }
    }

    deinit { tearDown() }

    private static func spawn(
        _ arguments: [String], _ user: User, _ notify: borrowing NotifySocket, _ kept: DescriptorStore, _ environment: [String]
    ) throws -> ChildProcess {
        let inheritance = ChildInheritance(notifySocket: notify.path, store: kept)
        let program = Machine.program("backupfs")
        let all = inheritance.environment + environment
        switch user {
        case .same: return try ChildProcess(program, arguments, environment: all, descriptors: inheritance.descriptors)
        case .nobody:
            // Debian lets everybody open /dev/fuse; some machines don't. So there is one that does, in a mount namespace of the server's own, and
            // the mount is there too: reach it with `runAsUser`.
            let script = """
                node=$1; shift
                [ -e "$node" ] || mknod -m 666 "$node" c 10 229
                mount --bind "$node" /dev/fuse
                exec setpriv --reuid=\(nobody) --regid=\(nobody) --clear-groups "$@"
                """
            return try ChildProcess(
                "/usr/bin/unshare", ["--mount", "/bin/sh", "-ec", script, "sh", arguments[0] + ".fuse", program] + arguments,
                environment: all,
                descriptors: inheritance.descriptors)
        }
    }

    private func waitUntilReady(_ environment: [String]) throws {
        let limit = MonotonicTime.now().advanced(milliseconds: 30_000)
        while MonotonicTime.now() < limit {
            if try waitReadable(notify.number, timeoutMilliseconds: 50), try receive() { return }
            if let ending = try process.wait(timeoutMilliseconds: 0) {
                isRunning = false
                throw Failure(description: "backupfs ended before it was ready: \(ending)")
            }
        }
        throw Failure(description: "backupfs was not ready within 30 s")
    }

    /// True once the server said that it is ready.
    private func receive() throws -> Bool {
        var isReady = false
        while let received = try notify.receive(from: process.processID) {
            guard case .message(let message, let descriptors) = received else { continue }
            isReady = isReady || message.statements.contains(.ready)
            switch message.storage {
            case .keep(let name, _):
                guard keepsMount else { continue }
                for descriptor in descriptors { kept.keep(try descriptor.duplicate(), name: name) }
            case .remove(let name): kept.remove(name: name)
            case .nothing: break
            }
        }
        return isReady
    }

    /// Names of what the server left with us.
    public var keptNames: [String] { kept.names }

    /// What is kept under a name. It stays ours.
    public func keptDescriptor(_ name: String) -> CInt? {
        kept.names.firstIndex(of: name).map { kept.numbers[$0] }
    }

    /// Loses what is kept under a name.
    public func lose(_ name: String) { kept.remove(name: name) }

    /// Starts a server again on the same mount point and store, with what was kept; waits until it serves.
    public func startAgain(environment: [String] = []) throws {
        precondition(!isRunning, "end the first one before")
        process = try Self.spawn(arguments, user, notify, kept, environment)
        isRunning = true
        try waitUntilReady(environment)
    }

    /// SIGKILL, and waits for the end.
    @discardableResult
    public func kill() throws -> ChildProcess.Ending {
        process.signal(SIGKILL)
        isRunning = false
        let ending = try process.wait()
        // What the dead process had sent is not lost.
        _ = try? receive()
        return ending
    }

    /// SIGTERM, and waits for the end.
    @discardableResult
    public func stop() throws -> ChildProcess.Ending {
        process.signal(SIGTERM)
        return try waitForEnd()
    }

    /// Waits for the server to end by itself.
    @discardableResult
    public func waitForEnd() throws -> ChildProcess.Ending {
        let limit = MonotonicTime.now().advanced(milliseconds: 30_000)
        while MonotonicTime.now() < limit {
            if let ending = try process.wait(timeoutMilliseconds: 50) {
                isRunning = false
                _ = try? receive()
                return ending
            }
            _ = try receive()
        }
        throw Failure(description: "backupfs did not end within 30 s")
    }

    private func tearDown() {
        if isRunning {
            process.signal(SIGTERM)
            if (try? process.wait(timeoutMilliseconds: 15_000)).flatMap({ $0 }) == nil {
                process.signal(SIGKILL)
                // Callers stuck in the mount come back with an error; never waits for the server.
                try? Mounts.abortAndDetach(mountPoint)
                _ = try? process.wait()
            }
            isRunning = false
        }
        kept.removeAll()
        while let mount = try? Mounts.mount(at: mountPoint), mount.type == "fuse.backupfs" {
            guard (try? Mounts.abortAndDetach(mountPoint)) != nil else { break }
        }
    }

    // MARK: Looking and doing

    /// A path below the mount point.
    public func file(_ path: String) -> String { mountPoint + "/" + path }

    /// Runs a shell command as the user who serves, where that user's mount is.
    public func runAsUser(_ command: String) throws -> ProgramResult {
        switch user {
        case .same: try runProgram("/bin/sh", ["-c", command])
        case .nobody:
            try runProgram(
                "/usr/bin/nsenter",
                [
                    "--target=\(process.processID)", "--mount", "/usr/bin/setpriv", "--reuid=\(Self.nobody)", "--regid=\(Self.nobody)",
                    "--clear-groups", "/bin/sh", "-c", command,
                ])
        }
    }

    /// The value of a key in `stats`.
    public func statistic(_ key: String) throws -> String? {
        let text = String(decoding: try Files.contents(of: file("stats")), as: UTF8.self)
        return text.split(separator: "\n").first { $0.hasPrefix(key + ": ") }.map { String($0.dropFirst(key.count + 2)) }
    }

    /// Makes an object and opens its `data`.
    public func makeObject(_ id: UInt32, sizeBytes: Int = 0) throws -> OwnedDescriptor {
        try Files.makeDirectory(file("objects/\(id)"))
        let data = try Files.open(file("objects/\(id)/data"), .readWrite)
        if sizeBytes > 0 { try Files.truncate(data.number, to: sizeBytes) }
        return data
    }
}

/// Runs `body` with a server, which is taken down when `body` returns or throws. The parameters are those of `BackupFileSystemProcess`.
public func withBackupFileSystem<R>(
    store: String? = nil, arguments: [String] = [], user: BackupFileSystemProcess.User = .same, keepsMount: Bool = false,
    _ body: (BackupFileSystemProcess) throws -> R
) throws -> R {
    let server = try BackupFileSystemProcess(store: store, arguments: arguments, user: user, keepsMount: keepsMount)
    // A descriptor in use is no use of the server: without this it might be taken down early.
    return try withExtendedLifetime(server) { try body(server) }
}

/// A program's outcome.
public struct ProgramResult: Sendable {
    public var ending: ChildProcess.Ending
    public var output: String
    public var errors: String
}

/// Runs a program to its end, at most `seconds`, and collects what it wrote. One that takes longer is killed.
public func runProgram(
    _ path: String, _ arguments: [String], environment: [String] = ["PATH=/usr/bin:/bin", "LC_ALL=C"], seconds: Int = 60
) throws -> ProgramResult {
    let output = try MemoryFile.make("output", size: 0)
    let errors = try MemoryFile.make("errors", size: 0)
    let child = try ChildProcess(
        path, arguments, environment: environment, standardOutput: output.number, standardError: errors.number)
    var ending = try child.wait(timeoutMilliseconds: CInt(seconds * 1000))
    if ending == nil {
        child.signal(SIGKILL)
        ending = try child.wait()
    }
    return ProgramResult(ending: ending ?? .signalled(SIGKILL), output: try text(of: output.number), errors: try text(of: errors.number))
}

private func text(of file: CInt) throws -> String {
    var bytes = [UInt8](repeating: 0, count: try Files.status(file).sizeBytes)
    let count = try bytes.withUnsafeMutableBytes { try Files.read(file, into: $0, at: 0) }
    return String(decoding: bytes[..<count], as: UTF8.self)
}
