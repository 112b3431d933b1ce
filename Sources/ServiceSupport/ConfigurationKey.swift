/// One thing that can be set: by a flag `--name`, by an environment variable `SHRINKD_NAME`, or by a line `name = value` in the file.
public struct ConfigurationKey: Sendable {
    /// What a value may be.
    public enum Kind: Sendable, Equatable {
        /// Absolute or relative to where the program was started; not empty.
        case path
        /// Bytes, with a binary suffix if wanted.
        case size
        /// Bytes, or a percentage of the whole.
        case sizeOrPercent
        /// 0 … 100.
        case percent
        /// Whole numbers in a range.
        case count(ClosedRange<Int>)
        case choice([String])
        /// yes or no.
        case flag
        /// Checked by whom it is for.
        case text
    }

    /// Which program must be started again for a change to count.
    public enum Holder: String, Sendable {
        case shrinkd
        case backupfs
    }

    public var name: String
    public var kind: Kind
    public var holder = Holder.shrinkd
    /// A change counts as soon as the configuration is read again.
    public var isLive = false
    /// May be given several times.
    public var isList = false

    /// `SHRINKD_LOW_WATERMARK` for `low-watermark`.
    public var environmentName: String { "SHRINKD_" + name.uppercased().replacing("-", with: "_") }

    /// Why a text is no value of this key; nil if it is one.
    public func complaint(about text: String) -> String? {
        switch kind {
        case .path: text.isEmpty || text.utf8.contains(0) ? "give a path" : nil
        case .size: ByteSize(text) == nil ? "give a size like 512M or 2G" : nil
        case .sizeOrPercent:
            ByteSize(text) != nil || Self.percentage(text, mark: true) != nil ? nil : "give a size like 512M, or a percentage like 5%"
        case .percent: Self.percentage(text, mark: false) == nil ? "give a percentage of 0 to 100" : nil
        case .count(let range):
            Int(text).map { range.contains($0) } == true ? nil : "give a whole number of \(range.lowerBound) to \(range.upperBound)"
        case .choice(let choices): choices.contains(text) ? nil : "give \(choices.joined(separator: ", "))"
        case .flag: ["yes", "no"].contains(text) ? nil : "give yes or no"
        case .text: text.isEmpty ? "give a value" : nil
        }
    }

    /// `mark`: with a percent sign, which is also allowed without.
    static func percentage(_ text: String, mark: Bool) -> Double? {
        var digits = text[...]
        if digits.hasSuffix("%") { digits = digits.dropLast() } else if mark { return nil }
        guard let first = digits.utf8.first, (48...57).contains(first), let value = Double(digits), (0...100).contains(value) else {
            return nil
        }
        return value
    }
}

extension ConfigurationKey {
    /// All there is; docs/shrinkd.conf.5 describes each, and a test compares.
    public static let all: [ConfigurationKey] = [
        // Where things are.
        ConfigurationKey(name: "runtime-dir", kind: .path),
        ConfigurationKey(name: "backup", kind: .path),
        ConfigurationKey(name: "store", kind: .path, holder: .backupfs, isList: true),
        ConfigurationKey(name: "pressure-socket", kind: .path),
        // How pages are kept.
        ConfigurationKey(name: "layout", kind: .choice(["raw", "packed"]), holder: .backupfs),
        ConfigurationKey(name: "codec", kind: .text, holder: .backupfs),
        ConfigurationKey(name: "segment", kind: .size, holder: .backupfs),
        ConfigurationKey(name: "age", kind: .count(1...1 << 31), holder: .backupfs),
        ConfigurationKey(name: "write-budget", kind: .size, holder: .backupfs),
        ConfigurationKey(name: "allow-faults", kind: .flag, holder: .backupfs),
        // How much memory pools may have.
        ConfigurationKey(name: "memory-floor", kind: .size),
        ConfigurationKey(name: "max-resident", kind: .size),
        ConfigurationKey(name: "cgroup-reserve", kind: .size),
        // What one user may take, and how long its programs are waited for.
        ConfigurationKey(name: "user-pools", kind: .count(0...1024), isLive: true),
        ConfigurationKey(name: "user-objects", kind: .count(0...1 << 30), isLive: true),
        ConfigurationKey(name: "user-bytes", kind: .size, isLive: true),
        ConfigurationKey(name: "user-backup", kind: .size, isLive: true),
        ConfigurationKey(name: "lease-wait", kind: .count(0...600_000)),
        ConfigurationKey(name: "session-grace", kind: .count(1...3600)),
        ConfigurationKey(name: "stop-patience", kind: .count(1...3600)),
        // When memory is given back.
        ConfigurationKey(name: "pressure", kind: .choice(["on", "dry-run", "off"]), isLive: true),
        ConfigurationKey(name: "low-watermark", kind: .sizeOrPercent, isLive: true),
        ConfigurationKey(name: "high-watermark", kind: .sizeOrPercent, isLive: true),
        ConfigurationKey(name: "pools-floor", kind: .size, isLive: true),
        ConfigurationKey(name: "step", kind: .percent, isLive: true),
        ConfigurationKey(name: "stall-trigger", kind: .count(1...1000), isLive: true),
        ConfigurationKey(name: "stall-full", kind: .percent, isLive: true),
        ConfigurationKey(name: "io-gate", kind: .percent, isLive: true),
        ConfigurationKey(name: "write-rate", kind: .size, isLive: true),
        ConfigurationKey(name: "idle", kind: .percent, isLive: true),
        ConfigurationKey(name: "idle-interval", kind: .count(1...86400), isLive: true),
    ]

    public static func named(_ name: String) -> ConfigurationKey? { all.first { $0.name == name } }
}
