import Glibc

/// A user of the system.
public struct Account: Sendable, Equatable {
    public var userID: UInt32
    public var groupID: UInt32
}

extension ThisProcess {
    /// The user of that name, or nil if there is none. The corresponding C function is `getpwnam_r`.
    public static func account(named name: String) -> Account? {
        var entry = passwd()
        var found: UnsafeMutablePointer<passwd>?
        var buffer = [CChar](repeating: 0, count: 16384)
        let capacity = buffer.count
        guard getpwnam_r(name, &entry, &buffer, capacity, &found) == 0, found != nil else { return nil }
        return Account(userID: entry.pw_uid, groupID: entry.pw_gid)
    }
}
