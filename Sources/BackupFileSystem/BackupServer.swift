public import Logging
import PageStore
public import ShrinkLinux
import SystemPackage

/// How a store is served.
public struct ServeOptions: Sendable {
    public var mountPoint: String
    /// For `stats`.
    public var version: String
    /// False keeps every byte going through the server.
    public var allowsPassthrough: Bool

    public init(mountPoint: String, version: String, allowsPassthrough: Bool = true) {
        self.mountPoint = mountPoint
        self.version = version
        self.allowsPassthrough = allowsPassthrough
    }
}

/// Whoever started this server, as far as serving needs it: it is told how things stand, and may keep the mount alive over a crash.
public protocol Starter: Sendable {
    /// True if descriptors can be left with it.
    var keepsDescriptors: Bool { get }
    /// Keeps the connection and its state until `forgetMount`.
    func keepMount(device: CInt, state: CInt)
    func forgetMount()
    func ready()
    func stopping()
    /// How often it wants a sign of life; nil: never.
    var beatMilliseconds: Int? { get }
    func beat()
}

extension Starter {
    public var beatMilliseconds: Int? { nil }
    public func beat() {}
}

/// What a predecessor on the same mount left with the starter.
public struct InheritedMount: ~Copyable {
    var device: OwnedDescriptor
    /// Without it the connection can't be served, only ended; unless nobody has served it yet.
    var state: OwnedDescriptor?
    /// A helper mounted it for this server.
    var isFresh: Bool

    public init(device: consuming OwnedDescriptor, state: consuming OwnedDescriptor?, isFresh: Bool = false) {
        self.device = device
        self.state = state
        self.isFresh = isFresh
    }
}

/// How to end after being told to.
public enum StopManner: Sendable {
    /// Unmount: the tree is gone.
    case unmount
    /// Leave the mount with the starter: callers wait for the next server.
    case keepMount
}

/// Why serving ended.
public enum ServeEnding: Sendable, Equatable {
    case stopped
    /// Somebody else unmounted it.
    case unmounted
    /// Somebody aborted the connection (`/sys/fs/fuse/connections`).
    case aborted
    /// Reading requests failed.
    case failed
}

/// Serves a store on a mount point until it is told to stop.
public enum BackupServer {
    /// A request in hand when the server stops has this long to be answered.
    static let stopSeconds: UInt64 = 8

    /// Blocks the calling thread, which must be the first: it waits for SIGTERM, SIGINT and SIGHUP. The store is closed when this returns or throws.
    public static func serve(
        _ served: ServedStore, _ options: ServeOptions, starter: any Starter, inherited: consuming InheritedMount?, stopManner: StopManner,
        logger: Logger
    ) throws(ServeError) -> ServeEnding {
        defer { served.store.close() }
        let place = try MountPlace(options.mountPoint)
        // Before any thread: threads made later block these signals too.
        let signals: SignalDescriptor
        do throws(Errno) { signals = try SignalDescriptor([Signal.terminate, Signal.interrupt, Signal.hangUp]) } catch {
            throw ServeError(.system, "cannot wait for signals: \(error)")
        }
        let connection = try connect(place, starter, inherited, logger)
        let (device, saved) = (connection.device, connection.saved)
        let session: FuseSession
        do throws(Errno) {
            let passthrough = Passthrough(device: device.number, registrations: Registrations(in: saved))
            let tree = BackupTree(served, options, passthrough: passthrough, saved: saved, logger: logger)
            session = try FuseSession(device: device, saved: saved, tree: tree, logger: logger)
            try session.start(resuming: connection.isResumed)
        } catch {
            starter.forgetMount()
            try? place.detach()
            throw ServeError(.system, "the kernel and the server did not come to terms on \(place.path): \(error)")
        }
        var metadata: Logger.Metadata = [
            "mount": "\(place.path)", "layout": "\(served.layout)", "store": "\(served.directories.map(\.path).joined(separator: " "))",
            "passthrough": "\(session.tree.passthrough.verdict)",
        ]
        if let huge = served.store.facts().first(where: { $0.key == "huge_segments" }) { metadata[huge.key] = "\(huge.value)" }
        logger.notice(connection.isResumed ? "Serving again; callers that waited go on." : "Serving.", metadata: metadata)
        if !connection.isResumed, starter.keepsDescriptors { starter.keepMount(device: device.number, state: saved.descriptor.number) }
        starter.ready()
        waitForEnd(session, starter, signals)
        return end(session, place, starter, stopManner, logger)
    }

    private struct Connection {
        var device: SharedDescriptor
        var saved: SessionState
        var isResumed: Bool
    }

    /// The predecessor's connection if it lives, else a new mount.
    private static func connect(
        _ place: MountPlace, _ starter: any Starter, _ inherited: consuming InheritedMount?, _ logger: Logger
    ) throws(ServeError) -> Connection {
        var previous = PreviousMount.none
        if let inherited {
            previous = .lost
            do throws(Errno) {
                let isFresh = inherited.isFresh
                let device = inherited.device
                // Aborted, or unmounted while nobody served it: nothing to take over.
                let isDead = try FuseDevice.isDead(device.number)
                if !isDead, isFresh {
                    let connection = Connection(device: SharedDescriptor(device), saved: try SessionState(), isResumed: false)
                    // Before FUSE_INIT is answered: from then on the connection is of no use without its state.
                    starter.keepMount(device: connection.device.number, state: connection.saved.descriptor.number)
                    return connection
                }
                if !isDead, let state = inherited.state, let saved = try SessionState(inherited: state) {
                    return Connection(device: SharedDescriptor(device), saved: saved, isResumed: true)
                }
                logger.warning(
                    "The mount left by the server before can't be taken over; mounting anew.", metadata: ["aborted": "\(isDead)"])
            } catch {
                logger.warning("What the server before left can't be used; mounting anew.", metadata: ["error": "\(error)"])
            }
            starter.forgetMount()
        }
        if try place.prepare(after: previous) {
            logger.notice("Cleared away the mount of a server that is gone.", metadata: ["mount": "\(place.path)"])
        }
        let device = SharedDescriptor(try place.mount())
        do throws(Errno) { return Connection(device: device, saved: try SessionState(), isResumed: false) } catch {
            try? place.detach()
            throw ServeError(.system, "no memory for the mount's state: \(error)")
        }
    }

    private static func waitForEnd(_ session: FuseSession, _ starter: any Starter, _ signals: borrowing SignalDescriptor) {
        do throws(Errno) {
            let epoll = try Epoll()
            try epoll.add(signals.number, .input, token: 0)
            try epoll.add(session.ended.number, .input, token: 1)
            while true {
                let isOver = try !epoll.wait(timeoutMilliseconds: CInt(clamping: starter.beatMilliseconds ?? -1)).isEmpty
                if isOver { return }
                if session.ending == nil, session.isServing() { starter.beat() }
            }
        } catch {
            // Unable to wait, the server can't be asked to stop either: it stops now.
        }
    }

    private static func end(
        _ session: FuseSession, _ place: MountPlace, _ starter: any Starter, _ manner: StopManner, _ logger: Logger
    ) -> ServeEnding {
        starter.stopping()
        if let ending = session.ending, ending != .stopped {
            starter.forgetMount()
            let stillMounted = (try? place.occupant())??.type == MountPlace.type
            if stillMounted { try? place.detach() }
            _ = session.stop(withinSeconds: stopSeconds)
            if ending != .disconnected { return .failed }
            logger.warning(
                stillMounted ? "The connection was aborted; the dead mount is removed." : "Unmounted by somebody else.",
                metadata: ["mount": "\(place.path)"])
            return stillMounted ? .aborted : .unmounted
        }
        if manner == .unmount {
            starter.forgetMount()
            do throws(Errno) { try place.detach() } catch {
                logger.warning("Unmounting failed.", metadata: ["mount": "\(place.path)", "error": "\(error)"])
            }
        }
        if !session.stop(withinSeconds: stopSeconds) {
            logger.warning(
                "Requests in hand were not answered in time; their callers get an error.", metadata: ["seconds": "\(stopSeconds)"])
        }
        logger.notice("Stopped.", metadata: ["mount": "\(place.path)", "kept": "\(manner == .keepMount)"])
        return .stopped
    }
}
