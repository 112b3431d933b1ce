import ArgumentParser
import ServiceSupport
import ShrinkKeeper

/// The flags that go to the file server as they are. They are checked here too, so that a slip ends with 64 and not with a server that ends.
struct StorageOptions: ParsableArguments {
    @Option(help: .init("How pages are kept: packed (compressed, checked, tiers) or raw (bare files).", valueName: "layout"))
    var layout: String?

    @Option(
        help: .init("What compresses pages: lz4, lz4:ACCELERATION, zstd or zstd:LEVEL.", discussion: "Default: lz4.", valueName: "codec"))
    var codec: String?

    @Option(help: .init("Size of a segment file of a new store, 1M to 64M.", discussion: "Default: 4M.", valueName: "size"))
    var segment: String?

    @Option(
        help: .init(
            "Pages that old move to the next --store directory.", discussion: "Default: only write-back moves them.", valueName: "seconds"))
    var age: String?

    @Option(
        help: .init("Bytes a day that may go to directories behind the first.", discussion: "Default: no limit.", valueName: "bytes"))
    var writeBudget: String?

    @Flag(help: "Let root and this user set faults on the store with `shrinkctl fault`, for tests. Turns passthrough off.")
    var allowFaults = false

    var flags: StorageFlags {
        var flags = StorageFlags(layout: layout, codec: codec, segment: segment, age: age, writeBudget: writeBudget)
        flags.allowsFaults = allowFaults
        return flags
    }

    /// What was given, by key of the configuration.
    var given: [String: [String]] {
        let all: [(String, String?)] = [
            ("layout", layout), ("codec", codec), ("segment", segment), ("age", age), ("write-budget", writeBudget),
            ("allow-faults", allowFaults ? "yes" : nil),
        ]
        return Dictionary(uniqueKeysWithValues: all.compactMap { name, value in value.map { (name, [$0]) } })
    }

    func validate() throws {
        if let codec {
            let parts = codec.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
            guard ["lz4", "zstd"].contains(parts[0]), parts.count == 1 || Int(parts[1]) != nil else {
                throw ValidationError("'\(codec)' is no codec; give lz4, lz4:ACCELERATION, zstd or zstd:LEVEL")
            }
        }
        for (name, values) in given {
            for value in values {
                if let complaint = ConfigurationKey.named(name)?.complaint(about: value) {
                    throw ValidationError("'\(value)' is not possible for --\(name); \(complaint)")
                }
            }
        }
        if layout == "raw", codec != nil || segment != nil || age != nil || writeBudget != nil {
            throw ValidationError("--codec, --segment, --age and --write-budget are for --layout packed")
        }
    }
}

extension StorageFlags {
    /// What is set for the file server.
    init(_ configuration: Configuration) {
        self.init(
            layout: configuration["layout"], codec: configuration["codec"], segment: configuration["segment"], age: configuration["age"],
            writeBudget: configuration["write-budget"])
        allowsFaults = configuration.isOn("allow-faults")
    }
}
