import ArgumentParser
import ServiceSupport

/// The file server. `backupfs MOUNTPOINT --store DIR` is short for `backupfs serve …`.
@main
struct BackupFS: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "backupfs",
        abstract: "Serve backed-up pages as a mounted file system.",
        discussion: """
            Exit status: 0 stopped or unmounted; 64 wrong usage; 65 the store is damaged, foreign or of a later version; 66 the store \
            directory is missing; 69 the mount point or the store is in use or unavailable; 73 the store can't be written; 74 a system \
            error; 75 the connection was aborted; 78 the configuration has a mistake.
            """,
        version: productVersion,
        subcommands: [Serve.self, Check.self, Attach.self],
        defaultSubcommand: Serve.self)
}
