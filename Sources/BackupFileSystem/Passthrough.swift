import ShrinkLinux
import SystemPackage

/// Lets the kernel read and write the files behind `data` without asking the server (Linux 6.9, FUSE_PASSTHROUGH).
///
/// All opens of an inode must be of one kind, and all passthrough ones must name the same registration: a second one is EIO at open(2) until the
/// first is gone. So each object is registered once, with its first open, and the registrations are kept where a restarted server finds them.
final class Passthrough: Sendable {
    enum Verdict: Equatable, CustomStringConvertible {
        case yes
        /// Why `data` goes through the server.
        case no(String)

        var description: String {
            switch self {
            case .yes: "yes"
            case .no(let reason): "no: \(reason)"
            }
        }
    }

    private let device: CInt
    private let state: Monitor<State>

    private struct State: ~Copyable {
        var verdict: Verdict
        var canPass = false
        var registrations: Registrations
    }

    /// `device` outlives this.
    init(device: CInt, registrations: consuming sending Registrations) {
        self.device = device
        state = Monitor(State(verdict: .no("the mount is not ready yet"), registrations: registrations))
    }

    var verdict: Verdict { state.withLock { $0.verdict } }
    var openFiles: Int { state.withLock { $0.registrations.openCount } }

    /// Decided before the first open, once for the life of the mount.
    func decide(_ verdict: Verdict) { state.withLock { $0.verdict = verdict } }

    /// Whether the kernel takes files like this one. Call it after FUSE_INIT was answered.
    func probe(_ file: CInt) -> Verdict {
        do throws(Errno) {
            try FuseDevice.releaseBacking(try FuseDevice.registerBacking(file, at: device), at: device)
            return .yes
        } catch {
            return switch error {
            case .notPermitted: .no("the kernel lets only root (CAP_SYS_ADMIN) register files for it")
            case .tooManySymbolicLinkLevels: .no("the store is on a stacked file system such as overlayfs")
            default: .no("the kernel refused the store's files: \(error)")
            }
        }
    }

    /// The id to open `node` with, or nil for an ordinary open.
    func open(_ node: Node, _ file: SharedDescriptor?) throws(Errno) -> UInt32? {
        guard let file else { return nil }
        return try state.withLock { (state) throws(Errno) -> UInt32? in
            guard state.verdict == .yes else { return nil }
            if let known = state.registrations.addOpen(node.number) { return known }
            // Never an ordinary open instead: a later passthrough open of the same inode would fail.
            guard state.registrations.hasRoom else { throw .tooManyOpenFilesInSystem }
            let id = try FuseDevice.registerBacking(file.number, at: device)
            state.registrations.insert(node.number, backing: id)
            return id
        }
    }

    /// Whether the kernel passes files through for this connection at all, whatever the store's are.
    var canPass: Bool { state.withLock { $0.canPass } }

    func decide(canPass: Bool) { state.withLock { $0.canPass = canPass } }

    /// The id to open `node` with for the one open file that it may have; EBUSY if it has one, also of a server before this one.
    func openAlone(_ node: Node, _ file: SharedDescriptor) throws(Errno) -> UInt32 {
        try state.withLock { (state) throws(Errno) in
            guard !state.registrations.isOpen(node.number) else { throw .resourceBusy }
            guard state.registrations.hasRoom else { throw .tooManyOpenFilesInSystem }
            let id = try FuseDevice.registerBacking(file.number, at: device)
            state.registrations.insert(node.number, backing: id)
            return id
        }
    }

    func close(_ node: Node) {
        state.withLock { state in
            guard let id = state.registrations.removeOpen(node.number) else { return }
            // The kernel dropped its own reference with the last open; failing here would leak one id until unmount and harm nothing else.
            try? FuseDevice.releaseBacking(id, at: device)
        }
    }
}
