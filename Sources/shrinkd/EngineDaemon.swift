import Logging
import ServiceSupport
import ShrinkControl
import ShrinkEngine
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import Varlink

/// An engine, its control socket and its signals, from start to orderly end.
final class EngineDaemon {
    private let log: Logger
    private let signals: SignalDescriptor
    private let engine: Engine
    private let control: ControlService
    private let server: VarlinkServer
    private let notifier = Notifier()
    private let pressure: PressureWiring
    private let source: ConfigurationSource
    private var configuration: Configuration
    private var heartbeat: Heartbeat
    /// The socket's file, if it was made here; it goes with an orderly end.
    private let ownSocket: String?

    /// Everything that may fail before requests are served. Call it on the program's first thread before any other exists.
    init(runtimeDirectory: String, backup: String, configuration source: ConfigurationSource, log: Logger) throws {
        self.log = log
        self.source = source
        configuration = try source.read()
        signals = try SignalDescriptor([Signal.terminate, Signal.interrupt, Signal.hangUp])
        ThisProcess.ignoreBrokenPipes()
        try ThisProcess.raiseDescriptorLimit()
        var inherited = InheritedDescriptors()
        try Lifeline.watch(&inherited)
        do throws(Errno) { try ProcessMemory.lockOnFault() } catch {
            log.warning(
                "Memory is not locked: under pressure the daemon itself may be paged out. Raise LimitMEMLOCK.",
                metadata: ["error": "\(error)"])
        }
        let directory = try BackupDirectory(path: backup)
        engine = try Engine(backup: directory, configuration: Engine.Configuration(configuration), logger: log)
        for feature in directory.status().features where !feature.isAvailable {
            log.notice("Not available: \(feature.name).", metadata: ["reason": "\(feature.reason ?? "not told")"])
        }
        let listener: OwnedDescriptor
        var ownSocket: String?
        if let passed = inherited.take("varlink") {
            listener = passed
        } else {
            // Root's daemon serves every user and tells them apart by their credentials.
            let path = runtimeDirectory + "/" + ShrinkInterface.name
            listener = try VarlinkSocket.bind(path, mode: ThisProcess.userID == 0 ? 0o666 : 0o600)
            ownSocket = path
        }
        self.ownSocket = ownSocket
        pressure = try PressureWiring(
            engine, configuration, runtimeDirectory: runtimeDirectory, passed: inherited.take("pressure"), log: log)
        heartbeat = Heartbeat(notifier, engine, pressure.monitor)
        control = try ControlService(engine: engine, version: productVersion, pressure: pressure.monitor)
        server = try VarlinkServer(
            listener: listener,
            vendor: VarlinkVendor(
                vendor: "shrinkd", product: "shrinkd", version: productVersion, url: "file:///usr/share/doc/shrinkd/README.md"),
            interfaces: [control], onDrop: DropLog(log).note)
    }

    /// Serves until a signal, then ends in order.
    func run() throws {
        let ended = Monitor<Result<Void, Errno>?>(nil)
        let wakeup = try Wakeup()
        let serving = Task.detached { [server] in
            let result: Result<Void, Errno>
            do throws(Errno) { result = .success(try await server.run()) } catch { result = .failure(error) }
            ended.withLock { $0 = result }
            ended.notifyAll()
            wakeup.signal()
        }
        let epoll = try Epoll()
        try epoll.add(signals.number, .input, token: 0)
        try epoll.add(wakeup.number, .input, token: 1)
        try notifier.ready(status: heartbeat.text)
        try waitForEnd(epoll)
        if let result = ended.withLock({ $0 }) {
            try result.get()
            return
        }
        tell { (notifier) throws(Errno) in try notifier.stopping(status: "bringing back what clients hold") }
        pressure.stop()
        server.stopAccepting()
        engine.beginShutdown()
        try bringBackHeldPools(epoll)
        nameLosses()
        serving.cancel()
        let result = ended.wait { $0 }
        control.finish()
        if let ownSocket { try? Files.remove(ownSocket) }
        _ = engine.removeAllBackups()
        try result.get()
    }

    /// Returns on SIGTERM, SIGINT, or when the server ended by itself.
    private func waitForEnd(_ epoll: Epoll) throws {
        while true {
            let events = try epoll.wait(timeoutMilliseconds: heartbeat.milliseconds)
            heartbeat.beat()
            for event in events {
                if event.token == 1 { return }
                while let number = try signals.next() {
                    if number == Signal.hangUp {
                        tell { (notifier) throws(Errno) in try notifier.reloading() }
                        configuration = pressure.reload(configuration, source)
                        tell { (notifier) throws(Errno) in try notifier.ready(status: heartbeat.text) }
                    } else {
                        return
                    }
                }
            }
        }
    }

    // MARK: Ending

    /// Clients that still have a pool open keep their mapping when this process is gone: its pages must be in it.
    private func bringBackHeldPools(_ epoll: Epoll) throws {
        let pools = control.heldPools
        guard !pools.isEmpty else { return }
        log.notice("Recovering pools that clients hold; a second SIGTERM skips it.", metadata: ["pools": "\(pools.count)"])
        let state = Monitor((isSkipped: false, isDone: false))
        let done = try Wakeup()
        let (engine, log, notifier) = (engine, log, notifier)
        let worker = try DedicatedThread("recover-held") {
            var told = MonotonicTime.now()
            for pool in pools {
                let reporter = ProgressReporter(log: log, notifier: notifier, pool: pool, last: told)
                let result = engine.recover(.pool(pool)) { progress in
                    reporter.report(progress)
                    return state.withLock { $0.isSkipped } ? .stop : .proceed
                }
                told = reporter.last
                log.notice(
                    "Recovered.",
                    metadata: [
                        "pool": "\(pool.rawValue)", "pages": "\(result.recoveredPages)", "failed": "\(result.failedPages)",
                        "stopped_by": "\(result.failure.map { "\($0)" } ?? "nothing")",
                    ])
            }
            state.withLock { $0.isDone = true }
            done.signal()
        }
        try epoll.add(done.number, .input, token: 2)
        while !state.withLock({ $0.isDone }) {
            for event in try epoll.wait() where event.token == 0 {
                while let number = try signals.next() {
                    if number != Signal.hangUp { state.withLock { $0.isSkipped = true } }
                }
            }
        }
        worker.join()
        try epoll.remove(done.number)
    }

    /// Says which content ends with this process: pages in the backup of pools that clients hold, and everything of pools that nobody holds.
    private func nameLosses() {
        let held = Set(control.heldPools)
        var after: ObjectID?
        while true {
            let objects = engine.objects(in: nil, after: after, limit: 256)
            guard let last = objects.last else { return }
            after = last.id
            for object in objects {
                let lost = held.contains(object.pool) ? object.pages.backedUp : object.pages.backedUp + object.pages.resident
                if lost == 0 { continue }
                log.warning(
                    "The content of an object ends with the daemon.",
                    metadata: [
                        "object": "\(object.id.rawValue)", "name": "\(object.name)", "pool": "\(object.pool.rawValue)", "pages": "\(lost)",
                    ])
            }
        }
    }

    private func tell(_ what: (Notifier) throws(Errno) -> Void) {
        do throws(Errno) { try what(notifier) } catch {
            log.warning("The starter of this process cannot be told.", metadata: ["error": "\(error)"])
        }
    }
}

/// One line a second about a long recover, for the log and for whoever waits with a timeout.
private final class ProgressReporter: @unchecked Sendable {
    // Sendable: the engine calls back one at a time.
    private let log: Logger
    private let notifier: Notifier
    private let pool: PoolID
    private(set) var last: MonotonicTime

    init(log: Logger, notifier: Notifier, pool: PoolID, last: MonotonicTime) {
        self.log = log
        self.notifier = notifier
        self.pool = pool
        self.last = last
    }

    func report(_ progress: RecoverProgress) {
        let now = MonotonicTime.now()
        guard now.nanoseconds(since: last) >= 1_000_000_000 else { return }
        last = now
        let text = "recovering pool \(pool.rawValue): \(progress.recoveredPages) pages are back"
        log.info("Progress.", metadata: ["pool": "\(pool.rawValue)", "pages": "\(progress.recoveredPages)"])
        try? notifier.extendTimeout(seconds: 30, status: text)
    }
}

/// Connections that the server ended, in the log: at most one line a minute for each user, with what it keeps quiet about.
private final class DropLog: Sendable {
    private struct User {
        var last: MonotonicTime
        var quiet = 0
    }
    private static let pauseNanoseconds: UInt64 = 60_000_000_000
    /// Users remembered at a time.
    private static let userLimit = 1024

    private let log: Logger
    private let users = Monitor<[UInt32: User]>([:])

    init(_ log: Logger) { self.log = log }

    func note(_ peer: PeerCredentials, _ reason: VarlinkDropReason) {
        let now = MonotonicTime.now()
        let quiet = users.withLock { users -> Int? in
            if let user = users[peer.userID], now.nanoseconds(since: user.last) < Self.pauseNanoseconds {
                users[peer.userID]?.quiet += 1
                return nil
            }
            if users.count >= Self.userLimit { users = [:] }
            return users.updateValue(User(last: now), forKey: peer.userID)?.quiet ?? 0
        }
        guard let quiet else { return }
        log.notice(
            "A client's connection was closed: \(Self.text(reason)).",
            metadata: ["uid": "\(peer.userID)", "pid": "\(peer.processID)", "not_told_since": "\(quiet)"])
    }

    private static func text(_ reason: VarlinkDropReason) -> String {
        switch reason {
        case .malformedMessage: "what it sent is no Varlink call (docs/control-protocol.md)"
        case .messageTooLarge: "its message is larger than 256 KiB"
        case .descriptorViolation: "it sent descriptors where none belong"
        case .halfMessageTimeout: "it left a message half-sent"
        case .slowReader: "it does not read its replies"
        case .tooManyConnections: "there are too many connections"
        case .tooManyConnectionsOfOneUser: "this user has too many connections"
        case .unsendableReply: "a reply could not be sent"
        case .upgradeUnsupported: "it asked for another protocol, which there is not"
        }
    }
}
