import FoundationEssentials
import PageStore
import ShrinkLinux
import Synchronization
import SystemPackage

// What people and the engine read as text: `stats` and an object's `info`.
extension BackupTree {
    /// `key: value` lines. The engine reads the first ones; their names stay.
    func statsText() -> String {
        let space = store.space
        let verdict = passthrough.verdict
        var lines: [(String, String)] = [
            ("version", version),
            ("layout", served.layout),
            ("passthrough", verdict.description),
            ("windows", windowsVerdict.description),
            ("first_tier", served.directories[0].kind),
            ("objects", "\(space.objectCount)"),
            ("pages", "\(space.pageCount)"),
            ("stored_bytes", "\(space.storedBytes)"),
            ("available_bytes", "\(space.availableBytes)"),
            ("total_bytes", "\(space.totalBytes)"),
            ("id_high_water", "\(store.highestID)"),
            ("pid", "\(ThisProcess.processID)"),
        ]
        for (i, directory) in served.directories.enumerated() {
            lines.append(("tier.\(i).path", directory.path.replacing("\n", with: "\\n")))
            lines.append(("tier.\(i).kind", directory.kind))
        }
        lines += store.facts().map { ($0.key, $0.value) }
        lines.append(("open.passthrough", "\(passthrough.openFiles)"))
        lines.append(("open.windows", "\(windows.openCount)"))
        lines.append(("open.snapshot_bytes", "\(snapshots.usedBytes)"))
        lines.append(("errors.store", "\(errors.total)"))
        for kind in RequestCounters.Kind.allCases { lines.append(("requests.\(kind.name)", "\(counters[kind])")) }
        lines.append(("requests.resent", "\(counters.resent.load(ordering: .relaxed))"))
        return lines.map { "\($0.0): \($0.1)\n" }.joined()
    }

    /// What the backup knows of an object, as JSON with a final newline.
    func infoText(_ object: any StoredObject) throws(Errno) -> [UInt8] {
        let attributes = try object.attributes
        let byTier = try object.pagesByTier()
        let info = ObjectInfo(
            id: object.id.rawValue, name: object.hint(.name), owner: object.hint(.owner).flatMap { UInt32($0) } ?? ownership.daemon,
            priority: object.hint(.priority).flatMap { Int($0) }, sizeBytes: attributes.sizeBytes, pages: byTier.reduce(0, +),
            storedBytes: attributes.storedBytes, pagesByTier: byTier, created: Self.date(attributes.created),
            modified: Self.date(attributes.modified))
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        encoder.keyEncodingStrategy = .convertToSnakeCase
        encoder.dateEncodingStrategy = .iso8601
        guard let data = try? encoder.encode(info) else { throw .ioError }
        return Array(data) + [UInt8(ascii: "\n")]
    }

    private static func date(_ time: FileTime) -> Date { Date(timeIntervalSince1970: Double(time.seconds)) }
}

/// The keys of `info`, in the wire's snake_case. What is not known is left out.
private struct ObjectInfo: Encodable {
    var id: UInt32
    var name: String?
    var owner: UInt32
    var priority: Int?
    var sizeBytes: Int
    var pages: Int
    var storedBytes: Int
    /// The fastest tier first.
    var pagesByTier: [Int]
    var created: Date
    var modified: Date
}
