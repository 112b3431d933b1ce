import ServiceSupport
import ShrinkControl
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import Varlink

/// The control socket over a restart: it stays open with the starter, so that who connects meanwhile waits for the next engine and is not refused.
enum KeptListener {
    private static let name = "listener"

    /// The listening socket at `path`: the last engine's, or a new one that is parked.
    static func take(_ path: String, from descriptors: ParkedDescriptors) throws -> OwnedDescriptor {
        if let kept = descriptors.take(name) {
            // Somebody may have emptied the directory: then nobody finds the old socket any more.
            if let status = try? Files.status(of: path), status.kind == .socket { return try kept.duplicate() }
            try descriptors.forget(name)
        }
        // Root's daemon serves every user and tells them apart by their credentials.
        let listener = try VarlinkSocket.bind(path, mode: ThisProcess.userID == 0 ? 0o666 : 0o600)
        if descriptors.isKept {
            try descriptors.reserve(1)
            try descriptors.park([(name, listener.number)])
        }
        return listener
    }

    static func forget(_ descriptors: ParkedDescriptors) { try? descriptors.forget(name) }
}
