import ServiceSupport
import ShrinkEngine
import ShrinkLinux
import ShrinkPressure

/// The line that the starter hears when things stand otherwise than before. (Signs of life are the watchdog's.)
struct Heartbeat {
    private let notifier: Notifier
    private let engine: Engine
    private let monitor: PressureMonitor
    private var told = ""
    /// Between two looks; -1 where nobody listens.
    let milliseconds: CInt

    init(_ notifier: Notifier, _ engine: Engine, _ monitor: PressureMonitor) {
        self.notifier = notifier
        self.engine = engine
        self.monitor = monitor
        milliseconds = notifier.isListening ? 5000 : -1
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
    }
}
