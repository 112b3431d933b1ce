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

    @OptionGroup
    var store: StoreFlags

    @Flag(name: .customLong("no-passthrough"), help: .hidden)
    var noPassthrough = false

    @Flag(
        help: ArgumentHelp(
            "Let the daemon set faults on the store, for tests (user.shrinkd.faults). Turns passthrough off."))
    var allowFaults = false

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
        if inherited == nil, let device = descriptors.take(NotifyingStarter.attachedName) {
            let state = descriptors.take(NotifyingStarter.stateName)
            let isFresh = state == nil
            inherited = InheritedMount(device: device, state: state, isFresh: isFresh)
        }
        throw ExitCode(serve(inherited, logger))
    }

    private func serve(_ inherited: consuming InheritedMount?, _ logger: Logger) -> ExitStatus {
        let store: StoreFlags
        let takesFaults: Bool
        do throws(ConfigurationError) { (store, takesFaults) = try self.store.configured(allowFaults: allowFaults) } catch {
            logger.error("\(error)")
            return .configuration
        }
        ProcessMemory.keepOneHeap()
        var served: ServedStore
        do throws(StoreError) { served = try store.open(logger) } catch {
            logger.error("\(error)")
            return ExitStatus(error.code)
        }
        if takesFaults {
            served.allowFaults()
            logger.warning("Faults may be set on the store, and there is no passthrough: --allow-faults was given.")
        }
        do throws(Errno) { try ProcessMemory.lockOnFault() } catch {
            logger.notice(
                "Memory is not locked: under pressure the server itself may be paged out. Raise LimitMEMLOCK.",
                metadata: ["error": "\(error)"])
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
}
