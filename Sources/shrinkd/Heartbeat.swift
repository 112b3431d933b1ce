import ServiceSupport
import ShrinkEngine
import ShrinkLinux
import ShrinkPressure

/// What the starter hears while all is well: a line that says how things stand, and a sign of life.
///
/// The sign of life is sent after the engine was asked something that takes its lock: a daemon that is stuck there sends none.
struct Heartbeat {
    private let notifier: Notifier
    private let engine: Engine
    private let monitor: PressureMonitor
    private var told = ""
    /// Between two beats; -1 where nobody listens. A third of WatchdogSec=, and five seconds at most.
    let milliseconds: CInt
    private let isWatched: Bool

    init(_ notifier: Notifier, _ engine: Engine, _ monitor: PressureMonitor) {
        self.notifier = notifier
        self.engine = engine
        self.monitor = monitor
        let watchdog = Watchdog()
        isWatched = watchdog != nil
        milliseconds = notifier.isListening ? CInt(clamping: min(5000, watchdog?.beatMilliseconds ?? 5000)) : -1
    }

    /// One line for `systemctl status`.
    var text: String {
        let pools = engine.pools()
        let (objects, out) = pools.reduce((0, 0)) { ($0.0 + $1.objectCount, $0.1 + $1.pages.backedUp) }
        let status = monitor.status
        let pressure = status.settings.mode == .off ? "off" : status.decision?.reason.rawValue ?? "calm"
        return
            "\(pools.count) pools, \(objects) objects; \(engine.memoryInUse.rawValue >> 20) MiB in memory, \(out * basePageSize >> 20) MiB out; pressure: \(pressure)"
    }

    mutating func beat() {
        guard notifier.isListening else { return }
        let text = text
        if text != told {
            // Nobody to tell is no reason to stop.
            try? notifier.status(text)
            told = text
        }
        if isWatched { try? notifier.watchdog() }
    }
}
