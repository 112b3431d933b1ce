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
    private let survival: Survival
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
        signals = try SignalDescriptor([Signal.terminate, Signal.interrupt, Signal.hangUp, Signal.park])
        ThisProcess.ignoreBrokenPipes()
        try ThisProcess.raiseDescriptorLimit()
        var inherited = InheritedDescriptors()
        try Lifeline.watch(&inherited)
        ProcessMemory.keepOneHeap()
        do throws(Errno) { try ProcessMemory.lockOnFault() } catch {
            log.warning(
                "Memory is not locked: under pressure the daemon itself may be paged out. Raise LimitMEMLOCK.",
                metadata: ["error": "\(error)"])
        }
        let socket = inherited.take("varlink")
        let pressureSocket = inherited.take("pressure")
        survival = try Survival(&inherited, logger: log)
        let directory = try BackupDirectory(path: backup)
        engine = try Engine(
            backup: directory, configuration: EngineKillPoint.armed(Engine.Configuration(configuration)), logger: log)
        for feature in directory.status().features where !feature.isAvailable {
            log.notice("Not available: \(feature.name).", metadata: ["reason": "\(feature.reason ?? "not told")"])
        }
        try survival.takeOver(engine) { [notifier] pools in
            // Healing reads every page's place: a starter must not lose patience with many pools.
            try? notifier.extendTimeout(seconds: 60, status: "taking over pools of the last engine: \(pools) done")
        }
        let listener: OwnedDescriptor
        var ownSocket: String?
        if let socket {
            listener = socket
        } else {
            let path = runtimeDirectory + "/" + ShrinkInterface.name
            listener = try KeptListener.take(path, from: survival.descriptors)
            ownSocket = path
        }
        self.ownSocket = ownSocket
        pressure = try PressureWiring(engine, configuration, runtimeDirectory: runtimeDirectory, passed: pressureSocket, log: log)
        heartbeat = Heartbeat(notifier, engine, pressure.monitor)
        control = try ControlService(
            engine: engine, version: productVersion, survival: survival, pressure: pressure.monitor,
            graceMilliseconds: configuration.count("session-grace").map { UInt64($0) * 1000 } ?? ControlService.sessionGraceMilliseconds)
        server = try VarlinkServer(
            listener: listener,
            vendor: VarlinkVendor(
                vendor: "shrinkd", product: "shrinkd", version: productVersion, url: "file:///usr/share/doc/shrinkd/README.md"),
            interfaces: [control], onDrop: DropLog(log).note)
    }

    /// How an engine that was told to has ended.
    enum Ending {
        case stopped
        /// Everything is left to the next one.
        case parked
    }

    /// Serves until a signal, then ends in order.
    func run() throws -> Ending {
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
        // All threads are there.
        try? ProcessMemory.allocateWorkingMemory()
        try notifier.ready(status: heartbeat.text)
        if try waitForEnd(epoll) == .park {
            park()
            return .parked
        }
        if let result = ended.withLock({ $0 }) {
            try result.get()
            return .stopped
        }
        tell { (notifier) throws(Errno) in try notifier.stopping(status: "bringing back what clients hold") }
        pressure.stop()
        server.stopAccepting()
        // Whoever comes now is told at once that nobody listens, instead of waiting at a socket that the starter still holds.
        KeptListener.forget(survival.descriptors)
        engine.beginShutdown()
        let homecoming = Homecoming(engine, control.heldPools, notifier, log, patienceSeconds: configuration.count("stop-patience"))
        let ending = try homecoming.run(epoll, signals)
        let left = homecoming.nameLosses()
        homecoming.endMemory()
        if ending == .stuck {
            // Whoever still waits for the backup would be waited for here.
            if let ownSocket { try? Files.remove(ownSocket) }
            return .stopped
        }
        serving.cancel()
        let result = ended.wait { $0 }
        control.finish()
        if let ownSocket { try? Files.remove(ownSocket) }
        _ = engine.removeAllBackups(except: left)
        try result.get()
        return .stopped
    }

    private enum End { case stop, park }

    /// Returns on SIGTERM, SIGINT, on the signal to park, or when the server ended by itself.
    private func waitForEnd(_ epoll: Epoll) throws -> End {
        while true {
            let events = try epoll.wait(timeoutMilliseconds: heartbeat.milliseconds)
            // Nothing to do but to tell that calls are answered, if they are.
            if events.isEmpty, control.isResponsive(withinMilliseconds: UInt64(max(100, heartbeat.milliseconds))) { heartbeat.beat() }
            for event in events {
                if event.token == 1 { return .stop }
                while let number = try signals.next() {
                    switch number {
                    case Signal.hangUp:
                        tell { (notifier) throws(Errno) in try notifier.reloading() }
                        configuration = pressure.reload(configuration, source)
                        engine.changeUserLimits(UserLimits(configuration))
                        tell { (notifier) throws(Errno) in try notifier.ready(status: heartbeat.text) }
                    case Signal.park:
                        if survival.descriptors.isKept { return .park }
                        log.warning(
                            "Told to leave everything to the next engine, but the starter keeps nothing: that signal is passed over.")
                    default: return .stop
                    }
                }
            }
        }
    }

    /// Leaves everything to the next engine, which the starter starts at once. All of it is with the starter already: what a killed engine would not
    /// lose, one that ends now does not lose either.
    private func park() {
        tell { (notifier) throws(Errno) in try notifier.stopping(status: "leaving the pools to the next engine") }
        server.stopAccepting()
        survival.note(engine.counters)
        log.notice(
            "Ended for a restart: pools, pins and sessions wait for the next engine.",
            metadata: ["descriptors": "\(survival.descriptors.used)"])
    }

    private func tell(_ what: (Notifier) throws(Errno) -> Void) {
        do throws(Errno) { try what(notifier) } catch {
            log.warning("The starter of this process cannot be told.", metadata: ["error": "\(error)"])
        }
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
