import ShrinkLinux
import SystemPackage

/// A memory cgroup of this process's own.
public struct MemoryGroup: Sendable {
    public let path: String
    private static let root = "/sys/fs/cgroup/memory"

    /// One that somebody else made.
    public init(path: String) { self.path = path }

    /// `name` tells groups of one process apart.
    public static func make(_ name: String = "") throws -> MemoryGroup {
        let group = MemoryGroup(path: "\(root)/shrinkd-test.\(ThisProcess.processID)\(name)")
        try? Files.removeDirectory(group.path)
        try Files.makeDirectory(group.path, mode: 0o755)
        // A machine with swap would only get slower where one without runs out.
        try? group.write("0", "memory.swappiness")
        return group
    }

    public func limit(_ bytes: Int) throws { try write("\(bytes)", "memory.limit_in_bytes") }
    public func enter() throws { try write("\(ThisProcess.processID)", "cgroup.procs") }

    public func enter(_ process: Int32) throws { try write("\(process)", "cgroup.procs") }
    /// This process goes to the root group; what it has touched stays charged here.
    public func leave() throws {
        let file = try Files.open(Self.root + "/cgroup.procs", .writeOnly)
        try Array("\(ThisProcess.processID)".utf8).withBytes { (bytes) throws(Errno) in
            if let error = Files.writeStream(file.number, bytes).error { throw error }
        }
    }

    /// Drops what the kernel can drop of it: pages of files that are also on disk.
    public func dropCaches() throws { try write("0", "memory.force_empty") }

    public var usageBytes: Int { get throws { try number("memory.usage_in_bytes") } }

    /// A line of memory.stat, `total_shmem` for example.
    public func statistic(_ name: String) throws -> Int? {
        let text = String(decoding: try Files.contents(of: path + "/memory.stat"), as: UTF8.self)
        return text.split(separator: "\n").first { $0.hasPrefix(name + " ") }.flatMap { Int($0.dropFirst(name.count + 1)) }
    }

    /// How many processes the kernel has killed here for want of memory; nil where it does not count them.
    public var killed: Int? {
        guard let text = try? Files.contents(of: path + "/memory.oom_control") else { return nil }
        return String(decoding: text, as: UTF8.self).split(separator: "\n").first { $0.hasPrefix("oom_kill ") }.flatMap {
            Int($0.dropFirst(9))
        }
    }

    private func number(_ file: String) throws -> Int {
        Int(String(decoding: try Files.contents(of: path + "/" + file), as: UTF8.self).filter(\.isNumber)) ?? 0
    }

    private func write(_ text: String, _ file: String) throws {
        let file = try Files.open(path + "/" + file, .writeOnly)
        try Array(text.utf8).withBytes { (bytes) throws(Errno) in
            if let error = Files.writeStream(file.number, bytes).error { throw error }
        }
    }

    public static func removeEmpty() {
        guard let directory = try? Files.open(root, [.readOnly, .directory]) else { return }
        try? Files.forEachName(in: directory.number) { name in
            if name.hasPrefix("shrinkd-test.") { try? Files.removeDirectory(root + "/" + name) }
        }
    }

    /// Whoever is in it goes to the root group first.
    public func remove() {
        if let file = try? Files.open(Self.root + "/cgroup.procs", .writeOnly),
            let members = try? Files.contents(of: path + "/cgroup.procs")
        {
            for member in String(decoding: members, as: UTF8.self).split(separator: "\n") {
                _ = Array(member.utf8).withUnsafeBytes { Files.writeStream(file.number, $0) }
            }
        }
        try? Files.removeDirectory(path)
    }
}
