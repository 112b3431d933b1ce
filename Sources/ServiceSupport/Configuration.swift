public import ShrinkLinux
import SystemPackage

/// Why a configuration can't be used: which file, which line, and what would be right.
public struct ConfigurationError: Error, Sendable, Equatable, CustomStringConvertible {
    public var description: String
    public init(_ description: String) { self.description = description }
}

/// What is set, and by whom. A flag counts more than the environment, that more than a drop-in, that more than the file.
///
///     # comment
///     key = value
///
/// Drop-ins are the files `<file>.d/*.conf` in the order of their names; the last file that mentions a key decides it. Only a list key may be there
/// several times in one file. `key =` takes back what earlier files said.
public struct Configuration: Sendable, Equatable {
    public struct Setting: Sendable, Equatable {
        public var values: [String]
        /// `--low-watermark`, `$SHRINKD_LOW_WATERMARK`, or a file with its line.
        public var origin: String
    }

    private var settings: [String: Setting] = [:]
    /// What was read, in order.
    public private(set) var files: [String] = []

    /// Nothing is set.
    public init() {}

    /// `flags` holds the flags that were given. `file` nil: the default place, where a missing file is fine; one that was named must be there.
    public init(
        flags: [String: [String]], file: String?, defaultFile: String? = Self.defaultFile(),
        environment: (String) -> String? = { ThisProcess.environment($0) }
    ) throws(ConfigurationError) {
        if let path = file ?? defaultFile { try readAll(path, isNamed: file != nil) }
        for key in ConfigurationKey.all {
            if let values = flags[key.name], !values.isEmpty {
                settings[key.name] = try Self.checked(key, values, "--" + key.name)
            } else if let value = environment(key.environmentName), !value.isEmpty {
                // Paths have colons seldom enough; systemd separates lists of them so, too.
                let values = key.isList ? value.split(separator: ":").map(String.init) : [value]
                settings[key.name] = try Self.checked(key, values, "$" + key.environmentName)
            }
        }
    }

    private static func checked(_ key: ConfigurationKey, _ values: [String], _ origin: String) throws(ConfigurationError) -> Setting {
        for value in values {
            if let complaint = key.complaint(about: value) {
                throw ConfigurationError("\(origin): '\(value)' is not possible for \(key.name); \(complaint)")
            }
        }
        return Setting(values: values, origin: origin)
    }

    /// /etc/shrinkd/shrinkd.conf for root and system users; $XDG_CONFIG_HOME/shrinkd/shrinkd.conf for everybody who has a home.
    public static func defaultFile(
        userID: UInt32 = ThisProcess.userID, environment: (String) -> String? = { ThisProcess.environment($0) }
    ) -> String? {
        if userID < 1000 { return "/etc/shrinkd/shrinkd.conf" }
        if let base = environment("XDG_CONFIG_HOME"), base.hasPrefix("/") { return base + "/shrinkd/shrinkd.conf" }
        return environment("HOME").flatMap { $0.hasPrefix("/") ? $0 + "/.config/shrinkd/shrinkd.conf" : nil }
    }

    // MARK: Files

    private mutating func readAll(_ path: String, isNamed: Bool) throws(ConfigurationError) {
        try read(path, mayBeMissing: !isNamed)
        var names: [String] = []
        do throws(Errno) {
            let directory = try Files.open(path + ".d", [.readOnly, .directory])
            try Files.forEachName(in: directory.number) { if $0.hasSuffix(".conf"), !$0.hasPrefix(".") { names.append($0) } }
        } catch {
            guard error == .noSuchFileOrDirectory else { throw ConfigurationError("\(path).d: \(error); make it a readable directory") }
        }
        for name in names.sorted(by: { Array($0.utf8).lexicographicallyPrecedes(Array($1.utf8)) }) {
            try read(path + ".d/" + name, mayBeMissing: false)
        }
    }

    private mutating func read(_ path: String, mayBeMissing: Bool) throws(ConfigurationError) {
        let bytes: [UInt8]
        do throws(Errno) { bytes = try Files.contents(of: path) } catch {
            if mayBeMissing, error == .noSuchFileOrDirectory { return }
            throw ConfigurationError("\(path): \(error); make it readable, or give another file (--config)")
        }
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw ConfigurationError("\(path): not UTF-8 text; correct it")
        }
        try take(text, from: path)
        files.append(path)
    }

    /// The text of one file; `path` is for messages.
    public mutating func take(_ text: String, from path: String) throws(ConfigurationError) {
        var here: [String: Setting] = [:]
        for (index, line) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
            let origin = "\(path):\(index + 1)"
            let line = Self.trimmed(line)
            if line.isEmpty || line.hasPrefix("#") { continue }
            guard let equals = line.firstIndex(of: "=") else {
                throw ConfigurationError("\(origin): '\(line)' is no setting; write 'key = value', and # before a comment")
            }
            let name = String(Self.trimmed(line[..<equals]))
            let value = String(Self.trimmed(line[line.index(after: equals)...]))
            guard let key = ConfigurationKey.named(name) else {
                throw ConfigurationError("\(origin): there is no key '\(name)'\(Self.likely(name)); shrinkd.conf(5) lists them")
            }
            let values = value.isEmpty ? [] : [value]
            if let earlier = here[name] {
                guard key.isList, !earlier.values.isEmpty, !values.isEmpty else {
                    throw ConfigurationError("\(origin): \(name) was set at \(earlier.origin) already; set it once")
                }
                here[name] = try Self.checked(key, earlier.values + values, earlier.origin)
            } else {
                here[name] = try Self.checked(key, values, origin)
            }
        }
        settings.merge(here) { $1 }
    }

    private static func trimmed(_ text: Substring) -> Substring {
        var text = text
        while let first = text.first, first.isWhitespace { text.removeFirst() }
        while let last = text.last, last.isWhitespace { text.removeLast() }
        return text
    }

    /// A key that somebody may have meant: the same but for hyphens and case.
    private static func likely(_ name: String) -> String {
        func plain(_ text: String) -> String { text.lowercased().filter { $0.isLetter } }
        guard let key = ConfigurationKey.all.first(where: { plain($0.name) == plain(name) }) else { return "" }
        return " (did you mean '\(key.name)'?)"
    }

    // MARK: Asking

    /// All values of a key; empty if it is not set.
    public func values(_ name: String) -> [String] { settings[name]?.values ?? [] }

    /// The value of a key, nil if it is not set.
    public subscript(name: String) -> String? { settings[name]?.values.last }

    public func size(_ name: String) -> Int? { self[name].flatMap { ByteSize($0)?.bytes } }
    public func count(_ name: String) -> Int? { self[name].flatMap { Int($0) } }
    /// With or without a percent sign; nil for a size.
    public func percent(_ name: String) -> Double? {
        self[name].flatMap { ConfigurationKey.percentage($0, mark: ConfigurationKey.named(name)?.kind == .sizeOrPercent) }
    }
    public func isOn(_ name: String) -> Bool { self[name] == "yes" }

    /// Where a key was set.
    public func origin(_ name: String) -> String? { settings[name]?.origin }

    /// Keys whose values differ, in the order of the list.
    public func differences(from other: Configuration) -> [ConfigurationKey] {
        ConfigurationKey.all.filter { values($0.name) != other.values($0.name) }
    }
}
