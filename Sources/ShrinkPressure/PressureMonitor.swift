public import ShrinkLinux
public import SystemPackage

/// How things stand, for a status.
public struct PressureStatus: Sendable {
    public var settings: PressureSettings
    public var reading: PressureReading?
    /// The last that was noted.
    public var decision: PressureDecision?
    /// Steps taken, and what they brought together.
    public var steps = 0
    public var freedBytes = 0
    public var storedBytes = 0
    /// Services that listen at the relay's socket.
    public var listeners = 0
    public var features: [PressureFeature] = []
}

/// Looks for pressure, decides, and has the target give memory back: one thread of its own, which also serves the relay.
///
/// Caveat: `reclaim` runs on that thread, so while it works nothing else is looked at. Steps are small for that reason, and `stop` ends one early.
public final class PressureMonitor: Sendable {
    private struct Shared {
        var status: PressureStatus
        var changed = true
        var asked = 0
        var isStopping = false
    }

    public let journal = PressureJournal()
    private let shared: Monitor<Shared>
    private let wakeup: Wakeup
    private let thread: Monitor<DedicatedThread?>

    private static let wakeupToken: UInt64 = 1

    /// Starts at once. `relay`: a listening stream socket. `told` is called on the monitor's thread with every decision that is noted.
    public init(
        _ settings: PressureSettings, _ places: PressurePlaces, target: any PressureTarget, relay: consuming OwnedDescriptor? = nil,
        told: @escaping @Sendable (PressureDecision) -> Void = { _ in }
    ) throws(Errno) {
        let shared = Monitor(Shared(status: PressureStatus(settings: settings)))
        let wakeup = try Wakeup()
        self.shared = shared
        self.wakeup = wakeup
        thread = Monitor(nil)
        let epoll = try Epoll()
        try epoll.add(wakeup.number, .input, token: Self.wakeupToken)
        let listener: SharedDescriptor? =
            switch consume relay {
            case .some(let relay): SharedDescriptor(relay)
            case .none: nil
            }
        let journal = journal
        let first = Monitor(false)
        let started = try DedicatedThread("pressure") {
            let relay: PressureRelay? = listener.flatMap { listener in
                guard let own = try? listener.duplicate() else { return nil }
                return try? PressureRelay(own, epoll: epoll)
            }
            var loop = PressureLoop(
                settings: settings, sensors: PressureSensors(places, stallMilliseconds: settings.stallMilliseconds, epoll: epoll),
                target: target, relay: relay, journal: journal, told: told)
            shared.withLock { $0.status.features = loop.sensors.features }
            first.withLock { $0 = true }
            first.notifyAll()
            while true {
                let (isStopping, change, asked) = shared.withLock { shared -> (Bool, PressureSettings?, Int) in
                    defer {
                        shared.changed = false
                        shared.asked = 0
                    }
                    return (shared.isStopping, shared.changed ? shared.status.settings : nil, shared.asked)
                }
                if isStopping { return }
                if let change { loop.change(to: change) }
                let timeout = loop.turn(asked: asked > 0) { shared.withLock { !$0.isStopping } }
                shared.withLock { shared in
                    shared.status.reading = loop.reading
                    shared.status.decision = journal.entries.last
                    shared.status.steps = loop.steps
                    shared.status.freedBytes = loop.freedBytes
                    shared.status.storedBytes = loop.storedBytes
                    shared.status.listeners = loop.relay?.count ?? 0
                    shared.status.features = loop.sensors.features
                }
                guard let events = try? epoll.wait(timeoutMilliseconds: timeout) else { return }
                for event in events {
                    if event.token == Self.wakeupToken { wakeup.clear() } else { loop.take(event) }
                }
            }
        }
        thread.withLock { $0 = started }
        _ = first.wait { $0 ? true : nil }
    }

    public var status: PressureStatus { shared.withLock { $0.status } }

    /// From the next look on.
    public func change(to settings: PressureSettings) {
        shared.withLock { shared in
            shared.status.settings = settings
            shared.changed = true
        }
        wakeup.signal()
    }

    /// Tells every listener of the relay, whatever the pressure. Returns how many there are.
    public func tellListeners() -> Int {
        let listeners = shared.withLock { shared in
            shared.asked += 1
            return shared.status.listeners
        }
        wakeup.signal()
        return listeners
    }

    /// Notes that somebody asked for memory himself, so that it is seen beside what the policy does.
    public func noteRequest(_ text: String, goalBytes: Int, outcome: PressureOutcome) {
        var decision = PressureDecision(.reclaim, .request, text, goalBytes: goalBytes)
        decision.outcome = outcome
        journal.note(decision)
    }

    /// Ends the thread; a step that runs is ended early. Call it once.
    public func stop() {
        shared.withLock { $0.isStopping = true }
        wakeup.signal()
        thread.withLock { $0 }?.join()
    }
}
