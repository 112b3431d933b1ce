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

    /// Of a new store. Nobody who starts the whole daemon wants the bare files of `raw` unasked; a store that is there stays what it is.
    static let defaultLayout = "packed"

    /// As they stand on backupfs's command line.
    var arguments: [String] {
        [("--layout", layout), ("--codec", codec), ("--segment", segment), ("--age", age), ("--write-budget", writeBudget)]
            .flatMap { name, value in value.map { [name, $0] } ?? [] } + (allowsFaults ? ["--allow-faults"] : [])
    }
}
