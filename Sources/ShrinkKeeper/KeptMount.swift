import Logging
import ShrinkLinux
import SystemPackage

/// The mount point as the keeper deals with it: by mountinfo, the connection's control file and umount2(2) alone.
///
/// Nothing here opens, stats or lists anything below the mount point: with a server that hangs, such a call would hang the one process
/// that can still set things right.
struct KeptMount {
    let path: String
    /// The FUSE connection's number, from the time when the server said that it is ready.
    private var connection: Int?

    init(_ path: String) { self.path = path }

    /// The topmost mount on the path now.
    private func topmost() -> MountPoint? { (try? Mounts.mount(at: path)) ?? nil }

    /// Remembers whose connection this is. Without it a later mount by somebody else on the same path could be taken for ours.
    mutating func note(_ log: Logger) {
        connection = nil
        guard let mount = topmost(), mount.type.hasPrefix("fuse") else {
            log.warning("The file server is ready, but no FUSE file system is mounted.", metadata: ["path": "\(path)"])
            return
        }
        connection = mount.device.minor
        log.info("Mounted.", metadata: ["path": "\(path)", "connection": "\(mount.device.minor)", "type": "\(mount.type)"])
    }

    /// What an earlier keeper that was killed left mounted here. Anything but FUSE is somebody's own and stays.
    mutating func takeOver(_ log: Logger) throws(KeeperFailure) {
        guard let mount = topmost() else { return }
        guard mount.type.hasPrefix("fuse") else {
            throw KeeperFailure(
                .unusablePath,
                "\(mount.source) (\(mount.type)) is mounted on \(path): unmount it (umount \(path)) or give another --runtime-dir")
        }
        log.warning("A mount left by an earlier start is detached.", metadata: ["path": "\(path)"])
        abort(log)
        guard topmost() == nil else {
            throw KeeperFailure(
                .unusablePath, "the mount left on \(path) cannot be detached: umount -l \(path), or fusermount3 -u -z \(path)")
        }
    }

    /// Aborts the connection, if it is still ours, and detaches every FUSE mount on the path.
    mutating func abort(_ log: Logger) {
        // Stacked mounts: one a turn, bounded.
        for _ in 0..<16 {
            guard let mount = topmost(), mount.type.hasPrefix("fuse") else { break }
            guard connection == nil || connection == mount.device.minor else {
                log.error(
                    "Another file system is mounted over ours: left alone.", metadata: ["path": "\(path)", "source": "\(mount.source)"])
                break
            }
            detach(mount, log)
        }
        connection = nil
    }

    private func detach(_ mount: MountPoint, _ log: Logger) {
        // The control file belongs to whoever mounted, so it works without privilege; where fusectl is not mounted it is missing.
        let control = "/sys/fs/fuse/connections/\(mount.device.minor)/abort"
        if let file = try? Files.open(control, .writeOnly) {
            _ = [UInt8(ascii: "1")].withUnsafeBytes { Files.write(file.number, $0, at: 0) }
        }
        do throws(Errno) {
            try Mounts.abortAndDetach(path)
            log.notice("Connection aborted and mount detached.", metadata: ["path": "\(path)", "connection": "\(mount.device.minor)"])
        } catch {
            guard error == .notPermitted || error == .permissionDenied else {
                log.error("The mount cannot be detached.", metadata: ["path": "\(path)", "error": "\(error)"])
                return
            }
            unmountByHelper(log)
        }
    }

    /// An ordinary user's mounts are made and detached by fusermount3, which is set-user-id root.
    private func unmountByHelper(_ log: Logger) {
        do throws(Errno) {
            let helper = try ChildProcess("/usr/bin/fusermount3", ["-u", "-z", "-q", "--", path], environment: ["PATH=/usr/bin:/bin"])
            if try helper.wait(timeoutMilliseconds: 5_000) == nil {
                helper.signal(Signal.kill)
                _ = try helper.wait()
                log.error("fusermount3 did not end.", metadata: ["path": "\(path)"])
                return
            }
            if topmost() == nil { log.notice("Mount detached.", metadata: ["path": "\(path)"]) }
        } catch {
            log.error("fusermount3 cannot be run.", metadata: ["path": "\(path)", "error": "\(error)"])
        }
    }
}
