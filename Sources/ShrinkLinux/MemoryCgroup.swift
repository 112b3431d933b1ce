import CShrinkLinux
public import SystemPackage

/// The memory limits this process is under: its memory cgroup and that one's ancestors, version 1 or 2 (cgroups(7)).
public struct MemoryCgroup: Sendable {
    private enum Version { case one, two }

    private let version: Version
    /// The group's directory first, then its ancestors below the mount.
    private let directories: [String]

    /// Nil where no memory controller is mounted in the usual place, or the group lies outside of what is visible.
    public static func ofThisProcess(mount: String = "/sys/fs/cgroup", membership: String = "/proc/self/cgroup") -> MemoryCgroup? {
        guard let text = try? Files.contents(of: membership) else { return nil }
        for line in String(decoding: text, as: UTF8.self).split(separator: "\n") {
            let fields = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
            guard fields.count == 3 else { continue }
            if fields[1].split(separator: ",").contains("memory"),
                let group = MemoryCgroup(.one, root: mount + "/memory", path: String(fields[2]))
            {
                return group
            }
            if fields[0] == "0", fields[1].isEmpty, let group = MemoryCgroup(.two, root: mount, path: String(fields[2])) { return group }
        }
        return nil
    }

    private init?(_ version: Version, root: String, path: String) {
        self.version = version
        var directories: [String] = []
        var parts = path.split(separator: "/").map(String.init)
        let file = version == .one ? "memory.usage_in_bytes" : "memory.current"
        while true {
            let directory = ([root] + parts).reduce("") { $0.isEmpty ? $1 : $0 + "/" + $1 }
            // The root of version 2 has no usage file, and no limit either.
            if (try? Files.status(of: directory + "/" + file)) != nil { directories.append(directory) }
            guard parts.popLast() != nil else { break }
        }
        guard !directories.isEmpty else { return nil }
        self.directories = directories
    }

    /// Bytes the process may still take before a limit is met: the least over the group and its ancestors. What the kernel can drop at once,
    /// inactive file pages, counts as available. `Int.max` if there is no limit.
    public func availableBytes() throws(Errno) -> Int {
        var least = Int.max
        for directory in directories {
            let limit = try number(directory, version == .one ? "memory.limit_in_bytes" : "memory.max")
            // Version 1 says "no limit" with the largest multiple of a page.
            guard let limit, limit < Int.max / 2 else { continue }
            let usage = try number(directory, version == .one ? "memory.usage_in_bytes" : "memory.current") ?? 0
            least = min(least, limit - usage + (try inactiveFileBytes(directory)))
        }
        return least
    }

    private func number(_ directory: String, _ file: String) throws(Errno) -> Int? {
        let text = String(decoding: try Files.contents(of: directory + "/" + file), as: UTF8.self)
        return text.split(separator: "\n").first.flatMap { UInt64($0) }.map { Int(clamping: $0) }
    }

    private func inactiveFileBytes(_ directory: String) throws(Errno) -> Int {
        let key = version == .one ? "total_inactive_file " : "inactive_file "
        for line in String(decoding: try Files.contents(of: directory + "/memory.stat"), as: UTF8.self).split(separator: "\n")
        where line.hasPrefix(key) {
            return Int(line.dropFirst(key.count)) ?? 0
        }
        return 0
    }
}
