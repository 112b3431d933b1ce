public import ShrinkLinux

/// Descriptors that a starter keeps for a program over its restarts, by name (the receiving side of `Notifier.store`).
///
/// The rules are systemd's (FileDescriptorStoreMax= in systemd.service(5)), so that a program cannot tell who started it: a name may be
/// used for many descriptors, one open file is kept once and under its first name, what is over the limit is not kept and the sender is
/// not told. Kept descriptors are never polled here, whatever FDPOLL says: a polled FUSE device would wake the starter for every request.
public struct DescriptorStore: Sendable {
    private var entries: [(name: String, descriptor: SharedDescriptor)] = []
    public let limit: Int

    public init(limit: Int) {
        precondition(limit >= 0, "a limit is not negative")
        self.limit = limit
    }

    /// The names kept, in the order they came.
    public var names: [String] { entries.map(\.name) }
    public var count: Int { entries.count }
    /// The numbers of the descriptors in the order of `names`, for a child that is about to be started. They stay ours.
    public var numbers: [CInt] { entries.map(\.descriptor.number) }

    /// The first of that name.
    public func descriptor(_ name: String) -> SharedDescriptor? { entries.first { $0.name == name }?.descriptor }

    public enum Outcome: Sendable, Equatable {
        case kept
        /// This open file was there already, under the name given.
        case known(as: String)
        /// The store is full; the descriptor was closed.
        case full
    }

    /// Keeps one descriptor; what is not kept is closed.
    @discardableResult
    public mutating func keep(_ descriptor: consuming OwnedDescriptor, name: String) -> Outcome {
        let number = descriptor.number
        if let known = entries.first(where: { Files.areSameOpenFile($0.descriptor.number, number) }) { return .known(as: known.name) }
        guard entries.count < limit else { return .full }
        entries.append((name, SharedDescriptor(descriptor)))
        return .kept
    }

    /// Closes everything of that name; returns how many there were.
    @discardableResult
    public mutating func remove(name: String) -> Int {
        let before = entries.count
        entries.removeAll { $0.name == name }
        return before - entries.count
    }

    public mutating func removeAll() { entries.removeAll() }
}

/// What a child needs to speak with its starter and to find what was kept for it.
public struct ChildInheritance: Sendable {
    /// `NAME=value` strings: the starter's own without those that speak of its own starter, and the child's.
    public var environment: [String]
    /// They become 3, 4, … of the child (`ChildProcess`).
    public var descriptors: [CInt]

    /// `additional` descriptors go with the kept ones under names of their own; `unannounced` ones follow, open in the child and named
    /// to nobody: the child holds them until it ends, whatever it does.
    ///
    /// LISTEN_PID is left out: posix_spawn cannot know the number beforehand, and `InheritedDescriptors` accepts its absence.
    public init(
        from environment: [String] = ThisProcess.environmentStrings, notifySocket: String, store: DescriptorStore,
        additional: [(name: String, number: CInt)] = [], unannounced: [CInt] = []
    ) {
        let ours = [
            "NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES", "FDSTORE", "WATCHDOG_USEC", "WATCHDOG_PID",
            "MAINPID",
        ]
        self.environment = environment.filter { entry in !ours.contains { entry.hasPrefix($0 + "=") } }
        self.environment.append("NOTIFY_SOCKET=" + notifySocket)
        self.environment.append("FDSTORE=\(store.limit)")
        let names = additional.map(\.name) + store.names
        if !names.isEmpty {
            self.environment.append("LISTEN_FDS=\(names.count)")
            self.environment.append("LISTEN_FDNAMES=" + names.joined(separator: ":"))
        }
        descriptors = additional.map(\.number) + store.numbers + unannounced
    }
}
