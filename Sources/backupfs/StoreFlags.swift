import ArgumentParser
import BackupFileSystem
import Logging
import PageStore
import ServiceSupport
import ShrinkLinux
import SystemPackage

/// Which store to serve and how it keeps pages, from the command line.
struct StoreFlags: ParsableArguments {
    @Option(
        name: .customLong("store"),
        help: ArgumentHelp("A directory that keeps the pages; packed: fastest tier first, may be repeated.", valueName: "DIR"))
    var directories: [String] = []

    @Flag(help: "What is not given here is taken from the environment and the configuration file (shrinkd.conf(5)).")
    var configured = false

    @Option(help: ArgumentHelp("The configuration file, if not /etc/shrinkd/shrinkd.conf; implies --configured.", valueName: "FILE"))
    var config: String?

    @Option(
        help: ArgumentHelp("The layout of a new store. Default: raw.", valueName: "LAYOUT"),
        transform: { text in
            guard let layout = StoreLayout(rawValue: text) else { throw ValidationError("'\(text)' is no layout; give raw or packed") }
            return layout
        })
    var defaultLayout: StoreLayout?

    @Option(
        help: ArgumentHelp("raw or packed. Default: what the store is already, else raw.", valueName: "LAYOUT"),
        transform: { text in
            guard let layout = StoreLayout(rawValue: text) else { throw ValidationError("'\(text)' is no layout; give raw or packed") }
            return layout
        })
    var layout: StoreLayout?

    @Option(
        help: ArgumentHelp("packed: lz4, lz4:ACCELERATION (1 … 64), zstd or zstd:LEVEL (-7 … 19). Default: lz4.", valueName: "CODEC"),
        transform: { text in
            guard let codec = PackedCodec(text) else {
                throw ValidationError("'\(text)' is no codec; give lz4, lz4:1 … lz4:64, zstd or zstd:-7 … zstd:19")
            }
            return codec
        })
    var codec: PackedCodec?

    @Option(
        help: ArgumentHelp("packed: bytes of a segment file, a power of two of 1M to 64M. Default: 4M.", valueName: "SIZE"),
        transform: { text in
            guard let size = ByteSize(text), size.bytes >= 1 << 20, size.bytes <= 64 << 20, size.bytes.nonzeroBitCount == 1 else {
                throw ValidationError("'\(text)' is no size of a segment; give a power of two of 1M to 64M")
            }
            return size
        })
    var segment: ByteSize?

    @Option(
        help: ArgumentHelp("packed: segments that old move to the next --store. Default: only fsync moves them.", valueName: "SECONDS"),
        transform: { text in
            guard let seconds = Int(text), (1...1 << 31).contains(seconds) else {
                throw ValidationError("'\(text)' is no age; give seconds, 1 or more")
            }
            return seconds
        })
    var age: Int?

    @Option(
        help: ArgumentHelp(
            "packed: bytes a day (UTC) that may be written to directories behind the first. Default: no limit.", valueName: "BYTES"),
        transform: { text in
            guard let size = ByteSize(text) else { throw ValidationError("'\(text)' is no number of bytes; give one like 20G") }
            return size
        })
    var writeBudget: ByteSize?

    func validate() throws {
        if directories.isEmpty, !configured, config == nil { throw ValidationError("Missing expected argument '--store <DIR>'") }
        if directories.contains("") { throw ValidationError("--store '' is no directory; give one") }
        guard layout == .raw || directories.count > 1 && layout == nil && found == .raw else { return }
        try refuseForRaw()
    }

    private var found: StoreLayout? { directories.lazy.compactMap { StoreLayout.found(in: $0) }.first }

    private func refuseForRaw() throws {
        if directories.count > 1 { throw ValidationError("the raw layout has one --store; several are tiers of --layout packed") }
        let given = [
            ("--codec", codec != nil), ("--segment", segment != nil), ("--age", age != nil), ("--write-budget", writeBudget != nil),
        ]
        if let flag = given.first(where: \.1) { throw ValidationError("\(flag.0) is for --layout packed") }
    }

    /// Opens the store, making one in empty directories.
    func open(_ logger: Logger) throws(StoreError) -> ServedStore {
        try checkWhoMayWrite(logger)
        let layout = layout ?? found ?? defaultLayout ?? .raw
        try layout.require(in: directories)
        let store: any ObjectStore =
            switch layout {
            case .raw: try openRaw()
            case .packed: try openPacked(logger)
            }
        do throws(Errno) { return try ServedStore(store, layout: layout.rawValue, directories: directories) } catch {
            throw StoreError(.system, "cannot look at \(directories.joined(separator: ", "))", errno: error)
        }
    }

    private func openRaw() throws(StoreError) -> RawStore {
        do { try refuseForRaw() } catch { throw StoreError(.usage, "\(error)") }
        // Half for objects, the rest for what else a server opens.
        let openFiles = min(4096, max(64, ((try? Int(clamping: ThisProcess.descriptorLimit().soft)) ?? 256) / 2))
        return try RawStore(directories[0], openFiles: openFiles)
    }

    private func openPacked(_ logger: Logger) throws(StoreError) -> PackedStore {
        var options = PackedOptions()
        if let codec { options.codec = codec }
        if let segment { options.segmentBytes = segment.bytes }
        options.ageSeconds = age
        options.writeBudgetBytesPerDay = writeBudget.map { UInt64($0.bytes) }
        options.report = { logger.warning("\($0)") }
        let store = try PackedStore(directories: directories, options: options)
        if let segment, segment.bytes != store.segmentBytes {
            logger.notice(
                "--segment is for new stores; this one keeps the size it was made with.",
                metadata: ["asked": "\(segment)", "segment": "\(ByteSize(bytes: store.segmentBytes))"])
        }
        if directories.count == 1, age != nil || writeBudget != nil {
            logger.notice("--age and --write-budget are about further directories; there is one --store.")
        }
        return store
    }
}
