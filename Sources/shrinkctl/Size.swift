import ArgumentParser

/// A number of bytes on the command line: plain, or with a binary suffix.
struct Size: ExpressibleByArgument {
    let bytes: Int

    /// `4096`, `64K`, `512M`, `2G`, `1T`; nothing else, and nothing beyond 2^63 - 1 bytes.
    init?(argument: String) {
        var digits = argument[...]
        var shift = 0
        switch digits.last {
        case "K", "k": shift = 10
        case "M", "m": shift = 20
        case "G", "g": shift = 30
        case "T", "t": shift = 40
        default: break
        }
        if shift > 0 { digits = digits.dropLast() }
        guard !digits.isEmpty, digits.utf8.allSatisfy({ (48...57).contains($0) }), let number = Int(digits) else { return nil }
        let (bytes, overflow) = number.multipliedReportingOverflow(by: 1 << shift)
        guard !overflow else { return nil }
        self.bytes = bytes
    }

    /// A size as people read it: `1.5 MiB`.
    static func readable(_ bytes: Int) -> String {
        let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
        var unit = 0
        var divisor = 1.0
        while unit < units.count - 1, Double(abs(bytes)) >= divisor * 1024 {
            divisor *= 1024
            unit += 1
        }
        if unit == 0 { return "\(bytes) B" }
        return "\(decimal(Double(bytes) / divisor, places: 1)) \(units[unit])"
    }

    /// A number with that many digits after the point.
    static func decimal(_ value: Double, places: Int) -> String {
        var scale = 1
        for _ in 0..<places { scale *= 10 }
        let scaled = Int((abs(value) * Double(scale)).rounded())
        var fraction = String(scaled % scale)
        fraction = String(repeating: "0", count: places - fraction.count) + fraction
        return (value < 0 && scaled > 0 ? "-" : "") + "\(scaled / scale)." + fraction
    }

    /// A duration as people read it.
    static func duration(_ nanoseconds: Int) -> String {
        let seconds = Double(nanoseconds) / 1e9
        return seconds < 1 ? "\(decimal(seconds * 1000, places: 1)) ms" : "\(decimal(seconds, places: 2)) s"
    }

    /// Pages of 4 KiB per time, in GiB/s.
    static func rate(pages: Int, nanoseconds: Int) -> String {
        guard nanoseconds > 0 else { return "-" }
        return decimal(Double(pages) * 4096 / Double(1 << 30) / (Double(nanoseconds) / 1e9), places: 2) + " GiB/s"
    }
}
