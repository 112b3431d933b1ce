import ServiceSupport
import ShrinkLinux
import SystemPackage

/// The directory where a keeper and its parts meet: sockets, the mount point, the lock.
///
///     <dir>/lock         who serves here; its flock(2) is held by the keeper and by every part until it has ended
///     <dir>/notify/      sockets on which the parts speak to the keeper
///     <dir>/backup       the mount point
///     <dir>/io.shrinkd   the engine's control socket
struct RuntimeDirectory {
    /// Without links, as the kernel writes it in mountinfo.
    let path: String
    private let lock: SharedDescriptor

    var mountPoint: String { path + "/backup" }
    func notifySocket(of part: Part) -> String { path + "/notify/\(part)" }
    /// Passed to every part, so that the lock outlives a killed keeper as long as a part still works.
    var lockNumber: CInt { lock.number }

    /// Makes the directory and takes its lock.
    init(making wanted: String) throws(KeeperFailure) {
        // Root's daemon serves every user; an ordinary user's only its owner.
        let mode: UInt32 = ThisProcess.userID == 0 ? 0o755 : 0o700
        do {
            try Files.makeDirectories(wanted, mode: mode)
            path = try Files.realPath(wanted)
            let status = try Files.status(of: path)
            guard status.kind == .directory else { throw Errno.notDirectory }
            guard status.userID == ThisProcess.userID, status.mode & 0o022 == 0 else {
                throw KeeperFailure(
                    .unusablePath,
                    "runtime directory \(path) belongs to uid \(status.userID) with mode 0\(String(status.mode, radix: 8)): whoever else may write there "
                        + "could take the sockets' place; use a directory of your own (--runtime-dir) that only you may write")
            }
        } catch let failure as KeeperFailure {
            throw failure
        } catch {
            throw KeeperFailure(.unusablePath, "runtime directory \(wanted): \(error); make it usable or give another (--runtime-dir)")
        }
        // sockaddr_un holds 107 bytes.
        let longest = notifySocketPath(path, .backupfs)
        guard longest.utf8.count <= 107 else {
            throw KeeperFailure(
                .unusablePath,
                "runtime directory \(path) is too long for sockets in it (\(longest.utf8.count) > 107 bytes): give a shorter --runtime-dir")
        }
        do throws(Errno) {
            let file = try Files.open(path + "/lock", [.readWrite, .create, .noFollow], mode: 0o600)
            // Parts of a keeper that was killed end by themselves, a moment later: that is waited for, a living keeper is not.
            let deadline = MonotonicTime.now().advanced(milliseconds: Self.partsEndMilliseconds)
            while try !Files.tryLock(file.number) {
                guard Self.holders(path).allSatisfy({ $0.name != "keeper" }), MonotonicTime.now() < deadline else {
                    throw Errno.resourceBusy
                }
                DedicatedThread.pause(milliseconds: 20)
            }
            lock = SharedDescriptor(file)
            do throws(Errno) { try Files.makeDirectory(path + "/notify", mode: 0o700) } catch { if error != .fileExists { throw error } }
        } catch {
            if error == .resourceBusy { throw Self.occupied(path) }
            throw KeeperFailure(.unusablePath, "runtime directory \(path): \(error); make it writable or give another (--runtime-dir)")
        }
    }

    /// Writes who serves, for the message that a second start prints. Losing it costs only that message.
    func note(_ processes: [(name: String, processID: Int32)]) {
        let text = Array(processes.map { "\($0.name) \($0.processID)\n" }.joined().utf8)
        try? Files.truncate(lock.number, to: 0)
        _ = text.withUnsafeBytes { Files.write(lock.number, $0, at: 0) }
    }

    /// Makes the mount point; nothing may be mounted there now.
    func makeMountPoint() throws(KeeperFailure) {
        do { try Files.makeDirectory(mountPoint, mode: 0o755) } catch {
            if error != .fileExists { throw KeeperFailure(.unusablePath, "mount point \(mountPoint): \(error)") }
        }
    }

    /// Removes what only a running keeper needs. The lock file stays: removing it would let two starts lock two files.
    func tidy() {
        // Of a mount point, rmdir is EBUSY and looks at nothing.
        for name in ["/notify", "/backup"] { try? Files.removeDirectory(path + name) }
        note([])
    }

    private static let partsEndMilliseconds: UInt64 = 5_000

    /// Who is named in the lock file and still there.
    private static func holders(_ path: String) -> [(name: String, processID: Int32)] {
        let text = (try? Files.contents(of: path + "/lock", limit: 4096)).map { String(decoding: $0, as: UTF8.self) } ?? ""
        return text.split(separator: "\n").compactMap { line -> (name: String, processID: Int32)? in
            let fields = line.split(separator: " ")
            guard fields.count == 2, let process = Int32(fields[1]), ThisProcess.processExists(process) else { return nil }
            return (String(fields[0]), process)
        }
    }

    private static func occupied(_ path: String) -> KeeperFailure {
        let named = holders(path)
        if let keeper = named.first(where: { $0.name == "keeper" }) {
            return KeeperFailure(
                .alreadyServed,
                "shrinkd (process \(keeper.processID)) already serves \(path): stop it (kill \(keeper.processID)) or give another --runtime-dir"
            )
        }
        let rest = named.map { "\($0.name) (process \($0.processID))" }.joined(separator: " and ")
        return KeeperFailure(
            .alreadyServed,
            "\(rest.isEmpty ? "a process" : rest) of an earlier shrinkd that was killed still ends in \(path): wait for it, end it with kill, or give another --runtime-dir"
        )
    }
}

private func notifySocketPath(_ directory: String, _ part: Part) -> String { directory + "/notify/\(part)" }
