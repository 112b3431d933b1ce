import BackupFileSystem
import Logging
import ServiceSupport
import ShrinkLinux
import SystemPackage

/// systemd, or a keeper that speaks its notify protocol; or nobody.
struct NotifyingStarter: Starter {
    static let stateName = "state"
    /// The device of a mount that a helper made. Stored again under the usual name it keeps this one: the starter knows an open file by its first name.
    static let attachedName = "fuse-attached"

    private let notifier = Notifier()
    let logger: Logger

    init(logger: Logger) { self.logger = logger }

    /// SIGTERM means the end of the mount, unless the starter says that it starts another server at once.
    static var stopManner: StopManner {
        ThisProcess.environment("NOTIFY_SOCKET") != nil && ThisProcess.environment("SHRINKD_KEEP_MOUNT") == "1" ? .keepMount : .unmount
    }

    var keepsDescriptors: Bool { notifier.isListening }

    func keepMount(device: CInt, state: CInt) {
        attempt("keep the mount over a crash") { () throws(Errno) in
            // The state first: a device without it is of no use to a successor.
            try notifier.store([state], name: Self.stateName)
            try notifier.store([device], name: KeptDescriptor.fuseDevice)
        }
    }

    func forgetMount() {
        attempt("let go of the mount") { () throws(Errno) in
            try notifier.removeStored(name: Self.attachedName)
            try notifier.removeStored(name: KeptDescriptor.fuseDevice)
            try notifier.removeStored(name: Self.stateName)
        }
    }

    func ready() {
        // All threads are there.
        try? ProcessMemory.allocateWorkingMemory()
        attempt("report readiness") { () throws(Errno) in try notifier.ready() }
    }

    func stopping() { attempt("report the end") { () throws(Errno) in try notifier.stopping() } }

    var beatMilliseconds: Int? { Watchdog()?.beatMilliseconds }

    func beat() { attempt("hear that the work goes on") { () throws(Errno) in try notifier.watchdog() } }

    private func attempt(_ what: String, _ body: () throws(Errno) -> Void) {
        do throws(Errno) { try body() } catch {
            logger.warning("Can't ask the starter to \(what).", metadata: ["error": "\(error)"])
        }
    }
}
