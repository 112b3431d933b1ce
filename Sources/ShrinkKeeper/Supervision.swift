public import ShrinkLinux

/// The keeper's decisions: what happened goes in, what to do comes out. No clock, no process, no file.
///
/// Rules, and where each is kept:
/// - The engine runs only while the file server is ready (`startEngineIfPossible`); without a file server of its own, always.
/// - A part that was ready once and ends is started again after a pause; one that never got ready is a failed start and the end of the
///   keeper: whoever typed the command sees the cause at once.
/// - The file server outlives the engine in an orderly stop: it is asked to end when the engine has ended, because the engine brings
///   clients' pages home through it; and while the engine still works on that, a file server that dies is started again.
/// - Every state that waits has a deadline; past it something harsher happens, and nothing is waited for twice.
public struct Supervision: Sendable {
    public enum Action: Sendable, Equatable {
        case start(Part)
        /// SIGTERM.
        case askToEnd(Part)
        /// SIGKILL.
        case kill(Part)
        /// The file server is ready: remember which connection its mount is.
        case noteMount
        /// The file server is away. Without a kept device the mount is a corpse: detach it; with one, leave it be.
        case clearDeadMount
        /// Abort the connection, so that nobody stays stuck in it, and detach the mount.
        case abortMount
        /// Close what was kept for a part.
        case discardKept(Part)
        case tellReady
        case tellStopping
        case say(Weight, String, Part?)
        /// The keeper's work is done; its exit status.
        case finish(Int32)
    }

    public enum Weight: Sendable, Equatable { case info, notice, warning, error }

    enum PartState: Equatable {
        /// Not started, and starts when it may.
        case waiting
        case starting(until: MonotonicTime)
        case ready(since: MonotonicTime)
        case pausing(until: MonotonicTime)
        /// SIGTERM was sent. `insisted`: a second one too.
        case ending(until: MonotonicTime, insisted: Bool)
        /// SIGKILL was sent. `aborted`: the mount's connection was aborted as well, in case the process hangs in it.
        case killed(until: MonotonicTime, aborted: Bool)
        /// Not running and never started again.
        case gone

        var isRunning: Bool {
            switch self {
            case .starting, .ready, .ending, .killed: true
            case .waiting, .pausing, .gone: false
            }
        }

        var deadline: MonotonicTime? {
            switch self {
            case .starting(let until), .pausing(let until), .ending(let until, _), .killed(let until, _): until
            case .waiting, .ready, .gone: nil
            }
        }
    }

    private enum Phase: Equatable {
        case serving
        case endingEngine
        case endingBackupfs
        case finished
    }

    private struct Record {
        var state: PartState = .waiting
        var wasEverReady = false
        /// Failures in a row, none after a steady time.
        var failures = 0
    }

    private var records = [Record(), Record()]
    private var phase = Phase.serving
    private var exitStatus: Int32 = 0
    private var toldReady = false
    /// Asked to end while the engine was away: it is started once more, for clients' pages are in what it left.
    private var returnsOnce = false
    private let limits: SupervisionLimits
    private let hasFileServer: Bool
    private var actions: [Action] = []

    /// `ownsFileServer` is false where the engine works on a directory that is there already.
    public init(ownsFileServer: Bool, limits: SupervisionLimits = SupervisionLimits()) {
        self.limits = limits
        hasFileServer = ownsFileServer
        if !ownsFileServer { self[.backupfs] = .gone }
    }

    subscript(part: Part) -> PartState {
        get { records[part.rawValue].state }
        set { records[part.rawValue].state = newValue }
    }

    /// The end has begun: what the parts say of their progress now concerns whoever waits for it.
    public var isEnding: Bool { phase != .serving }

    /// When `passed(_:)` is wanted next.
    public var nextDeadline: MonotonicTime? { records.compactMap(\.state.deadline).min() }

    // MARK: What happened

    /// The keeper is set up.
    public mutating func begin(_ now: MonotonicTime) -> [Action] {
        if hasFileServer { start(.backupfs, now) } else { start(.engine, now) }
        return take()
    }

    /// A part said READY=1. A second time (after a reload) means nothing new.
    public mutating func becameReady(_ part: Part, _ now: MonotonicTime) -> [Action] {
        guard case .starting = self[part] else { return take() }
        self[part] = .ready(since: now)
        records[part.rawValue].wasEverReady = true
        switch part {
        case .backupfs:
            actions.append(.noteMount)
            startEngineIfPossible(now)
        case .engine:
            if phase == .endingEngine {
                askEngine(now)
            } else if !toldReady {
                toldReady = true
                actions.append(.tellReady)
            }
        }
        return take()
    }

    /// A part said that it goes on (STATUS): while the engine ends, that is progress.
    public mutating func progressed(_ part: Part, _ now: MonotonicTime) -> [Action] {
        if part == .engine, case .ending(_, insisted: false) = self[part] {
            self[part] = .ending(until: now.advanced(milliseconds: limits.engineSilence), insisted: false)
        }
        return take()
    }

    /// A part asked for more time (EXTEND_TIMEOUT_USEC).
    public mutating func askedForTime(_ part: Part, microseconds: UInt64, _ now: MonotonicTime) -> [Action] {
        let until = now.advanced(milliseconds: min(microseconds / 1000, limits.mostExtension))
        switch self[part] {
        case .starting(let old): self[part] = .starting(until: max(old, until))
        case .ending(let old, insisted: false): self[part] = .ending(until: max(old, until), insisted: false)
        default: break
        }
        return take()
    }

    /// A running part has ended, or one that was to be started could not be.
    public mutating func ended(_ part: Part, _ ending: PartEnding, _ now: MonotonicTime) -> [Action] {
        let before = self[part]
        guard before.isRunning else { return take() }
        let wasAsked =
            switch before {
            case .ending: true
            default: false
            }
        if part == .backupfs { actions.append(.clearDeadMount) }
        if wasAsked || phase == .endingBackupfs || (phase == .endingEngine && part == .engine) {
            self[part] = .gone
            // One that is asked before it has set up its own answer ends by the signal itself.
            if ending == .ended(.exited(0)) || (part == .backupfs && wasAsked && ending == .ended(.signalled(Signal.terminate))) {
                actions.append(.say(.info, "ended", part))
            } else {
                actions.append(.say(.warning, "ended with \(ending)", part))
                // The engine's ending says whether clients' memory is whole. The file server's no longer matters to anybody.
                if part == .engine { exitStatus = 1 }
            }
            goOnEnding(now)
            return take()
        }
        if ending.isRestart, records[part.rawValue].wasEverReady, phase == .serving {
            // Asked for, and no failure; whoever restarts it wants to forget what was before.
            records[part.rawValue].failures = 0
            actions.append(.say(.info, "ended for a restart", part))
            self[part] = .waiting
            if part == .backupfs { start(.backupfs, now) } else { startEngineIfPossible(now) }
        } else if !records[part.rawValue].wasEverReady {
            giveUp(part, "failed to start (\(ending)): see its messages above", now)
        } else if ending.isPermanent {
            giveUp(part, "ended with \(ending), which says that starting it again cannot help", now)
        } else {
            pause(part, ending, before, now)
        }
        return take()
    }

    /// SIGTERM or SIGINT came. The first asks the engine to end in order, each further one to end without delay.
    public mutating func askedToEnd(_ now: MonotonicTime) -> [Action] {
        switch phase {
        case .serving:
            actions += [.tellStopping, .say(.info, "asked to end: the engine recovers what clients hold, then the mount goes", nil)]
            endEngine(now)
        case .endingEngine where returnsOnce && self[.engine] == .waiting:
            actions.append(.say(.warning, "asked again: it is not started for what it left, and clients' pages stay in the store", .engine))
            exitStatus = 1
            self[.engine] = .gone
            goOnEnding(now)
        case .endingEngine:
            if case .starting = self[.engine] {
                exitStatus = 1
                actions.append(.say(.warning, "asked again while it takes over what it left: killed", .engine))
                kill(.engine, now)
                break
            }
            guard case .ending = self[.engine] else { break }
            actions += [.askToEnd(.engine), .say(.warning, "asked again: what is not recovered yet is left", .engine)]
            self[.engine] = .ending(until: now.advanced(milliseconds: limits.lastWarning), insisted: true)
        case .endingBackupfs, .finished: break
        }
        return take()
    }

    /// Time has passed; call it at `nextDeadline` or any time.
    public mutating func passed(_ now: MonotonicTime) -> [Action] {
        for part in Part.allCases {
            guard let deadline = self[part].deadline, deadline <= now else { continue }
            switch self[part] {
            case .starting:
                actions.append(.say(.error, "not ready after \(limits.start) ms: killed", part))
                kill(part, now)
            case .pausing:
                self[part] = .waiting
                if part == .backupfs { start(.backupfs, now) } else { startEngineIfPossible(now) }
            case .ending(_, insisted: false) where part == .engine:
                actions += [
                    .askToEnd(.engine),
                    .say(.error, "no sign of progress for \(limits.engineSilence) ms: told to leave what is not recovered", .engine),
                ]
                self[.engine] = .ending(until: now.advanced(milliseconds: limits.lastWarning), insisted: true)
            case .ending:
                actions.append(.say(.error, "does not end: killed", part))
                // Before the kill: a process that hangs in a call on the mount dies only when the call returns.
                if part == .backupfs { actions.append(.abortMount) }
                kill(part, now)
            case .killed(_, aborted: false):
                actions += [.say(.error, "does not die: the mount's connection is aborted", part), .abortMount]
                self[part] = .killed(until: now.advanced(milliseconds: limits.lastWarning), aborted: true)
            case .killed:
                exitStatus = 1
                actions.append(.say(.error, "does not die even now and is left behind", part))
                self[part] = .gone
                if phase == .serving {
                    actions.append(.tellStopping)
                    endEngine(now)
                } else {
                    goOnEnding(now)
                }
            case .waiting, .ready, .gone: break
            }
        }
        return take()
    }

    // MARK: What follows

    private mutating func take() -> [Action] {
        defer { actions = [] }
        return actions
    }

    private mutating func start(_ part: Part, _ now: MonotonicTime) {
        self[part] = .starting(until: now.advanced(milliseconds: limits.start))
        actions.append(.start(part))
    }

    private mutating func startEngineIfPossible(_ now: MonotonicTime) {
        guard phase == .serving || (phase == .endingEngine && returnsOnce), self[.engine] == .waiting else { return }
        if hasFileServer { guard case .ready = self[.backupfs] else { return } }
        start(.engine, now)
    }

    private mutating func kill(_ part: Part, _ now: MonotonicTime) {
        actions.append(.kill(part))
        self[part] = .killed(until: now.advanced(milliseconds: limits.lastWarning), aborted: false)
    }

    private mutating func pause(_ part: Part, _ ending: PartEnding, _ before: PartState, _ now: MonotonicTime) {
        if case .ready(let since) = before, now >= since.advanced(milliseconds: limits.steady) { records[part.rawValue].failures = 0 }
        records[part.rawValue].failures += 1
        let failures = records[part.rawValue].failures
        guard failures < limits.failures else {
            giveUp(part, "ended with \(ending), \(failures) failures in a row: given up", now)
            return
        }
        let pause = min(limits.lastPause, limits.firstPause << UInt64(min(failures - 1, 20)))
        self[part] = .pausing(until: now.advanced(milliseconds: pause))
        actions.append(
            .say(.warning, "ended with \(ending): started again in \(pause) ms (failure \(failures) of \(limits.failures))", part))
    }

    private mutating func giveUp(_ part: Part, _ why: String, _ now: MonotonicTime) {
        exitStatus = 1
        self[part] = .gone
        actions.append(.say(.error, why, part))
        // The device that is kept would hold callers in the dead mount for ever.
        if part == .backupfs { actions += [.discardKept(.backupfs), .abortMount] }
        switch phase {
        case .serving:
            actions.append(.tellStopping)
            endEngine(now)
        case .endingEngine, .endingBackupfs, .finished: goOnEnding(now)
        }
    }

    private mutating func endEngine(_ now: MonotonicTime) {
        phase = .endingEngine
        switch self[.engine] {
        case .starting, .ready: askEngine(now)
        case .waiting, .pausing:
            // One that never served left nothing; and without a file server there is nowhere to bring pages home from.
            if records[Part.engine.rawValue].wasEverReady, !hasFileServer || self[.backupfs] != .gone {
                returnsOnce = true
                self[.engine] = .waiting
                actions.append(.say(.info, "started once more, to bring home what clients hold", .engine))
                startEngineIfPossible(now)
            } else {
                self[.engine] = .gone
            }
        case .ending, .killed, .gone: break
        }
        goOnEnding(now)
    }

    private mutating func askEngine(_ now: MonotonicTime) {
        actions.append(.askToEnd(.engine))
        self[.engine] = .ending(until: now.advanced(milliseconds: limits.engineSilence), insisted: false)
    }

    private mutating func goOnEnding(_ now: MonotonicTime) {
        if phase == .endingEngine, self[.engine] == .waiting, hasFileServer, self[.backupfs] == .gone { self[.engine] = .gone }
        if phase == .endingEngine, self[.engine] == .gone {
            phase = .endingBackupfs
            actions.append(.discardKept(.engine))
            switch self[.backupfs] {
            case .starting, .ready:
                actions.append(.askToEnd(.backupfs))
                self[.backupfs] = .ending(until: now.advanced(milliseconds: limits.backupfsStop), insisted: false)
            case .waiting, .pausing: self[.backupfs] = .gone
            case .ending, .killed, .gone: break
            }
        }
        if phase == .endingBackupfs, self[.backupfs] == .gone {
            phase = .finished
            if hasFileServer { actions += [.discardKept(.backupfs), .abortMount] }
            actions.append(.finish(exitStatus))
        }
    }
}
