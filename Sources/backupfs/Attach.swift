import ArgumentParser
import BackupFileSystem
import Logging
import ServiceSupport
import ShrinkLinux
import SystemPackage

/// `backupfs attach`: the one thing that only root may do for a server that runs as another user.
struct Attach: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Mount for a server that may not mount, and leave the connection with the starter ($NOTIFY_SOCKET).",
        discussion: "Run as root before the server is started; backupfs.service does (ExecStartPre=).",
        version: productVersion)

    @Argument(help: "An empty directory to mount on.")
    var mountPoint: String

    @Option(help: ArgumentHelp("Whose the connection is to be.", valueName: "NAME"))
    var user: String

    func run() throws {
        ServiceLogHandler.bootstrap()
        let logger = Logger(label: "backupfs")
        let notifier = Notifier()
        guard notifier.isListening else {
            logger.error("Nobody keeps the connection: NOTIFY_SOCKET is not set. This command is for a unit's ExecStartPre=.")
            throw ExitCode(.usage)
        }
        guard let account = ThisProcess.account(named: user) else {
            logger.error("There is no user \(user); make it with systemd-sysusers, or give another.")
            throw ExitCode(.usage)
        }
        do {
            let device = try AttachedMount.make(on: mountPoint, owner: account.userID, group: account.groupID)
            try notifier.store([device.number], name: NotifyingStarter.attachedName)
            guard try notifier.barrier() else { throw Errno.timedOut }
        } catch let error as ServeError {
            logger.error("\(error)")
            throw ExitCode(ExitStatus(error.code))
        } catch {
            logger.error("The starter cannot be given the connection: \(error)")
            throw ExitCode(.system)
        }
    }
}
