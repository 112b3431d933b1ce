import PageStore
import ServiceSupport
import ShrinkLinux

extension StoreFlags {
    /// What was given, filled up from the environment and the configuration file where that was asked for; and whether faults are allowed.
    ///
    /// Without any store the one that systemd made for this unit is taken (StateDirectory=).
    func configured(allowFaults: Bool) throws(ConfigurationError) -> (StoreFlags, allowFaults: Bool) {
        guard configured || config != nil else { return (self, allowFaults) }
        let configuration = try Configuration(flags: [:], file: config)
        var flags = self
        if flags.directories.isEmpty { flags.directories = configuration.values("store") }
        if flags.directories.isEmpty {
            guard let made = ThisProcess.environment("STATE_DIRECTORY"), made.hasPrefix("/") else {
                throw ConfigurationError("no store is set: give --store, or set 'store' in the configuration")
            }
            flags.directories = made.split(separator: ":").map(String.init)
        }
        func setting<T>(_ name: String, _ make: (String) -> T?) throws(ConfigurationError) -> T? {
            guard let text = configuration[name] else { return nil }
            guard let value = make(text) else {
                throw ConfigurationError("\(configuration.origin(name) ?? name): '\(text)' is not possible for \(name); see backupfs(8)")
            }
            return value
        }
        if flags.layout == nil { flags.layout = try setting("layout") { StoreLayout(rawValue: $0) } }
        if flags.codec == nil { flags.codec = try setting("codec") { PackedCodec($0) } }
        if flags.segment == nil {
            flags.segment = try setting("segment") { text in
                ByteSize(text).flatMap { (1 << 20...64 << 20).contains($0.bytes) && $0.bytes.nonzeroBitCount == 1 ? $0 : nil }
            }
        }
        if flags.age == nil { flags.age = configuration.count("age") }
        if flags.writeBudget == nil { flags.writeBudget = try setting("write-budget") { ByteSize($0) } }
        return (flags, allowFaults || configuration.isOn("allow-faults"))
    }
}
