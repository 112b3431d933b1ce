import ArgumentParser
import ShrinkLinux
import SystemPackage

/// The way out when nothing answers any more. It asks no daemon, and looks at nothing below the mount point.
struct AbortMountCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "abort-mount",
        abstract: "Abort the backup's FUSE connection and detach its mount, without asking any daemon.",
        discussion: """
            Whoever waits in the mount gets an error at once, also one that not even SIGKILL ends. Pages in the store stay there: a file \
            server that still runs, or is started by its unit or its keeper, mounts anew, and the engine goes on with that.
            """)

    @Argument(help: ArgumentHelp("The mount point; where there is only one backupfs, it need not be named.", valueName: "path"))
    var path: String?
    @Flag(name: .long, help: "Print one JSON document on standard output.") var json = false

    func run() throws {
        let mounts: [MountPoint]
        do throws(Errno) { mounts = try Mounts.all().filter { $0.type == "fuse.backupfs" } } catch {
            throw CommandFailure("the list of mounts cannot be read: \(error)", name: "system")
        }
        let places = Set(mounts.map(\.path)).sorted()
        let wanted: String
        if let path {
            // Not resolved: that would look the path up, and wait at the mount. It must be written as the kernel has it.
            guard places.contains(path) else {
                throw CommandFailure(
                    "no backupfs is mounted on \(path); \(places.isEmpty ? "there is none at all" : "there is one on \(places.joined(separator: ", "))")",
                    name: "no_such_mount")
            }
            wanted = path
        } else {
            guard let only = places.first, places.count == 1 else {
                throw CommandFailure(
                    places.isEmpty ? "no backupfs is mounted" : "several are mounted, name one: \(places.joined(separator: ", "))",
                    exitCode: places.isEmpty ? 1 : 64, name: places.isEmpty ? "no_such_mount" : "usage")
            }
            wanted = only
        }
        var connections: [Int] = []
        // Mounts may lie on each other.
        for mount in mounts.reversed() where mount.path == wanted {
            try abort(mount)
            connections.append(mount.device.minor)
        }
        if json { return Console.printJSON(AbortDocument(path: wanted, connections: connections)) }
        Console.say(
            "\(wanted): connection \(connections.map(String.init).joined(separator: ", ")) aborted, mount detached; whoever waited there got an error"
        )
    }

    private func abort(_ mount: MountPoint) throws {
        // The control file belongs to whoever mounted; where fusectl is not mounted, umount2(2) alone does both.
        let control = "/sys/fs/fuse/connections/\(mount.device.minor)/abort"
        var aborted = false
        if let file = try? Files.open(control, .writeOnly) {
            aborted = Array("1".utf8).withUnsafeBytes { Files.write(file.number, $0, at: 0) }.error == nil
        }
        do throws(Errno) { try Mounts.abortAndDetach(mount.path) } catch {
            if error == .notPermitted || error == .permissionDenied {
                let done = aborted ? "the connection is aborted, but detaching" : "aborting"
                throw CommandFailure(
                    "\(done) \(mount.path) takes root; an ordinary user detaches with fusermount3 -u -z \(mount.path)", exitCode: 77,
                    name: "not_permitted")
            }
            throw CommandFailure("\(mount.path) cannot be detached: \(error)", name: "system")
        }
    }
}

struct AbortDocument: Encodable {
    var path: String
    var connections: [Int]
}
