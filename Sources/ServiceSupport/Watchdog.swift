import ShrinkLinux
public import SystemPackage

/// Tells the starter at intervals that the work goes on (WatchdogSec= in systemd.service(5)), and nothing as soon as it does not: then the starter ends
/// this process with SIGABRT and starts another.
public enum Watchdog {
    /// Starts telling if the starter asked for it (`$WATCHDOG_USEC`); otherwise does nothing. `isAlive` is asked on a thread of the watchdog's own and
    /// may take up to a quarter of the starter's patience.
    public static func start(
        _ notifier: Notifier = Notifier(), isAlive: @escaping @Sendable (_ patienceMilliseconds: UInt64) -> Bool
    ) throws(Errno) {
        guard notifier.isListening, let text = ThisProcess.environment("WATCHDOG_USEC"), let patience = UInt64(text), patience >= 100_000
        else { return }
        // Meant for another process of the unit.
        if let process = ThisProcess.environment("WATCHDOG_PID"), process != String(ThisProcess.processID) { return }
        let quarter = patience / 4_000
        try DedicatedThread("watchdog", stackSize: 256 << 10) {
            let never = Monitor(())
            while true {
                if isAlive(quarter) { try? notifier.watchdog() }
                _ = never.wait(deadline: .now().advanced(milliseconds: quarter)) { _ in Void?.none }
            }
        }.detach()
    }
}
