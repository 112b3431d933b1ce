import ShrinkLinux
import SystemPackage

/// The small text file that makes a directory a tier of a packed store, and that the server holds locked.
///
///     shrinkd page store
///     layout packed
///     version 1
///     store 32 hexadecimal digits, the same in all tiers
///     tier 0
///     segment 4194304
///     check CRC-32C of the lines above, in hexadecimal
struct StoreSignature: Equatable {
    static let fileName = "format"
    static let version = 1
    private static let title = "shrinkd page store"

    var identity: StoreIdentity
    var tier: Int
    var segmentBytes: Int

    var bytes: [UInt8] {
        let text = "\(Self.title)\nlayout packed\nversion \(Self.version)\nstore \(identity)\ntier \(tier)\nsegment \(segmentBytes)\n"
        let sum = Array(text.utf8).withUnsafeBytes { Checksum.bytes($0.baseAddress!, $0.count) }
        return Array((text + "check " + String(sum, radix: 16) + "\n").utf8)
    }

    init(identity: StoreIdentity, tier: Int, segmentBytes: Int) {
        self.identity = identity
        self.tier = tier
        self.segmentBytes = segmentBytes
    }

    init(parsing bytes: [UInt8], of path: String) throws(StoreError) {
        let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
        guard lines.first == Self.title else {
            throw StoreError(.foreign, "\(path)/\(Self.fileName) is not ours; give an empty directory or an existing store")
        }
        func value(_ key: String) -> String? {
            lines.first { $0.hasPrefix(key + " ") }.map { String($0.dropFirst(key.count + 1)) }
        }
        if let layout = value("layout"), layout != "packed" {
            throw StoreError(
                .foreign, "\(path) holds a store of layout '\(layout)', not 'packed'; choose --layout \(layout) or another directory")
        }
        let found = value("version").flatMap { Int($0) } ?? 0
        if found > Self.version {
            throw StoreError(
                .newer,
                "\(path) was written in format \(found), this program knows \(Self.version); use the newer program or another directory")
        }
        guard let identity = value("store").flatMap(StoreIdentity.init(_:)), let tier = value("tier").flatMap({ Int($0) }),
            let segment = value("segment").flatMap({ Int($0) })
        else { throw Self.damaged(path) }
        self.init(identity: identity, tier: tier, segmentBytes: segment)
        guard found == Self.version, self.bytes == bytes else { throw Self.damaged(path) }
    }

    private static func damaged(_ path: String) -> StoreError {
        StoreError(
            .damaged,
            "\(path)/\(fileName) says packed, and is damaged: restore it from another tier's, with its own tier number, or give another directory; --layout raw can't read it either"
        )
    }
}

/// Sixteen random bytes that tell stores apart.
struct StoreIdentity: Equatable, Sendable, CustomStringConvertible {
    let high: UInt64
    let low: UInt64

    init() {
        high = .random(in: 0...UInt64.max)
        low = .random(in: 0...UInt64.max)
    }

    init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    init?(_ text: String) {
        guard text.utf8.count == 32, let high = UInt64(text.prefix(16), radix: 16), let low = UInt64(text.suffix(16), radix: 16) else {
            return nil
        }
        self.init(high: high, low: low)
    }

    var description: String { Self.digits(high) + Self.digits(low) }

    private static func digits(_ value: UInt64) -> String {
        let text = String(value, radix: 16)
        return String(repeating: "0", count: 16 - text.utf8.count) + text
    }
}
