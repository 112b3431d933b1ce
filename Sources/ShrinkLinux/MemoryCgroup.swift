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

    /// One group's limit, and what is left of it; bytes.
    public struct Limit: Sendable, Equatable {
        public var directory: String
        public var limitBytes: Int
        /// What the kernel can drop at once, inactive file pages, counts as available. Negative where use is above the limit (memory.high).
        public var availableBytes: Int
    }

    /// The file with this group's own pressure stall figures (version 2 alone has them).
    public var pressurePath: String? {
        guard version == .two, let own = directories.first else { return nil }
        let path = own + "/memory.pressure"
        return (try? Files.status(of: path)) == nil ? nil : path
    }

    /// The group or ancestor that has least left; nil if none of them has a limit.
    public func tightest() throws(Errno) -> Limit? {
        var least: Limit?
        for directory in directories {
            guard let limit = try limitBytes(directory) else { continue }
            let usage = try number(directory, version == .one ? "memory.usage_in_bytes" : "memory.current") ?? 0
            let available = limit - usage + (try inactiveFileBytes(directory))
            if least.map({ available < $0.availableBytes }) ?? true {
                least = Limit(directory: directory, limitBytes: limit, availableBytes: available)
            }
        }
        return least
    }

    /// Reads once what `tightest` may want, which a limit that is set later makes it read for the first time: with no memory left to open a file in.
    public func prepare() {
        for directory in directories {
            _ = try? limitBytes(directory)
            _ = try? number(directory, version == .one ? "memory.usage_in_bytes" : "memory.current")
            _ = try? inactiveFileBytes(directory)
        }
    }

    /// Bytes the process may still take before a limit is met: the least over the group and its ancestors. `Int.max` if there is no limit.
    public func availableBytes() throws(Errno) -> Int { try tightest()?.availableBytes ?? .max }

    /// Version 2 has two: above memory.high the group is throttled, above memory.max it is killed. The lower one counts.
    private func limitBytes(_ directory: String) throws(Errno) -> Int? {
        let files = version == .one ? ["memory.limit_in_bytes"] : ["memory.max", "memory.high"]
        var least: Int?
        for file in files {
            // Version 1 says "no limit" with the largest multiple of a page, version 2 with "max".
            guard let limit = try number(directory, file), limit < Int.max / 2 else { continue }
            least = min(least ?? limit, limit)
        }
        return least
    }

    private func number(_ directory: String, _ file: String) throws(Errno) -> Int? {
        let bytes: [UInt8]
        do throws(Errno) { bytes = try KernelFiles.contents(of: directory + "/" + file) } catch {
            // The root of a version 2 hierarchy has usage but no limits.
            if error == .noSuchFileOrDirectory { return nil }
            throw error
        }
        let text = String(decoding: bytes, as: UTF8.self)
        return text.split(separator: "\n").first.flatMap { UInt64($0) }.map { Int(clamping: $0) }
    }

    private func inactiveFileBytes(_ directory: String) throws(Errno) -> Int {
        let key = version == .one ? "total_inactive_file " : "inactive_file "
        for line in String(decoding: try KernelFiles.contents(of: directory + "/memory.stat"), as: UTF8.self).split(separator: "\n")
        where line.hasPrefix(key) {
            return Int(line.dropFirst(key.count)) ?? 0
        }
        return 0
    }
}
