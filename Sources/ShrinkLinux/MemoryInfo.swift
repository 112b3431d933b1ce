public import SystemPackage

/// The machine's memory, as /proc/meminfo tells it (proc_meminfo(5)); bytes.
public struct MemoryInfo: Sendable {
    public var total: UInt64
    public var free: UInt64
    public var available: UInt64
    public var swapFree: UInt64

    /// `path` is for tests.
    public init(path: String = "/proc/meminfo") throws(Errno) {
        let text = String(decoding: try KernelFiles.contents(of: path), as: UTF8.self)
        self.init(parsing: text)
    }

    init(parsing text: String) {
        (total, free, available, swapFree) = (0, 0, 0, 0)
        for line in text.split(separator: "\n") {
            let fields = line.split(whereSeparator: { $0 == ":" || $0 == " " })
            guard fields.count >= 2, let kib = UInt64(fields[1]) else { continue }
            switch fields[0] {
            case "MemTotal": total = kib << 10
            case "MemFree": free = kib << 10
            case "MemAvailable": available = kib << 10
            case "SwapFree": swapFree = kib << 10
            default: break
            }
        }
    }
}
