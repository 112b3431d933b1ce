import Glibc
import ServiceSupport
public import ShrinkLinux
import SystemPackage

/// A `shrinkd` of a test's own, started by hand: keeper, engine and backupfs as real processes in a scratch directory.
///
/// Taken down safely whatever happens: asked to end, then killed, the connection aborted, the mount detached.
public final class DaemonProcess {
    public struct Failure: Error, CustomStringConvertible {
        public var description: String
        public init(description: String) { self.description = description }
    }

    public let runtimeDirectory: String
    public let storeDirectory: String
    public var mountPoint: String { runtimeDirectory + "/backup" }
    public var socket: String { runtimeDirectory + "/io.shrinkd" }
    private let scratch: ScratchDirectory
    private let log: OwnedDescriptor
    public let keeper: ChildProcess
    private let notify: NotifySocket
    private var isRunning = true

    /// Starts it and waits until both parts serve. Without `store` the store is on the machine's disk, beside the runtime directory.
    ///
    /// Pressure is off unless `environment` says otherwise: what else the machine does must not move pages in the midst of a test.
    public init(
        store: String? = nil, arguments: [String] = [], environment: [String] = ["SHRINKD_PRESSURE=off"], group: MemoryGroup? = nil
    ) throws {
        scratch = try ScratchDirectory()
        runtimeDirectory = scratch.file("run")
        storeDirectory = store ?? scratch.file("store")
        log = try MemoryFile.make("daemon-log", size: 0)
        notify = try NotifySocket(binding: scratch.file("notify"))
        let inheritance = ChildInheritance(notifySocket: notify.path, store: DescriptorStore(limit: 1))
        // Appending: three processes write to one log.
        let appending = try Files.open("/proc/self/fd/\(log.number)", [.writeOnly, .append])
        // `group`: the memory cgroup that all three are in from their first instruction.
        let enter = group.map { "echo $$ >\($0.path)/cgroup.procs; " } ?? ""
        keeper = try ChildProcess(
            "/bin/sh",
            ["-c", enter + "exec \"$@\"", "sh", Machine.program("shrinkd"), "--runtime-dir", runtimeDirectory, "--store", storeDirectory]
                + arguments,
            environment: inheritance.environment + environment, standardError: appending.number)
        do { try waitUntilReady() } catch {
            tearDown()
            throw error
        }
    }

    deinit { tearDown() }

    private func waitUntilReady() throws {
        let limit = MonotonicTime.now().advanced(milliseconds: 60_000)
        while MonotonicTime.now() < limit {
            if try waitReadable(notify.number, timeoutMilliseconds: 50) {
                while let received = try notify.receive(from: keeper.processID) {
                    if case .message(let message, _) = received, message.statements.contains(.ready) { return }
                }
            }
            if let ending = try keeper.wait(timeoutMilliseconds: 0) {
                isRunning = false
                throw Failure(description: "shrinkd ended before it was ready (\(ending)): \(said)")
            }
        }
        throw Failure(description: "shrinkd was not ready within 60 s: \(said)")
    }

    /// Everything the three processes have logged so far.
    public var said: String {
        guard let size = try? Files.status(log.number).sizeBytes else { return "" }
        var bytes = [UInt8](repeating: 0, count: size)
        let count = (try? bytes.withMutableBytes { (buffer) throws(Errno) in try Files.read(log.number, into: buffer, at: 0) }) ?? 0
        return String(decoding: bytes[0..<count], as: UTF8.self)
    }

    /// The process of a part, `engine` or `backupfs`, as the keeper notes it. Nil while the part is not there.
    public func process(of part: String) -> Int32? {
        guard let text = try? Files.contents(of: runtimeDirectory + "/lock", limit: 4096) else { return nil }
        for line in String(decoding: text, as: UTF8.self).split(separator: "\n") {
            let fields = line.split(separator: " ")
            if fields.count == 2, fields[0] == part { return Int32(fields[1]) }
        }
        return nil
    }

    /// SIGKILL to a part that this daemon started; waits until the keeper has started another.
    public func killPart(_ part: String) throws {
        guard let old = process(of: part) else { throw Failure(description: "\(part) is not running") }
        Glibc.kill(old, SIGKILL)
        try waitFor("\(part) to be started again") { self.process(of: part).map { $0 != old } ?? false }
    }

    /// Waits for a condition that another process brings about; bounded.
    public func waitFor(_ what: String, seconds: UInt64 = 30, _ isTrue: () throws -> Bool) throws {
        let limit = MonotonicTime.now().advanced(milliseconds: seconds * 1000)
        while try !isTrue() {
            if MonotonicTime.now() > limit { throw Failure(description: "waited \(seconds) s for \(what): \(said)") }
            usleep(2000)
        }
    }

    public func terminate() { keeper.signal(SIGTERM) }
    public func hangUp() { keeper.signal(SIGHUP) }

    /// SIGTERM unless it was sent, and waits for the end.
    @discardableResult
    public func stop(isAsked: Bool = false) throws -> ChildProcess.Ending {
        if !isAsked { terminate() }
        guard let ending = try keeper.wait(timeoutMilliseconds: 60_000) else { throw Failure(description: "shrinkd does not end: \(said)") }
        isRunning = false
        return ending
    }

    /// Waits for the keeper's end, whoever brings it about; nil if it does not come.
    public func wait(seconds: Int32) throws -> ChildProcess.Ending? {
        let ending = try keeper.wait(timeoutMilliseconds: seconds * 1000)
        if ending != nil { isRunning = false }
        return ending
    }

    private func tearDown() {
        if isRunning {
            let parts = ["engine", "backupfs"].compactMap { process(of: $0) }
            keeper.signal(SIGTERM)
            if (try? keeper.wait(timeoutMilliseconds: 20_000)).flatMap({ $0 }) == nil {
                try? Mounts.abortAndDetach(mountPoint)
                keeper.signal(SIGKILL)
                for part in parts { Glibc.kill(part, SIGKILL) }
                _ = try? keeper.wait()
            }
            isRunning = false
        }
        while let mount = try? Mounts.mount(at: mountPoint), mount.type == "fuse.backupfs" {
            guard (try? Mounts.abortAndDetach(mountPoint)) != nil else { break }
        }
    }
}
