import ArgumentParser
import BackupFileSystem
import Logging
import PageStore
import ServiceSupport
import ShrinkLinux
import SystemPackage

struct Serve: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Mount a store and serve it in the foreground until SIGTERM.",
        version: productVersion)

    @Argument(help: "An empty directory to mount on.")
    var mountPoint: String

    @Option(name: .long, help: ArgumentHelp("The directory that keeps the pages.", valueName: "DIR"))
    var store: String

    @Flag(name: .customLong("no-passthrough"), help: .hidden)
    var noPassthrough = false

    func run() throws {
        ServiceLogHandler.bootstrap()
        ThisProcess.ignoreBrokenPipes()
        // Where that is refused, fewer object files are kept open at once.
        try? ThisProcess.raiseDescriptorLimit()
        let logger = Logger(label: "backupfs")
        var descriptors = InheritedDescriptors()
        do {
            try Lifeline.watch(&descriptors)
        } catch {
            logger.error("Can't watch whether the starter lives.", metadata: ["error": "\(error)"])
            throw ExitCode(.system)
        }
        var inherited: InheritedMount?
        if let device = descriptors.take(KeptDescriptor.fuseDevice) {
            inherited = InheritedMount(device: device, state: descriptors.take(NotifyingStarter.stateName))
        }
        throw ExitCode(serve(inherited, logger))
    }

    private func serve(_ inherited: consuming InheritedMount?, _ logger: Logger) -> ExitStatus {
        let served: ServedStore
        do throws(StoreError) { served = try openStore() } catch {
            logger.error("\(error)")
            return ExitStatus(error.code)
        }
        let options = ServeOptions(mountPoint: mountPoint, version: productVersion, allowsPassthrough: !noPassthrough)
        do throws(ServeError) {
            let ending = try BackupServer.serve(
                served, options, starter: NotifyingStarter(logger: logger), inherited: inherited, stopManner: NotifyingStarter.stopManner,
                logger: logger)
            return ExitStatus(ending)
        } catch {
            logger.error("\(error)")
            return ExitStatus(error.code)
        }
    }

    private func openStore() throws(StoreError) -> ServedStore {
        // Half for objects, the rest for what else a server opens.
        let openFiles = min(4096, max(64, ((try? Int(clamping: ThisProcess.descriptorLimit().soft)) ?? 256) / 2))
        let raw = try RawStore(store, openFiles: openFiles)
        do throws(Errno) { return try ServedStore(raw, layout: RawStore.layout, directories: [store]) } catch {
            throw StoreError(.system, "cannot look at \(store)", errno: error)
        }
    }
}
