public import ShrinkLinux
public import SystemPackage

/// Why a socket could not be set up at its path.
public struct SocketPathError: Error, Sendable, CustomStringConvertible {
    public enum Code: Sendable { case inUse, notASocket, system }

    public var code: Code
    /// Cause and way out, one line.
    public var message: String
    public var errno: Errno?
    public var description: String { message }
}

/// Sockets in the file system.
public enum VarlinkSocket {
    /// Listens at `path`, whose directory exists. A socket file that nobody answers at is what a killed server left: it is replaced. One that
    /// somebody answers at is `inUse`. Two servers that start at once are kept apart by a lock on `<path>.lock`, which stays.
    /// - Parameter mode: 0o666 where every user may connect and is told apart by credentials, 0o600 for the owner alone.
    public static func bind(_ path: String, mode: UInt32) throws(SocketPathError) -> OwnedDescriptor {
        do throws(Errno) {
            let lock = try Files.open(path + ".lock", [.readWrite, .create, .noFollow], mode: 0o600)
            guard try Files.tryLock(lock.number) else { throw Errno.addressInUse }
            if let status = try existing(path) {
                if status.kind != .socket {
                    throw Errno.fileExists
                }
                if try isAnswered(path) { throw Errno.addressInUse }
                try Files.remove(path)
            }
            // Between bind and chmod the mode is what the umask leaves; that is never more than the owner asked for, unless the umask is 0.
            let listener = try UnixSocket.listen(path, nonBlocking: true)
            try Files.setMode(of: path, mode)
            return listener
        } catch {
            throw explain(error, path)
        }
    }

    private static func existing(_ path: String) throws(Errno) -> FileStatus? {
        do { return try Files.status(of: path) } catch {
            if error == .noSuchFileOrDirectory { return nil }
            throw error
        }
    }

    private static func isAnswered(_ path: String) throws(Errno) -> Bool {
        do {
            _ = try UnixSocket.connect(path)
            return true
        } catch {
            if error == .connectionRefused || error == .noSuchFileOrDirectory { return false }
            throw error
        }
    }

    private static func explain(_ error: Errno, _ path: String) -> SocketPathError {
        switch error {
        case .addressInUse:
            SocketPathError(
                code: .inUse, message: "\(path) is served by another process already; stop that one, or choose another runtime directory",
                errno: error)
        case .fileExists:
            SocketPathError(
                code: .notASocket, message: "\(path) is there and is no socket; move it away, or choose another path", errno: error)
        case .fileNameTooLong:
            SocketPathError(
                code: .system,
                message: "the socket's path \(path) is longer than the 107 bytes the kernel allows; choose a shorter runtime directory",
                errno: error)
        default:
            SocketPathError(
                code: .system, message: "cannot listen at \(path): \(error); check the directory and its permissions", errno: error)
        }
    }
}
