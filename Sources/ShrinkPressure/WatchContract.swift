public import ShrinkLinux
import SystemPackage

/// `$MEMORY_PRESSURE_WATCH` and `$MEMORY_PRESSURE_WRITE`, by which a service manager says where a service hears of its memory pressure
/// (https://systemd.io/MEMORY_PRESSURE).
public enum WatchContract: Sendable, Equatable {
    /// Nobody said anything: the program may look for pressure itself.
    case unset
    /// `/dev/null`: the program is not to watch for pressure.
    case disabled
    /// Poll this, after writing `write` to it once.
    case watch(path: String, write: [UInt8])

    public init(
        watch: String? = ThisProcess.environment("MEMORY_PRESSURE_WATCH"), write: String? = ThisProcess.environment("MEMORY_PRESSURE_WRITE")
    ) throws(PressureSourceError) {
        guard let watch, !watch.isEmpty else {
            self = .unset
            return
        }
        if watch == "/dev/null" {
            self = .disabled
            return
        }
        guard watch.hasPrefix("/") else {
            throw PressureSourceError("MEMORY_PRESSURE_WATCH is '\(watch)' and not an absolute path; who starts shrinkd must correct it")
        }
        guard let write, !write.isEmpty else {
            self = .watch(path: watch, write: [])
            return
        }
        guard let bytes = Base64.decode(write) else {
            throw PressureSourceError("MEMORY_PRESSURE_WRITE is not Base64; who starts shrinkd must correct it")
        }
        self = .watch(path: watch, write: bytes)
    }
}

/// Why a source of pressure can't be used. It is said once, and the others go on.
public struct PressureSourceError: Error, Equatable, CustomStringConvertible {
    public var description: String
    init(_ description: String) { self.description = description }
}

/// RFC 4648, section 4; padding is asked for.
enum Base64 {
    static func decode(_ text: String) -> [UInt8]? {
        let characters = Array(text.utf8)
        guard characters.count % 4 == 0 else { return nil }
        var bytes: [UInt8] = []
        bytes.reserveCapacity(characters.count / 4 * 3)
        for start in stride(from: 0, to: characters.count, by: 4) {
            let group = characters[start..<start + 4]
            let padding = group.reversed().prefix { $0 == UInt8(ascii: "=") }.count
            guard padding <= 2, padding == 0 || start + 4 == characters.count else { return nil }
            var word: UInt32 = 0
            for character in group.dropLast(padding) {
                guard let value = value(character) else { return nil }
                word = word << 6 | value
            }
            word <<= 6 * UInt32(padding)
            for index in 0..<3 - padding { bytes.append(UInt8(truncatingIfNeeded: word >> UInt32(16 - 8 * index))) }
        }
        return bytes
    }

    private static func value(_ character: UInt8) -> UInt32? {
        switch character {
        case UInt8(ascii: "A")...UInt8(ascii: "Z"): UInt32(character - UInt8(ascii: "A"))
        case UInt8(ascii: "a")...UInt8(ascii: "z"): UInt32(character - UInt8(ascii: "a")) + 26
        case UInt8(ascii: "0")...UInt8(ascii: "9"): UInt32(character - UInt8(ascii: "0")) + 52
        case UInt8(ascii: "+"): 62
        case UInt8(ascii: "/"): 63
        default: nil
        }
    }
}
