public import ShrinkLinux
import SystemPackage

/// A store's own directory: opened, known to be of the wanted layout, and locked against a second server.
///
/// Its first file, `format`, says what the rest is; `lock` is held as long as this value lives.
public struct StoreDirectory: ~Copyable, Sendable {
    public let path: String
    public let descriptor: OwnedDescriptor
    private let lock: OwnedDescriptor

    /// Opens a directory that holds a store of this layout and version, or makes an empty one into such a store.
    public init(opening path: String, layout: String, version: Int) throws(StoreError) {
        let directory = try Self.open(path)
        // Look before anything is written: what is not ours stays as it is.
        try Self.identify(directory.number, path)?.check(layout: layout, version: version, path: path)
        let lock = try Self.takeLock(in: directory.number, path)
        // Another server may have made it a store since: what is there under the lock counts.
        if let found = try Self.identify(directory.number, path) {
            try found.check(layout: layout, version: version, path: path)
        } else {
            let format = Format(layout: layout, version: version)
            do throws(Errno) {
                try Files.replaceContents(of: Format.fileName, at: directory.number, with: Array(format.text.utf8))
                try Files.sync(directory.number)
            } catch {
                throw Self.cannotWrite(path, error)
            }
        }
        self.path = path
        self.descriptor = directory
        self.lock = lock
    }

    private static func open(_ path: String) throws(StoreError) -> OwnedDescriptor {
        do throws(Errno) { return try Files.open(path, [.readOnly, .directory]) } catch { throw cannotOpen(path, error) }
    }

    /// What the directory holds; nil if it is empty. Anything but a store is refused.
    private static func identify(_ directory: CInt, _ path: String) throws(StoreError) -> Format? {
        let stranger: String?
        do throws(Errno) {
            if let format = try Format.read(in: directory) { return format }
            stranger = try strangeName(in: directory)
        } catch {
            throw StoreError(.system, "cannot read \(path)", errno: error)
        }
        guard let stranger else { return nil }
        throw StoreError(.foreign, "\(path) holds '\(stranger)' and no store; give an empty directory or an existing store")
    }

    private static func takeLock(in directory: CInt, _ path: String) throws(StoreError) -> OwnedDescriptor {
        do throws(Errno) {
            let lock = try Files.open("lock", [.readWrite, .create], at: directory)
            if try Files.tryLock(lock.number) { return lock }
        } catch {
            throw cannotWrite(path, error)
        }
        throw StoreError(.busy, "\(path) is open in another server; stop that one or give another directory")
    }

    private static func cannotOpen(_ path: String, _ error: Errno) -> StoreError {
        switch error {
        case .noSuchFileOrDirectory: StoreError(.missing, "the store directory \(path) does not exist; make it with: mkdir -m 700 \(path)")
        case .notDirectory: StoreError(.foreign, "\(path) is not a directory; give a directory for the store")
        case .permissionDenied: StoreError(.readOnly, "no permission to open \(path); run as its owner or give another directory")
        default: StoreError(.system, "cannot open \(path)", errno: error)
        }
    }

    static func cannotWrite(_ path: String, _ error: Errno) -> StoreError {
        switch error {
        case .readOnlyFileSystem:
            StoreError(.readOnly, "\(path) is on a read-only file system; remount it writable or give another directory")
        case .permissionDenied, .notPermitted:
            StoreError(.readOnly, "\(path) is not writable for this user; run as its owner or give another directory")
        case .noSpace: StoreError(.system, "\(path) is full; free some space or give another directory", errno: error)
        default: StoreError(.system, "cannot write \(path)", errno: error)
        }
    }

    /// The first name that neither a store nor a fresh file system puts there.
    private static func strangeName(in directory: CInt) throws(Errno) -> String? {
        var strange: String?
        try Files.forEachName(in: directory) { name in
            if !["lock", Format.fileName + ".new", "lost+found"].contains(name) { strange = strange ?? name }
        }
        return strange
    }

    /// The file `format`: three lines of text, so that a person who finds the directory knows what it is.
    struct Format {
        static let fileName = "format"
        static let title = "shrinkd page store"
        var layout: String
        var version: Int

        var text: String { "\(Self.title)\nlayout \(layout)\nversion \(version)\n" }

        /// Nil without the file.
        static func read(in directory: CInt) throws(Errno) -> Format? {
            let bytes: [UInt8]
            do { bytes = try Files.contents(of: fileName, at: directory, limit: 4096) } catch {
                if error == .noSuchFileOrDirectory { return nil }
                if error == .fileTooLarge { return Format(layout: "", version: 0) }
                throw error
            }
            let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n", omittingEmptySubsequences: false)
            guard lines.count >= 3, lines[0] == title, lines[1].hasPrefix("layout "), lines[2].hasPrefix("version "),
                let version = Int(lines[2].dropFirst(8))
            else { return Format(layout: "", version: 0) }
            return Format(layout: String(lines[1].dropFirst(7)), version: version)
        }

        func check(layout wanted: String, version known: Int, path: String) throws(StoreError) {
            guard !layout.isEmpty else {
                throw StoreError(.foreign, "\(path)/\(Self.fileName) is not ours; give an empty directory or an existing store")
            }
            guard layout == wanted else {
                throw StoreError(
                    .foreign, "\(path) holds a store of layout '\(layout)', not '\(wanted)'; choose --layout \(layout) or another directory"
                )
            }
            guard version <= known else {
                throw StoreError(
                    .newer, "\(path) was written by a later version (format \(version), this one knows \(known)); update this program")
            }
        }
    }
}
