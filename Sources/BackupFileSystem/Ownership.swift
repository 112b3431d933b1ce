import ShrinkLinux

/// Who owns the entries of the tree and what their modes are. The kernel enforces them (`default_permissions`).
struct Ownership: Sendable {
    /// The name of the group whose members may look into every object, where a system has it.
    static let groupName = "shrinkd"

    /// The user this server runs as: the only one, beside root, that writes.
    let daemon: UInt32
    let group: UInt32

    init() {
        daemon = ThisProcess.userID
        group = ThisProcess.groupID(named: Self.groupName) ?? ThisProcess.groupID
    }

    struct Access: Equatable {
        var uid: UInt32
        /// File type and permission bits.
        var mode: UInt32
    }

    /// `owner` is the object's owner; for places outside objects it plays no part.
    func access(to node: Node, owner: UInt32) -> Access {
        // Where both are one, plain modes say the same with less.
        let shared = owner != daemon
        let (uid, bits): (UInt32, UInt32) =
            switch node {
            case .root, .objects: (daemon, 0o755)
            case .stats: (daemon, 0o444)
            case .object: (owner, shared ? 0o570 : 0o700)
            case .pages: (owner, shared ? 0o550 : 0o500)
            case .data, .window: (daemon, 0o600)
            case .content, .info, .page: (owner, shared ? 0o440 : 0o400)
            }
        return Access(uid: uid, mode: node.fileType | bits)
    }

    /// Hints come from the daemon's own user and from root.
    func mayGiveHints(_ uid: UInt32) -> Bool { uid == daemon || uid == 0 }
}
