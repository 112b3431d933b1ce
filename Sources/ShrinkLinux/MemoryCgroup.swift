import CShrinkLinux
public import SystemPackage

/// The memory limits this process is under: its memory cgroup and that one's ancestors, version 1 or 2 (cgroups(7)).
public struct MemoryCgroup: Sendable {
    private enum Version { case one, two }

    private let version: Version
    /// The group first, then its ancestors below the mount.
    private let groups: [Group]

    /// Paths, put together once: looking at the figures asks for no memory.
    private struct Group {
        let directory: String
        let usage: String
        let limits: [String]
        let statistics: String

        init(_ version: Version, _ directory: String) {
            self.directory = directory
            usage = directory + (version == .one ? "/memory.usage_in_bytes" : "/memory.current")
            // Version 2 has two: above memory.high the group is throttled, above memory.max it is killed. The lower one counts.
            limits = (version == .one ? ["/memory.limit_in_bytes"] : ["/memory.max", "/memory.high"]).map { directory + $0 }
            statistics = directory + "/memory.stat"
        }
    }

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
        var groups: [Group] = []
        var parts = path.split(separator: "/").map(String.init)
        while true {
            let directory = ([root] + parts).reduce("") { $0.isEmpty ? $1 : $0 + "/" + $1 }
            // The root of version 2 has no usage file, and no limit either.
            let group = Group(version, directory)
            if (try? Files.status(of: group.usage)) != nil { groups.append(group) }
            guard parts.popLast() != nil else { break }
        }
        guard !groups.isEmpty else { return nil }
        self.groups = groups
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
        guard version == .two, let own = groups.first else { return nil }
        let path = own.directory + "/memory.pressure"
        return (try? Files.status(of: path)) == nil ? nil : path
    }

    /// The group or ancestor that has least left; nil if none of them has a limit.
    public func tightest() throws(Errno) -> Limit? {
        var least: Limit?
        // By index: an iterator asks for memory where it is not specialised.
        for i in groups.indices {
            guard let limit = try limitBytes(groups[i]) else { continue }
            let usage = try number(groups[i].usage) ?? 0
            let available = limit - usage + (try inactiveFileBytes(groups[i]))
            if least.map({ available < $0.availableBytes }) ?? true {
                least = Limit(directory: groups[i].directory, limitBytes: limit, availableBytes: available)
            }
        }
        return least
    }

    /// Reads once what `tightest` may want, which a limit that is set later makes it read for the first time: with no memory left to open a file in.
    public func prepare() {
        for group in groups {
            _ = try? limitBytes(group)
            _ = try? number(group.usage)
            _ = try? inactiveFileBytes(group)
        }
    }

    /// Bytes the process may still take before a limit is met: the least over the group and its ancestors. `Int.max` if there is no limit.
    public func availableBytes() throws(Errno) -> Int { try tightest()?.availableBytes ?? .max }

    private func limitBytes(_ group: Group) throws(Errno) -> Int? {
        var least: Int?
        for i in group.limits.indices {
            // Version 1 says "no limit" with the largest multiple of a page, version 2 with "max".
            guard let limit = try number(group.limits[i]), limit < Int.max / 2 else { continue }
            least = min(least ?? limit, limit)
        }
        return least
    }

    private func number(_ path: String) throws(Errno) -> Int? {
        do throws(Errno) {
            return try SmallFile.withContents(of: path) { SmallFile.number(after: "", in: $0).map { Int(clamping: $0) } }
        } catch {
            // The root of a version 2 hierarchy has usage but no limits.
            if error == .noSuchFileOrDirectory { return nil }
            throw error
        }
    }

    private func inactiveFileBytes(_ group: Group) throws(Errno) -> Int {
        let isFirst = version == .one
        return try SmallFile.withContents(of: group.statistics) { text in
            Int(
                clamping: (isFirst
                    ? SmallFile.number(after: "total_inactive_file ", in: text) : SmallFile.number(after: "inactive_file ", in: text)) ?? 0)
        }
    }
}
