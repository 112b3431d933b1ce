import Logging
import ServiceSupport
import ShrinkEngine
import ShrinkLinux
import ShrinkPressure
import SystemPackage
import Varlink

/// The monitor of this daemon, its relay's socket, and reading the configuration again.
struct PressureWiring {
    let monitor: PressureMonitor
    /// The relay's file, if it was made here; it goes with an orderly end.
    let ownSocket: String?
    private let log: Logger

    /// `passed`: the relay's socket if the starter has made it.
    init(_ engine: Engine, _ configuration: Configuration, runtimeDirectory: String, passed: consuming OwnedDescriptor?, log: Logger) throws
    {
        self.log = log
        let path = configuration["pressure-socket"] ?? runtimeDirectory + "/pressure"
        let relay: OwnedDescriptor
        if let passed {
            relay = passed
            ownSocket = nil
        } else {
            // Who may be told of pressure is everybody: it is one byte that says what /proc/pressure says to all.
            relay = try VarlinkSocket.bind(path, mode: ThisProcess.userID == 0 ? 0o666 : 0o600)
            ownSocket = path
        }
        var places = PressurePlaces.ofThisProcess()
        if case .success(.watch(let watched, _)) = places.contract, watched == path {
            places.contract = .success(.unset)
            log.warning("MEMORY_PRESSURE_WATCH is this daemon's own socket; it is not watched.", metadata: ["path": "\(path)"])
        }
        let pressureLog = PressureLog(log: log)
        monitor = try PressureMonitor(
            PressureSettings(configuration), places, target: EnginePressureTarget(engine: engine), relay: relay, told: pressureLog.note)
        pressureLog.note(monitor.status.features)
    }

    func stop() {
        monitor.stop()
        if let ownSocket { try? Files.remove(ownSocket) }
    }

    /// Reads the configuration again, applies what can change while the daemon runs, and says what can't. Returns what counts now.
    func reload(_ old: Configuration, _ options: ConfigurationSource) -> Configuration {
        do throws(ConfigurationError) {
            let new = try options.read()
            let changed = new.differences(from: old)
            for key in changed {
                let (before, after) = (old.values(key.name).joined(separator: " "), new.values(key.name).joined(separator: " "))
                let metadata: Logger.Metadata = [
                    "key": "\(key.name)", "was": "\(before.isEmpty ? "default" : before)", "is": "\(after.isEmpty ? "default" : after)",
                    "set_by": "\(new.origin(key.name) ?? "nobody")",
                ]
                if key.isLive {
                    log.notice("Configuration: changed, and counts from now on.", metadata: metadata)
                } else {
                    log.warning("Configuration: changed, and counts when \(key.holder.rawValue) is started again.", metadata: metadata)
                }
            }
            monitor.change(to: PressureSettings(new))
            let waiting = changed.count { !$0.isLive }
            log.notice(
                "Configuration read again.",
                metadata: [
                    "files": "\(new.files.joined(separator: " "))", "changed": "\(changed.count - waiting)",
                    "waiting_for_restart": "\(waiting)",
                ])
            return new
        } catch {
            log.error("The configuration is not taken over; what was set before stays: \(error)")
            return old
        }
    }
}

/// Where an engine's configuration comes from, to be read more than once.
struct ConfigurationSource {
    var flags: [String: [String]]
    var file: String?

    func read() throws(ConfigurationError) -> Configuration { try Configuration(flags: flags, file: file) }
}
