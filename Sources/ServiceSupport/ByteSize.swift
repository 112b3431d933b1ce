/// A number of bytes as people write it: plain, or with a binary suffix.
public struct ByteSize: Sendable, Equatable, CustomStringConvertible {
    public let bytes: Int

    public init(bytes: Int) { self.bytes = bytes }

    /// `4096`, `64K`, `4M`, `2G`, `1T`, also `4MiB`; nil for anything else and beyond 2^63 - 1 bytes.
    public init?(_ text: String) {
        var digits = text[...]
        if digits.hasSuffix("iB") {
            digits = digits.dropLast(2)
            guard digits.last.map({ "KMGT".contains($0) }) ?? false else { return nil }
        }
        let shift: Int? =
            switch digits.last {
            case "K", "k": 10
            case "M", "m": 20
            case "G", "g": 30
            case "T", "t": 40
            default: nil
            }
        if shift != nil { digits = digits.dropLast() }
        guard !digits.isEmpty, digits.utf8.allSatisfy({ (48...57).contains($0) }), let number = Int(digits) else { return nil }
        let (bytes, overflow) = number.multipliedReportingOverflow(by: 1 << (shift ?? 0))
        guard !overflow else { return nil }
        self.bytes = bytes
    }

    /// The shortest text that means the same.
    public var description: String {
        for (suffix, shift) in [("T", 40), ("G", 30), ("M", 20), ("K", 10)] where bytes > 0 && bytes & (1 << shift - 1) == 0 {
            return "\(bytes >> shift)\(suffix)"
        }
        return "\(bytes)"
    }
}
