import ShrinkLinux
import SystemPackage

/// One entry as journald takes it: fields by name, so that `journalctl SHRINKD_REASON=below-low` finds it (systemd.journal-fields(7),
/// https://systemd.io/JOURNAL_NATIVE_PROTOCOL).
struct JournalEntry {
    static let socket = "/run/systemd/journal/socket"
    /// What a datagram holds for certain; a longer entry goes to standard error, where it is cut.
    static let maxBytes = 64 << 10

    private(set) var bytes: [UInt8] = []

    /// `metadata` keys become `SHRINKD_KEY`.
    init(priority: Int, identifier: String, message: String, metadata: [(key: String, value: String)]) {
        add("PRIORITY", "\(priority)")
        add("SYSLOG_IDENTIFIER", identifier)
        add("MESSAGE", message)
        for (key, value) in metadata { add("SHRINKD_" + Self.fieldName(key), value) }
    }

    /// Capitals, digits and underscores; journald drops other fields.
    static func fieldName(_ key: String) -> String {
        String(
            decoding: key.utf8.map { byte in
                switch byte {
                case UInt8(ascii: "a")...UInt8(ascii: "z"): byte - 32
                case UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "0")...UInt8(ascii: "9"): byte
                default: UInt8(ascii: "_")
                }
            }, as: UTF8.self)
    }

    private mutating func add(_ name: String, _ value: String) {
        let text = Array(value.utf8)
        bytes += Array(name.utf8)
        if text.contains(UInt8(ascii: "\n")) {
            // A value with line breaks is counted instead: 64 bits, little-endian.
            bytes.append(UInt8(ascii: "\n"))
            withUnsafeBytes(of: UInt64(text.count).littleEndian) { bytes += Array($0) }
        } else {
            bytes.append(UInt8(ascii: "="))
        }
        bytes += text
        bytes.append(UInt8(ascii: "\n"))
    }

    /// False if journald did not get it.
    func send(to path: String = Self.socket) -> Bool {
        guard bytes.count <= Self.maxBytes else { return false }
        do throws(Errno) {
            let socket = try UnixSocket.connect(path, .datagram)
            let number = socket.number
            return try bytes.withBytes { (buffer) throws(Errno) in try UnixSocket.send(number, buffer) } == bytes.count
        } catch {
            return false
        }
    }
}
