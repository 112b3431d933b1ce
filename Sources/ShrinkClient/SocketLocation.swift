import ShrinkLinux
import ShrinkProtocol

/// Where the daemon's socket is.
public enum SocketLocation {
    /// The first of: `explicit`, `$SHRINKD_SOCKET`, `$XDG_RUNTIME_DIR/shrinkd/io.shrinkd` for users, `/run/shrinkd/io.shrinkd`.
    /// A user without a daemon of its own (no such file) is sent to the system's.
    public static func find(explicit: String?) -> String {
        if let explicit { return explicit }
        if let path = ThisProcess.environment("SHRINKD_SOCKET"), !path.isEmpty { return path }
        let system = "/run/shrinkd/" + ShrinkInterface.name
        guard ThisProcess.userID != 0, let runtime = ThisProcess.environment("XDG_RUNTIME_DIR"), !runtime.isEmpty else { return system }
        let own = runtime + "/shrinkd/" + ShrinkInterface.name
        let isThere = (try? Files.status(of: own)) != nil
        return isThere || (try? Files.status(of: system)) == nil ? own : system
    }
}
