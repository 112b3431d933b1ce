import ArgumentParser
import Glibc
import Logging
import ServiceSupport
import ShrinkControl
import ShrinkEngine
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import Varlink

/// The part of the daemon that keeps pools and answers the control socket. The keeper and the unit start it; people seldom do.
struct EngineCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "engine",
        abstract: "Keeps the pools and answers the control socket; started by shrinkd itself or by its unit.",
        usage: "shrinkd engine --runtime-dir <dir> --backup <dir>",
        discussion: """
            SIGTERM: pools that a connection still holds are recovered first, as far as memory allows; a second one skips that. \
            SIGUSR1: everything is left to the next engine, which whoever started this one starts at once. \
            SIGHUP: the configuration is read again. Exit status: 0 ended as asked, 1 failed (the last message says why), 64 usage, \
            75 ended for a restart, 78 the configuration has a mistake.
            """,
        version: productVersion)

    @Option(help: .init("Where the control socket is made.", valueName: "dir")) var runtimeDir: String
    @Option(help: .init("The backup: a mounted backupfs, or a directory.", valueName: "dir")) var backup: String

    @OptionGroup var settings: SettingsOptions

    func run() throws {
        ServiceLogHandler.bootstrap()
        let log = Logger(label: "engine")
        do {
            let source = ConfigurationSource(flags: settings.given, file: settings.config)
            switch try EngineDaemon(runtimeDirectory: runtimeDir, backup: backup, configuration: source, log: log).run() {
            case .stopped: Glibc.exit(0)
            case .parked: Glibc.exit(RestartRequest.exitStatus)
            }
        } catch let error as ConfigurationError {
            log.error("\(error)")
            Glibc.exit(78)
        } catch {
            log.error("\(error)")
            Glibc.exit(1)
        }
    }
}
