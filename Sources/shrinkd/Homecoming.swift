import Logging
import ServiceSupport
import ShrinkEngine
import ShrinkLinux
import SystemPackage

/// A stop that is no restart: clients that still have a pool open keep their mapping when this process is gone, so its pages must be in it.
///
/// As far as memory above the floor allows; what does not fit is named, and its pages stay in the store for whoever needs them.
final class Homecoming {
    private let engine: Engine
    private let pools: [PoolID]
    private let notifier: Notifier
    private let log: Logger
    private let patienceSeconds: Int

    /// Below the unit's TimeoutStopSec= (90 s), which counts from the last progress too.
    private static let patienceSeconds = 20

    init(_ engine: Engine, _ pools: [PoolID], _ notifier: Notifier, _ log: Logger, patienceSeconds: Int?) {
        self.patienceSeconds = patienceSeconds ?? Self.patienceSeconds
        self.engine = engine
        self.pools = pools
        self.notifier = notifier
        self.log = log
    }

    enum Ending {
        case done
        /// The backup does not answer; a thread still waits for it.
        case stuck
    }

    /// Returns when everything is home, or what is left cannot come, or a second SIGTERM or SIGINT skips it, or nothing has come for too long.
    func run(_ epoll: Epoll, _ signals: borrowing SignalDescriptor) throws -> Ending {
        guard !pools.isEmpty else { return .done }
        log.notice("Recovering pools that clients hold; a second SIGTERM skips it.", metadata: ["pools": "\(pools.count)"])
        let state = Monitor((isSkipped: false, isDone: false, lastProgress: MonotonicTime.now()))
        let done = try Wakeup()
        let (engine, log, notifier, pools) = (engine, log, notifier, pools)
        let worker = try DedicatedThread("recover-held") {
            var told = MonotonicTime.now()
            for pool in pools {
                let reporter = ProgressReporter(log: log, notifier: notifier, pool: pool, last: told)
                let result = engine.recover(.pool(pool)) { progress in
                    reporter.report(progress)
                    return state.withLock { state in
                        state.lastProgress = .now()
                        return state.isSkipped
                    } ? .stop : .proceed
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
        let patience = UInt64(patienceSeconds) * 1_000_000_000
        while !state.withLock({ $0.isDone }) {
            if MonotonicTime.now().nanoseconds(since: state.withLock({ $0.lastProgress })) > patience {
                log.error(
                    "No page has come home for a while; the stop goes on without the rest. See whether the backup's server answers.",
                    metadata: ["seconds": "\(patienceSeconds)"])
                state.withLock { $0.isSkipped = true }
                worker.detach()
                return .stuck
            }
            for event in try epoll.wait(timeoutMilliseconds: 250) where event.token == 0 {
                while let number = try signals.next() {
                    if number == Signal.terminate || number == Signal.interrupt { state.withLock { $0.isSkipped = true } }
                }
            }
        }
        worker.join()
        try epoll.remove(done.number)
        return .done
    }

    /// Whoever still has the memory must not take what is missing for zeros: registered mappings get SIGBUS there, pins through gates an error.
    func endMemory() {
        let poisoned = engine.endMappings()
        if poisoned > 0 {
            log.warning("Pages that did not come home are SIGBUS in the mappings of clients.", metadata: ["pages": "\(poisoned)"])
        }
        engine.endGates()
    }

    /// Says which content ends with this process: pages still in the backup of pools that clients hold, and everything of pools that nobody holds.
    /// Returns the objects of the first kind: what the store has of them is the only copy of memory that somebody still uses.
    func nameLosses() -> Set<ObjectID> {
        let held = Set(pools)
        var left: Set<ObjectID> = []
        var after: ObjectID?
        while true {
            let objects = engine.objects(in: nil, after: after, limit: 256)
            guard let last = objects.last else { return left }
            after = last.id
            for object in objects {
                let isHeld = held.contains(object.pool)
                let lost = isHeld ? object.pages.backedUp : object.pages.backedUp + object.pages.resident
                if lost == 0 { continue }
                if isHeld { left.insert(object.id) }
                log.warning(
                    isHeld
                        ? "Pages of an object that a client holds did not come home: they stay in the store as an orphan."
                        : "The content of an object ends with the daemon.",
                    metadata: [
                        "object": "\(object.id.rawValue)", "name": "\(object.name)", "pool": "\(object.pool.rawValue)", "pages": "\(lost)",
                    ])
            }
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
