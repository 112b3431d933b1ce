import ArgumentParser
import Glibc
import Logging
import ServiceSupport
import ShrinkKeeper
import ShrinkLinux

/// The daemon as a person starts it: a keeper of the two programs that do the work.
///
/// Not asynchronous on purpose: the keeper blocks signals before any other thread exists, and its loop is this first thread.
struct KeeperCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "shrinkd",
        abstract: "Keeps pools of memory that programs map, and moves their pages to a mounted backup filesystem and back.",
        discussion: """
            Starts the engine and its file server, starts either again if it dies, and ends both in order on SIGTERM or Ctrl-C: what \
            clients hold is recovered first; a second signal skips that. Exit status: 0 ended as asked, 1 failed (the last message says \
            why), 64 usage.
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

    func run() throws {
        ServiceLogHandler.bootstrap()
        let log = Logger(label: "shrinkd")
        do throws(KeeperFailure) {
            let plan = try KeeperPlan(
                runtimeDirectory: runtimeDir, stores: stores, storage: storage.flags, backup: backup, defaults: DefaultDirectories(),
                programs: ownDirectory())
            Glibc.exit(try Keeper(plan, log: log).run())
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
