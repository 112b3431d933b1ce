import ArgumentParser
import Glibc
import Logging
import ServiceSupport
import ShrinkKeeper
import ShrinkLinux
import SystemPackage

/// The daemon as a person starts it: a keeper of the two programs that do the work.
///
/// Not asynchronous on purpose: the keeper blocks signals before any other thread exists, and its loop is this first thread.
struct KeeperCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "shrinkd",
        abstract: "Keeps pools of memory that programs map, and moves their pages to a mounted backup filesystem and back.",
        discussion: """
            Starts the engine and its file server, starts either again if it dies, and ends both in order on SIGTERM or Ctrl-C: what \
            clients hold is recovered first; a second signal skips that. SIGHUP reads the configuration again. Exit status: 0 ended as \
            asked, 1 failed (the last message says why), 64 usage, 78 the configuration has a mistake.
            """,
        version: productVersion)

    @Option(
        help: .init(
            "Where the control socket and the mount point are made.",
            discussion: "Default: /run/shrinkd for root, $XDG_RUNTIME_DIR/shrinkd otherwise.", valueName: "dir"))
    var runtimeDir: String?

    @Option(
        name: .customLong("store"),
        help: .init(
            "Where pages go, fastest directory first; may be repeated.",
            discussion:
                "Default: store/ in a runtime directory that was given, else /var/lib/shrinkd/store for root, $XDG_STATE_HOME/shrinkd/store otherwise.",
            valueName: "dir"))
    var stores: [String] = []

    @OptionGroup
    var storage: StorageOptions

    @Option(help: .init("Use this mounted directory and start no file server.", valueName: "dir"))
    var backup: String?

    @OptionGroup
    var settings: SettingsOptions

    func validate() throws {
        if runtimeDir == "" { throw ValidationError("--runtime-dir '' is no directory; give one, or leave the flag out") }
        if stores.contains("") { throw ValidationError("--store '' is no directory; give one, or leave the flag out") }
        if let backup {
            if backup.isEmpty { throw ValidationError("--backup '' is no directory; give one, or leave the flag out") }
            if !stores.isEmpty || storage.flags != StorageFlags() {
                throw ValidationError(
                    "--backup is a directory that is there, --store and what belongs to it are for a file server of our own")
            }
        }
    }

    private var given: [String: [String]] {
        var given = settings.given.merging(storage.given) { $1 }
        given["runtime-dir"] = runtimeDir.map { [$0] }
        given["backup"] = backup.map { [$0] }
        if !stores.isEmpty { given["store"] = stores }
        return given
    }

    func run() throws {
        ServiceLogHandler.bootstrap()
        let log = Logger(label: "shrinkd")
        do {
            let configuration = try Configuration(flags: given, file: settings.config)
            var plan = try KeeperPlan(
                runtimeDirectory: configuration["runtime-dir"], stores: configuration.values("store"), storage: StorageFlags(configuration),
                backup: configuration["backup"], defaults: DefaultDirectories(), programs: ownDirectory())
            plan.engine.arguments += settings.arguments
            // Small, and the one who starts the others again when memory is short.
            do throws(Errno) { try ProcessMemory.lockOnFault() } catch {
                log.notice(
                    "Memory is not locked: under pressure the keeper itself may be paged out. Raise LimitMEMLOCK.",
                    metadata: ["error": "\(error)"])
            }
            Glibc.exit(try Keeper(plan, log: log).run())
        } catch let error as ConfigurationError {
            log.error("\(error)")
            Glibc.exit(78)
        } catch {
            log.error("\(error)")
            Glibc.exit(1)
        }
    }

    /// The other programs lie beside this one, wherever that is.
    private func ownDirectory() -> String {
        let path = (try? ThisProcess.executablePath()) ?? ""
        return path.split(separator: "/").dropLast().reduce("") { $0 + "/" + $1 }
    }
}
