public import ShrinkLinux

/// How often the starter wants a sign of life (`$WATCHDOG_USEC`, sd_watchdog_enabled(3)).
public struct Watchdog: Sendable, Equatable {
    /// A third of the time after which the starter gives up on this process.
    public let beatMilliseconds: Int

    /// Nil if nobody watches this process.
    public init?(
        environment: (String) -> String? = { ThisProcess.environment($0) }, processID: Int32 = ThisProcess.processID
    ) {
        guard let microseconds = environment("WATCHDOG_USEC").flatMap({ Int($0) }), microseconds > 0 else { return nil }
        if let meant = environment("WATCHDOG_PID"), meant != "\(processID)" { return nil }
        beatMilliseconds = max(1, microseconds / 3000)
    }
}
