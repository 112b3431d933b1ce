import ShrinkLinux
import SystemPackage

/// What is known of a mount made before by a server of the same starter.
enum PreviousMount {
    case none
    /// Its connection was handed over, and can't be served any more.
    case lost
}

/// Where a backup file system is mounted: looked at before, mounted, and taken away again.
struct MountPlace: Sendable {
    static let type = "fuse.backupfs"

    /// Absolute and without links.
    let path: String

    /// Finds the place without touching what may be mounted there: a mount whose server is gone or stuck would hold us up.
    init(_ given: String) throws(ServeError) {
        var path = Substring(given)
        while path.count > 1, path.hasSuffix("/") { path = path.dropLast() }
        let (parent, name) =
            path.lastIndex(of: "/").map { (String(path[..<$0]) + "/", String(path[path.index(after: $0)...])) } ?? (".", String(path))
        guard !name.isEmpty, name != ".", name != ".." else {
            throw ServeError(.mountPoint, "the mount point '\(given)' must name a directory below another, not '/', '.' or '..'")
        }
        do throws(Errno) {
            let directory = try Files.resolved(parent)
            let path = directory == "/" ? "/" + name : directory + "/" + name
            self.path = try Files.isSymbolicLink(path) ? Files.resolved(path) : path
        } catch {
            throw Self.unusable(given, error)
        }
    }

    private static func unusable(_ path: String, _ error: Errno) -> ServeError {
        switch error {
        case .noSuchFileOrDirectory: ServeError(.mountPoint, "the mount point \(path) does not exist; make it with: mkdir -p \(path)")
        case .notDirectory: ServeError(.mountPoint, "the mount point \(path) is not a directory; give a directory")
        case .permissionDenied: ServeError(.mountPoint, "no permission to reach the mount point \(path); give a directory of your own")
        default: ServeError(.mountPoint, "the mount point \(path) can't be used: \(error)")
        }
    }

    /// The mount that is there now, if any.
    func occupant() throws(ServeError) -> MountPoint? {
        do throws(Errno) { return try Mounts.mount(at: path) } catch {
            throw ServeError(.system, "cannot read the list of mounts: \(error)")
        }
    }

    /// Makes sure that a mount here hides nothing and nobody. Returns true if a mount of ours that nobody serves was cleared away.
    func prepare(after previous: PreviousMount) throws(ServeError) -> Bool {
        var cleared = false
        if let occupant = try occupant() {
            guard occupant.type == Self.type else {
                throw ServeError(
                    .mountPoint, "\(path) is in use: a file system of type \(occupant.type) is mounted there; give another directory")
            }
            switch (Self.health(of: path), previous) {
            case (.alive, _):
                throw ServeError(.mountPoint, "\(path) is in use by another backupfs; stop that one or give another directory")
            case (.silent, .none):
                throw ServeError(
                    .mountPoint,
                    "a backupfs is mounted on \(path) and does not answer; if its server is gone for good, remove it with: umount -l \(path)"
                )
            case (.silent, .lost), (.dead, _):
                // A silent one was handed to us, so nobody else serves it: its callers get an error now instead of waiting for ever.
                do throws(Errno) { try abortAndDetach() } catch {
                    throw ServeError(.mountPoint, "a dead backupfs is mounted on \(path) (\(error)); remove it with: umount -l \(path)")
                }
                cleared = true
            }
            guard try self.occupant() == nil else {
                throw ServeError(.mountPoint, "several file systems are mounted on \(path); remove them with: umount -l \(path)")
            }
        }
        var isEmpty = true
        do throws(Errno) {
            let directory = try Files.open(path, [.readOnly, .directory, .noFollow])
            try Files.forEachName(in: directory.number) { _ in isEmpty = false }
        } catch {
            throw Self.unusable(path, error)
        }
        guard isEmpty else {
            throw ServeError(
                .mountPoint, "the mount point \(path) is not empty, and mounting would hide its files; give an empty directory")
        }
        return cleared
    }

    private enum Health { case alive, dead, silent }

    /// Asks a mounted server for statfs(2), from a thread of its own: one that is stuck leaves only that thread waiting.
    private static func health(of path: String) -> Health {
        let answer = Monitor<Health?>(nil)
        _ = try? DedicatedThread("mount-health", stackSize: 256 << 10) {
            var health = Health.alive
            do throws(Errno) {
                let root = try Files.open(path, [.path, .directory])
                _ = try FileSystem(of: root.number)
            } catch {
                if error == .socketNotConnected || error == .connectionAbort { health = .dead }
            }
            answer.withLock { $0 = health }
            answer.notifyAll()
        }
        return answer.wait(deadline: MonotonicTime.now().advanced(milliseconds: 2000)) { $0 } ?? .silent
    }

    // MARK: Mounting

    /// Mounts and returns the connection. Root mounts for everybody, with the kernel checking modes; an ordinary user through fusermount3, for itself.
    func mount() throws(ServeError) -> OwnedDescriptor {
        try ThisProcess.userID == 0 ? mountAsRoot() : mountAsUser()
    }

    /// `owner`: whose connection it is, if a server of another user is to have it.
    func mountAsRoot(owner: UInt32 = 0, group: UInt32 = 0) throws(ServeError) -> OwnedDescriptor {
        do throws(Errno) {
            let device = try FuseDevice.open()
            try Mounts.mount(
                "backupfs", on: path, type: Self.type, [.noSetUserID, .noDevices],
                options: "fd=\(device.number),rootmode=40000,user_id=\(owner),group_id=\(group),allow_other,default_permissions")
            return device
        } catch {
            throw Self.cannotMount(path, error)
        }
    }

    private static func cannotMount(_ path: String, _ error: Errno) -> ServeError {
        switch error {
        case .noSuchFileOrDirectory, .operationNotSupportedByDevice, .noSuchAddressOrDevice:
            ServeError(.mountPoint, "this kernel has no FUSE (/dev/fuse: \(error)); load it with: modprobe fuse")
        case .notPermitted, .permissionDenied:
            ServeError(
                .mountPoint, "not allowed to mount on \(path) (\(error)); run with CAP_SYS_ADMIN, or as an ordinary user with fusermount3")
        default: ServeError(.mountPoint, "cannot mount on \(path): \(error)")
        }
    }

    private static let fusermount = "/usr/bin/fusermount3"

    /// fusermount3 (setuid root) mounts and sends the device over a socket whose number is in `_FUSE_COMMFD`.
    private func mountAsUser() throws(ServeError) -> OwnedDescriptor {
        let options = "rw,nosuid,nodev,fsname=backupfs,subtype=backupfs,default_permissions"
        let ending: ChildProcess.Ending
        do throws(Errno) {
            let ends = try UnixSocket.pair()
            let child = try ChildProcess(
                Self.fusermount, ["-o", options, "--", path], environment: ["_FUSE_COMMFD=3", "PATH=/usr/bin:/bin"],
                descriptors: [ends.first.number])
            ending = try child.wait()
            var byte: [UInt8] = [0]
            let received = try byte.withMutableBytes { (bytes) throws(Errno) in
                try UnixSocket.receive(ends.second.number, into: bytes, dontWait: true)
            }
            if let number = received?.descriptors.first { return OwnedDescriptor(owning: number) }
        } catch {
            let hint = error == .noSuchFileOrDirectory ? "; install it with: apt install fuse3" : ""
            throw ServeError(.mountPoint, "\(Self.fusermount), which mounts for ordinary users, can't be run: \(error)\(hint)")
        }
        throw ServeError(.mountPoint, "fusermount3 could not mount on \(path) (\(ending)); its own message is above")
    }

    private func abortAndDetach() throws(Errno) {
        if ThisProcess.userID == 0 { return try Mounts.abortAndDetach(path) }
        try detach()
    }

    /// Takes the mount away from its place now; it ends when its last user leaves. Never waits for a server.
    func detach() throws(Errno) {
        if ThisProcess.userID == 0 { return try Mounts.detach(path) }
        let child = try ChildProcess(Self.fusermount, ["-u", "-z", "-q", "--", path], environment: ["PATH=/usr/bin:/bin"])
        guard try child.wait() == .exited(0) else { throw .notPermitted }
    }
}
