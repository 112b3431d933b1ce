import ShrinkLinux
import SystemPackage

/// How a store keeps pages in its directories.
public enum StoreLayout: String, Sendable, CaseIterable {
    /// One sparse file per object.
    case raw
    /// Compressed blocks in segments.
    case packed

    /// What a directory holds; nil if it is not there, empty or somebody else's: opening it tells which. Changes nothing.
    public static func found(in path: String) -> StoreLayout? {
        guard let directory = try? Files.open(path, [.readOnly, .directory]) else { return nil }
        return (try? StoreDirectory.Format.read(in: directory.number)).flatMap { $0 }.flatMap { StoreLayout(rawValue: $0.layout) }
    }

    /// Throws `foreign` if one of the directories holds a store of another layout.
    public func require(in directories: [String]) throws(StoreError) {
        for path in directories {
            guard let found = Self.found(in: path), found != self else { continue }
            throw StoreError(
                .foreign,
                "\(path) holds a store of layout '\(found.rawValue)', not '\(rawValue)'; choose --layout \(found.rawValue) or another directory"
            )
        }
    }
}
