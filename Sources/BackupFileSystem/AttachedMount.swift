public import ShrinkLinux

/// A mount made by one process for another that may not mount: the helper of a unit, for its sandboxed server.
public enum AttachedMount {
    /// Mounts on an empty directory as root and returns the connection; nobody has answered FUSE_INIT on it yet. The mount of a server that is gone is
    /// cleared away first, one that lives is an error.
    public static func make(on path: String, owner: UInt32, group: UInt32) throws(ServeError) -> OwnedDescriptor {
        let place = try MountPlace(path)
        _ = try place.prepare(after: .none)
        return try place.mountAsRoot(owner: owner, group: group)
    }
}
