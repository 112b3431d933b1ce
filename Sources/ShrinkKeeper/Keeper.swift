public import Logging
import ServiceSupport
import ShrinkLinux
import SystemPackage

/// Starts the file server and the engine, keeps what they ask to be kept, starts them again, and ends them in order.
///
/// It is to them what systemd is to the two units: they cannot tell the difference. One thread, one epoll; no call of it ever touches
/// the mounted file system or a pool. The decisions are `Supervision`'s.
public final class Keeper {
    private let log: Logger
    private let plan: KeeperPlan
    private let directory: RuntimeDirectory
    private let starter = Notifier()
    private let signals: SignalDescriptor
    private let epoll: Epoll
    private var parts: [Part: PartProcess] = [:]
    private var supervision: Supervision
    private var mount: KeptMount
    private var exitStatus: Int32?
    /// The engine's lifeline ends with the keeper; the file server's with the keeper and the engine.
    private let engineLine: (output: SharedDescriptor, input: SharedDescriptor)
    private let backupfsLine: (output: SharedDescriptor, input: SharedDescriptor)

    private enum Token {
        static let signals: UInt64 = 1
        static func socket(_ part: Part) -> UInt64 { 16 + UInt64(part.rawValue) }
        static func end(_ part: Part) -> UInt64 { 32 + UInt64(part.rawValue) }
    }

    /// Takes the runtime directory and prepares everything that may fail before a part is started.
    ///
    /// Call it on the program's first thread before any other exists: it blocks SIGTERM, SIGINT and SIGHUP for all of them.
    public init(_ plan: KeeperPlan, log: Logger) throws(KeeperFailure) {
        self.log = log
        directory = try RuntimeDirectory(making: plan.runtimeDirectory)
        mount = KeptMount(directory.mountPoint)
        if plan.backupfs != nil {
            try mount.takeOver(log)
            try directory.makeMountPoint()
        }
        self.plan = plan
        supervision = Supervision(ownsFileServer: plan.backupfs != nil, limits: plan.limits)
        for store in plan.storeDirectories {
            do throws(Errno) {
                if plan.makesParentsOfStores {
                    try Files.makeDirectories(store)
                } else {
                    do throws(Errno) { try Files.makeDirectory(store) } catch { if error != .fileExists { throw error } }
                }
            } catch {
                throw KeeperFailure(
                    .unusablePath, "store \(store) cannot be made: \(error); make the directory it lies in, or give another --store")
            }
        }
        do throws(Errno) {
            try ThisProcess.raiseDescriptorLimit()
            ThisProcess.ignoreBrokenPipes()
            signals = try SignalDescriptor([Signal.terminate, Signal.interrupt, Signal.hangUp])
            epoll = try Epoll()
            engineLine = try Self.line()
            backupfsLine = try Self.line()
            try epoll.add(signals.number, .input, token: Token.signals)
            if let command = plan.backupfs { try prepare(.backupfs, command, limit: plan.keptForBackupfs) }
            try prepare(.engine, plan.engine, limit: plan.keptForEngine)
        } catch {
            throw KeeperFailure(.system, "cannot set up in \(directory.path): \(error)")
        }
        noteProcesses()
    }

    private static func line() throws(Errno) -> (output: SharedDescriptor, input: SharedDescriptor) {
        let pipe = try ThisProcess.pipe()
        return (SharedDescriptor(try pipe.output.duplicate()), SharedDescriptor(try pipe.input.duplicate()))
    }

    private func prepare(_ part: Part, _ command: KeeperPlan.Command, limit: Int) throws(Errno) {
        let arguments = command.arguments.map {
            switch $0 {
            case KeeperPlan.mountPointArgument: directory.mountPoint
            case KeeperPlan.runtimeDirectoryArgument: directory.path
            default: $0
            }
        }
        let process = try PartProcess(
            part, KeeperPlan.Command(command.path, arguments), socketPath: directory.notifySocket(of: part), limit: limit)
        parts[part] = process
        try epoll.add(process.socket.number, .input, token: Token.socket(part))
    }

    /// Works until both parts have ended; returns the program's exit status.
    public func run() -> Int32 {
        carryOut(supervision.begin(.now()))
        while true {
            if let exitStatus {
                // With them go the sockets.
                parts = [:]
                directory.tidy()
                return exitStatus
            }
            do throws(Errno) {
                for event in try epoll.wait(timeoutMilliseconds: timeout()) { try take(event) }
            } catch {
                fatalError("the keeper cannot wait for its parts: \(error)")
            }
            carryOut(supervision.passed(.now()))
        }
    }

    private func timeout() -> CInt {
        guard let deadline = supervision.nextDeadline else { return -1 }
        let now = MonotonicTime.now()
        if deadline <= now { return 0 }
        // Rounded up: waking just before the deadline would spin.
        return CInt(clamping: (deadline.nanoseconds(since: now) + 999_999) / 1_000_000)
    }

    // MARK: What comes in

    private func take(_ event: Epoll.Event) throws(Errno) {
        if event.token == Token.signals {
            while let number = try signals.next() {
                log.info("Signal.", metadata: ["number": "\(number)"])
                if number == Signal.hangUp {
                    // The engine reads the configuration again; what is the file server's changes with its next start.
                    parts[.engine]?.process?.signal(Signal.hangUp)
                } else {
                    carryOut(supervision.askedToEnd(.now()))
                }
            }
        }
        for part in Part.allCases {
            guard let process = parts[part] else { continue }
            // A part's last words come before its end.
            if event.token == Token.socket(part) { try hear(process) }
            if event.token == Token.end(part), let child = process.process {
                try hear(process)
                try epoll.remove(child.endDescriptor)
                guard let ending = try process.reap() else { continue }
                noteProcesses()
                carryOut(supervision.ended(part, .ended(ending), .now()))
            }
        }
    }

    private func hear(_ process: PartProcess) throws(Errno) {
        // More than a socket's queue holds, and still an end: a part that never stops talking must not keep the keeper from the other.
        for _ in 0..<1024 {
            // Process 0 sends nothing, so without a running part everything is refused and dropped.
            guard let received = try process.socket.receive(from: process.process?.processID ?? 0) else { return }
            switch received {
            case .refused(let why):
                log.warning("A notification is not acted on: \(why).", metadata: ["part": "\(process.part)"])
            case .message(let message, let descriptors):
                store(message.storage, descriptors, of: process)
                for statement in message.statements { take(statement, of: process.part) }
            }
        }
    }

    private func store(_ storage: NotifyMessage.Storage, _ descriptors: [SharedDescriptor], of process: PartProcess) {
        switch storage {
        case .nothing: break
        case .remove(let name): process.kept.remove(name: name)
        case .keep(let name, _):
            for descriptor in descriptors {
                guard let own = try? descriptor.duplicate(), process.kept.keep(own, name: name) != .full else {
                    log.error(
                        "A descriptor is not kept: the store is full. The part must keep fewer.",
                        metadata: ["part": "\(process.part)", "name": "\(name)", "limit": "\(process.kept.limit)"])
                    continue
                }
            }
        }
    }

    private func take(_ statement: NotifyMessage.Statement, of part: Part) {
        switch statement {
        case .ready: carryOut(supervision.becameReady(part, .now()))
        case .moreTime(let time):
            carryOut(supervision.askedForTime(part, microseconds: time, .now()))
            // Who waits for a part waits for this keeper too.
            tell { (starter) throws(Errno) in try starter.extendTimeout(microseconds: time) }
        case .status(let text):
            log.log(level: supervision.isEnding ? .info : .debug, "\(text)", metadata: ["part": "\(part)"])
            tell { (starter) throws(Errno) in try starter.status("\(part): \(text)") }
            carryOut(supervision.progressed(part, .now()))
        case .mainProcess(let number):
            log.warning(
                "A part names another main process; the one that was started counts.", metadata: ["part": "\(part)", "pid": "\(number)"])
        // The barrier's descriptor is closed when this message is done with, and messages are taken in order.
        case .barrier, .reloading, .stopping, .watchdog: break
        }
    }

    // MARK: What goes out

    private func carryOut(_ actions: [Supervision.Action]) {
        for action in actions {
            switch action {
            case .start(let part): start(part)
            case .askToEnd(let part): parts[part]?.process?.signal(Signal.terminate)
            case .kill(let part): parts[part]?.process?.signal(Signal.kill)
            case .noteMount: mount.note(log)
            case .clearDeadMount:
                if parts[.backupfs]?.kept.names.contains(KeptDescriptor.fuseDevice) != true { mount.abort(log) }
            case .abortMount: mount.abort(log)
            case .discardKept(let part): parts[part]?.kept.removeAll()
            case .tellReady:
                log.notice("Ready.", metadata: ["runtime_dir": "\(directory.path)"])
                tell { (starter) throws(Errno) in try starter.ready(status: "serving in \(directory.path)") }
            case .tellStopping: tell { (starter) throws(Errno) in try starter.stopping() }
            case .say(let weight, let text, let part): say(weight, text, part)
            case .finish(let status): exitStatus = status
            }
        }
    }

    private func start(_ part: Part) {
        guard let process = parts[part] else { return }
        let (line, unannounced) =
            switch part {
            case .engine: (engineLine.output.number, [directory.lockNumber, backupfsLine.input.number])
            case .backupfs: (backupfsLine.output.number, [directory.lockNumber])
            }
        do throws(Errno) {
            try process.start(lifeline: line, unannounced: unannounced)
            guard let child = process.process else { return }
            try epoll.add(child.endDescriptor, .input, token: Token.end(part))
            log.info("Started.", metadata: ["part": "\(part)", "pid": "\(child.processID)", "kept": "\(process.kept.count)"])
            noteProcesses()
        } catch {
            carryOut(supervision.ended(part, .neverStarted("\(process.command.path): \(error)"), .now()))
        }
    }

    private func noteProcesses() {
        directory.note(
            [("keeper", ThisProcess.processID)]
                + Part.allCases.compactMap { part in parts[part]?.process.map { ("\(part)", $0.processID) } })
    }

    private func say(_ weight: Supervision.Weight, _ text: String, _ part: Part?) {
        let level: Logger.Level =
            switch weight {
            case .info: .info
            case .notice: .notice
            case .warning: .warning
            case .error: .error
            }
        log.log(level: level, "\(text)", metadata: part.map { ["part": "\($0)"] })
    }

    /// What the starter of the keeper is told is good to have and never worth failing for.
    private func tell(_ what: (Notifier) throws(Errno) -> Void) {
        do throws(Errno) { try what(starter) } catch {
            log.warning("The starter of this process cannot be told.", metadata: ["error": "\(error)"])
        }
    }
}
