public import ShrinkLinux

/// Descriptors that the starter passed to this process: listening sockets and what it kept in its store (sd_listen_fds(3)).
///
/// They start at 3, counted by `$LISTEN_FDS` and named by `$LISTEN_FDNAMES`, and are meant for the process `$LISTEN_PID`.
/// The order is not kept over a restart: go by name only.
public struct InheritedDescriptors: ~Copyable {
    private var entries: [(name: String, number: CInt)]

    /// Takes over what the environment names, and clears the variables so that children do not take it too.
    public init() {
        entries = []
        defer { for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] { ThisProcess.removeEnvironment(name) } }
        // A keeper that uses posix_spawn cannot know the pid beforehand, so no LISTEN_PID at all is accepted; a wrong one is not.
        if let pid = ThisProcess.environment("LISTEN_PID"), pid != String(ThisProcess.processID) { return }
        guard let count = ThisProcess.environment("LISTEN_FDS").flatMap({ CInt($0) }), count > 0, count < 4096 else { return }
        let names = (ThisProcess.environment("LISTEN_FDNAMES") ?? "").split(separator: ":", omittingEmptySubsequences: false)
        for i in 0..<count {
            let number = 3 + i
            guard OwnedDescriptor.closesOnExec(number) else { continue }
            entries.append((Int(i) < names.count ? String(names[Int(i)]) : "unknown", number))
        }
    }

    /// Removes and returns one descriptor of that name.
    public mutating func take(_ name: String) -> OwnedDescriptor? {
        guard let index = entries.firstIndex(where: { $0.name == name }) else { return nil }
        return OwnedDescriptor(owning: entries.remove(at: index).number)
    }

    /// The names still here, as often as they occur.
    public var names: [String] { entries.map(\.name) }

    deinit { for entry in entries { _ = OwnedDescriptor(owning: entry.number) } }
}
