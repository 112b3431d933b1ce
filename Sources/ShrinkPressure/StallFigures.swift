import ShrinkLinux
import SystemPackage

/// Pressure stall information as the kernel writes it: /proc/pressure/* and memory.pressure of a version 2 cgroup
/// (Documentation/accounting/psi.rst).
public struct StallFigures: Sendable, Equatable {
    /// Percent of the last 10 s, 60 s in which some task waited.
    public var some10 = 0.0
    public var some60 = 0.0
    /// Percent of the last 10 s in which all tasks waited.
    public var full10 = 0.0
    /// Microseconds in which some task waited, since the start of the machine.
    public var someTotal: UInt64 = 0

    /// Nil for text that is none.
    public init?(parsing text: String) {
        var hasSome = false
        for line in text.split(separator: "\n") {
            let words = line.split(separator: " ")
            guard let kind = words.first, kind == "some" || kind == "full" else { continue }
            for word in words.dropFirst() {
                let pair = word.split(separator: "=")
                guard pair.count == 2 else { return nil }
                switch (kind, pair[0]) {
                case ("some", "avg10"): guard let value = Double(pair[1]) else { return nil }; some10 = value
                case ("some", "avg60"): guard let value = Double(pair[1]) else { return nil }; some60 = value
                case ("full", "avg10"): guard let value = Double(pair[1]) else { return nil }; full10 = value
                case ("some", "total"): guard let value = UInt64(pair[1]) else { return nil }; someTotal = value
                default: break
                }
            }
            if kind == "some" { hasSome = true }
        }
        if !hasSome { return nil }
    }

    /// Nil where the file is missing or cannot be read: PSI may be off (`psi=1` on the kernel's command line).
    static func read(_ path: String) -> StallFigures? {
        guard let bytes = try? KernelFiles.contents(of: path) else { return nil }
        return StallFigures(parsing: String(decoding: bytes, as: UTF8.self))
    }
}
