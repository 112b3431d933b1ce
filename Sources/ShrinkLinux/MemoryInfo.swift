public import SystemPackage

/// The machine's memory, as /proc/meminfo tells it (proc_meminfo(5)); bytes.
public struct MemoryInfo: Sendable {
    public var total: UInt64
    public var free: UInt64
    public var available: UInt64
    public var swapFree: UInt64
    /// What programs can still get; the largest number if it would be larger (some containers show nonsense for swap).
    public var availableWithSwap: UInt64 {
        let (sum, isTooLarge) = available.addingReportingOverflow(swapFree)
        return isTooLarge ? .max : sum
    }

    /// `path` is for tests.
    public init(path: String = "/proc/meminfo") throws(Errno) {
        (total, free, available, swapFree) = try SmallFile.withContents(of: path) { text in
            func bytes(_ key: StaticString) -> UInt64 {
                let (bytes, isTooLarge) = (SmallFile.number(after: key, in: text) ?? 0).multipliedReportingOverflow(by: 1024)
                return isTooLarge ? .max : bytes
            }
            return (bytes("MemTotal:"), bytes("MemFree:"), bytes("MemAvailable:"), bytes("SwapFree:"))
        }
    }
}
