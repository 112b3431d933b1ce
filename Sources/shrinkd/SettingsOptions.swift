import ArgumentParser
import ServiceSupport
import ShrinkEngine
import ShrinkPressure

/// The engine's settings as flags. Each is a key of the configuration file as well (docs/shrinkd.conf.5).
struct SettingsOptions: ParsableArguments {
    @Option(
        help: .init(
            "Read this file and FILE.d/*.conf.",
            discussion: "Default: /etc/shrinkd/shrinkd.conf for root, $XDG_CONFIG_HOME/shrinkd/shrinkd.conf otherwise.", valueName: "file"))
    var config: String?

    @Option(help: .init("What recover leaves of the machine's available memory.", valueName: "size")) var memoryFloor: String?
    @Option(help: .init("What all pools together may have in memory.", valueName: "size")) var maxResident: String?
    @Option(help: .init("What recover leaves of the daemon's memory cgroup.", valueName: "size")) var cgroupReserve: String?

    @Option(help: .init("Pools that one user may have.", valueName: "number")) var userPools: String?
    @Option(help: .init("Objects that one user may have.", valueName: "number")) var userObjects: String?
    @Option(help: .init("What one user's pools together may have as their sizes.", valueName: "size")) var userBytes: String?
    @Option(help: .init("What one user may have in the backup, as bytes in memory.", valueName: "size")) var userBackup: String?
    @Option(help: .init("How long programs may take to let go of leased memory.", valueName: "ms")) var leaseWait: String?
    @Option(help: .init("How long a new engine waits for clients of the one that died.", valueName: "s")) var sessionGrace: String?
    @Option(help: .init("How long a stop waits while no page comes home.", valueName: "s")) var stopPatience: String?

    @Option(help: .init("Give memory back under pressure: on, dry-run or off.", valueName: "mode")) var pressure: String?
    @Flag(help: "Short for --pressure dry-run: decide and tell, but do nothing.") var dryRun = false
    @Option(help: .init("Available memory below which shrinking begins.", valueName: "size|%")) var lowWatermark: String?
    @Option(help: .init("Available memory above which it ends.", valueName: "size|%")) var highWatermark: String?
    @Option(help: .init("What the pools keep in memory whatever the pressure.", valueName: "size")) var poolsFloor: String?
    @Option(help: .init("Largest part of the pools that one step takes.", valueName: "%")) var step: String?
    @Option(help: .init("Stalled milliseconds in a second of which the kernel tells at once.", valueName: "ms")) var stallTrigger: String?
    @Option(help: .init("Stall at which steps are as large as they get.", valueName: "%")) var stallFull: String?
    @Option(help: .init("I/O stall above which nothing is written to a device.", valueName: "%")) var ioGate: String?
    @Option(help: .init("Bytes a second that pressure may write to the store.", valueName: "size")) var writeRate: String?
    @Option(help: .init("Part of the pools taken in each idle interval while nothing stalls.", valueName: "%")) var idle: String?
    @Option(help: .init("Seconds between two looks for idle memory.", valueName: "s")) var idleInterval: String?
    @Option(help: .init("Where other services can hear of pressure. Default: pressure in the runtime directory.", valueName: "path"))
    var pressureSocket: String?

    func validate() throws {
        if dryRun, let pressure, pressure != "dry-run" { throw ValidationError("--dry-run and --pressure \(pressure) exclude each other") }
        for (name, values) in given {
            for value in values {
                if let complaint = ConfigurationKey.named(name)?.complaint(about: value) {
                    throw ValidationError("'\(value)' is not possible for --\(name); \(complaint)")
                }
            }
        }
    }

    /// What was given, by key.
    var given: [String: [String]] {
        let all: [(String, String?)] = [
            ("memory-floor", memoryFloor), ("max-resident", maxResident), ("cgroup-reserve", cgroupReserve),
            ("user-pools", userPools), ("user-objects", userObjects), ("user-bytes", userBytes), ("user-backup", userBackup),
            ("lease-wait", leaseWait), ("session-grace", sessionGrace), ("stop-patience", stopPatience),
            ("pressure", dryRun ? "dry-run" : pressure), ("low-watermark", lowWatermark), ("high-watermark", highWatermark),
            ("pools-floor", poolsFloor), ("step", step), ("stall-trigger", stallTrigger), ("stall-full", stallFull), ("io-gate", ioGate),
            ("write-rate", writeRate), ("idle", idle), ("idle-interval", idleInterval), ("pressure-socket", pressureSocket),
        ]
        return Dictionary(uniqueKeysWithValues: all.compactMap { name, value in value.map { (name, [$0]) } })
    }

    /// The same as arguments for the engine, which reads the file and the environment by itself.
    var arguments: [String] {
        (config.map { ["--config", $0] } ?? []) + given.sorted { $0.key < $1.key }.flatMap { name, values in ["--" + name] + values }
    }
}

extension PressureSettings {
    /// The defaults, and what is set.
    init(_ configuration: Configuration) {
        self.init()
        func watermark(_ name: String, _ normal: Watermark) -> Watermark {
            configuration.percent(name).map { .percent($0) } ?? configuration.size(name).map { .bytes($0) } ?? normal
        }
        mode = configuration["pressure"].flatMap { Mode(rawValue: $0) } ?? mode
        low = watermark("low-watermark", low)
        high = watermark("high-watermark", high)
        floorBytes = configuration.size("pools-floor") ?? floorBytes
        stepPercent = configuration.percent("step") ?? stepPercent
        stallMilliseconds = configuration.count("stall-trigger") ?? stallMilliseconds
        stallFullPercent = configuration.percent("stall-full") ?? stallFullPercent
        ioGatePercent = configuration.percent("io-gate") ?? ioGatePercent
        writeBudgetPerSecond = configuration.size("write-rate")
        probePercent = configuration.percent("idle") ?? probePercent
        probeSeconds = configuration.count("idle-interval").map { Double($0) } ?? probeSeconds
    }
}

extension UserLimits {
    /// The defaults, and what is set.
    init(_ configuration: Configuration) {
        self.init()
        pools = configuration.count("user-pools") ?? pools
        objects = configuration.count("user-objects") ?? objects
        poolBytes = configuration.size("user-bytes").map { ByteCount($0) }
        backedUpBytes = configuration.size("user-backup").map { ByteCount($0) }
    }
}

extension Engine.Configuration {
    init(_ configuration: Configuration) {
        self.init()
        clientsAreStrangers = true
        memoryFloor = configuration.size("memory-floor").map { ByteCount($0) }
        maximumResident = configuration.size("max-resident").map { ByteCount($0) }
        if let bytes = configuration.size("cgroup-reserve") { cgroupReserve = ByteCount(bytes) }
        userLimits = UserLimits(configuration)
        if let milliseconds = configuration.count("lease-wait") { revocationMilliseconds = UInt64(milliseconds) }
    }
}
