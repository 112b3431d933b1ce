/// How the file server lays out and keeps its store: flags of `shrinkd` that are backupfs's, word for word. Nil: not given.
public struct StorageFlags: Sendable, Equatable {
    public var layout: String?
    public var codec: String?
    public var segment: String?
    public var age: String?
    public var writeBudget: String?
    /// Faults may be set on the store, for tests.
    public var allowsFaults = false

    public init(layout: String? = nil, codec: String? = nil, segment: String? = nil, age: String? = nil, writeBudget: String? = nil) {
        self.layout = layout
        self.codec = codec
        self.segment = segment
        self.age = age
        self.writeBudget = writeBudget
    }

    /// Nobody who starts the whole daemon wants the bare files of `raw` unasked.
    static let defaultLayout = "packed"

    var withDefaults: StorageFlags {
        var flags = self
        flags.layout = layout ?? Self.defaultLayout
        return flags
    }

    /// As they stand on backupfs's command line.
    var arguments: [String] {
        [("--layout", layout), ("--codec", codec), ("--segment", segment), ("--age", age), ("--write-budget", writeBudget)]
            .flatMap { name, value in value.map { [name, $0] } ?? [] } + (allowsFaults ? ["--allow-faults"] : [])
    }
}
