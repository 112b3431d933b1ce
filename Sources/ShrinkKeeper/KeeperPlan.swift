public import ShrinkLinux

/// What a keeper runs, and where.
public struct KeeperPlan: Sendable {
    /// A program with its arguments.
    public struct Command: Sendable, Equatable {
        public var path: String
        public var arguments: [String]

        public init(_ path: String, _ arguments: [String]) {
            self.path = path
            self.arguments = arguments
        }
    }

    public var runtimeDirectory: String
    /// Made before the file server starts, mode 0700: what is stored may be secret.
    public var storeDirectories: [String]
    /// Nil where the engine uses a directory that is there already. Gets the mount point as `KeeperPlan.mountPointArgument`.
    public var backupfs: Command?
    public var engine: Command
    public var limits = SupervisionLimits()
    /// Descriptors kept for each part; the units' FileDescriptorStoreMax= say the same.
    public var keptForBackupfs = 64
    public var keptForEngine = 2048

    /// Stands for the mount point in a command's arguments; the keeper knows the path only when the directory is made.
    public static let mountPointArgument = "{mount-point}"
    /// Stands for the runtime directory in a command's arguments.
    public static let runtimeDirectoryArgument = "{runtime-dir}"

    /// Stores that a person named lie where somebody put them: only the last part of such a path is made. A parent that is missing is a typo
    /// or a disk that is not mounted.
    public var makesParentsOfStores = false

    public init(runtimeDirectory: String, storeDirectories: [String], backupfs: Command?, engine: Command) {
        self.runtimeDirectory = runtimeDirectory
        self.storeDirectories = storeDirectories
        self.backupfs = backupfs
        self.engine = engine
    }

    /// The plan behind `shrinkd`'s flags, with the defaults of docs/architecture.md; `programs` is where our executables lie.
    public init(
        runtimeDirectory: String?, stores: [String], storage: StorageFlags = StorageFlags(), backup: String?, defaults: DefaultDirectories,
        programs: String
    ) throws(KeeperFailure) {
        if backup != nil, !stores.isEmpty || !storage.arguments.isEmpty {
            throw KeeperFailure(
                .unusablePath,
                "--backup uses a directory that is there, --store and what belongs to it are for a file server of our own: give one of them"
            )
        }
        let isDefaultStore = stores.isEmpty
        let stores =
            if backup != nil { [String]() } else if !stores.isEmpty { stores } else if let runtimeDirectory {
                [runtimeDirectory + "/store"]
            } else {
                [try defaults.store()]
            }
        let directory = if let runtimeDirectory { runtimeDirectory } else { try defaults.runtime() }
        self.init(
            runtimeDirectory: directory, storeDirectories: stores,
            backupfs: backup == nil
                ? Command(
                    programs + "/backupfs",
                    [Self.mountPointArgument] + stores.flatMap { ["--store", $0] }
                        + (storage.layout == nil ? ["--default-layout", StorageFlags.defaultLayout] : []) + storage.arguments)
                : nil,
            engine: Command(
                programs + "/shrinkd",
                ["engine", "--runtime-dir", Self.runtimeDirectoryArgument, "--backup", backup ?? Self.mountPointArgument]))
        makesParentsOfStores = isDefaultStore
    }
}

/// Where things lie if nobody says otherwise: root's in /run and /var/lib, a user's by the XDG base directories.
public struct DefaultDirectories: Sendable {
    private let isRoot: Bool
    private let environment: @Sendable (String) -> String?

    public init(
        isRoot: Bool = ThisProcess.userID == 0, environment: @escaping @Sendable (String) -> String? = { ThisProcess.environment($0) }
    ) {
        self.isRoot = isRoot
        self.environment = environment
    }

    /// The XDG specification: a relative path counts as not set.
    private func absolute(_ name: String) -> String? {
        guard let value = environment(name), value.hasPrefix("/") else { return nil }
        return value
    }

    /// /run/shrinkd, or $XDG_RUNTIME_DIR/shrinkd.
    public func runtime() throws(KeeperFailure) -> String {
        if isRoot { return "/run/shrinkd" }
        guard let base = absolute("XDG_RUNTIME_DIR") else {
            throw KeeperFailure(
                .unusablePath, "XDG_RUNTIME_DIR is not set, so there is no runtime directory of yours: give one with --runtime-dir")
        }
        return base + "/shrinkd"
    }

    /// /var/lib/shrinkd/store, or $XDG_STATE_HOME/shrinkd/store, which is in ~/.local/state unless set.
    public func store() throws(KeeperFailure) -> String {
        if isRoot { return "/var/lib/shrinkd/store" }
        if let base = absolute("XDG_STATE_HOME") { return base + "/shrinkd/store" }
        guard let home = absolute("HOME") else {
            throw KeeperFailure(.unusablePath, "neither XDG_STATE_HOME nor HOME is set: say where to store with --store")
        }
        return home + "/.local/state/shrinkd/store"
    }
}
