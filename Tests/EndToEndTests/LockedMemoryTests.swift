import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// Who must act when memory is short must not wait for its own pages.
@Suite(.serialized) struct LockedMemoryTests {
    @Test func allThreeProcessesAreLocked() throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "locked memory is not looked at") }
        let daemon = try DaemonProcess()
        for part in ["keeper", "engine", "backupfs"] {
            let process = try #require(daemon.process(of: part))
            let status = String(decoding: try Files.contents(of: "/proc/\(process)/status"), as: UTF8.self)
            let kibibytes = Dictionary(
                uniqueKeysWithValues: status.split(separator: "\n").compactMap { line in
                    let words = line.split(whereSeparator: { $0 == ":" || $0 == "\t" || $0 == " " })
                    return words.count == 3 && words[2] == "kB" ? (String(words[0]), Int(words[1]) ?? 0) : nil
                })
            #expect(kibibytes["VmLck"] ?? 0 > 0, "\(part)")
            // Locked are addresses; pages are there as they are used.
            #expect(kibibytes["VmRSS"] ?? 0 > 0 && kibibytes["VmRSS"] ?? 0 < 256 << 10, "\(part) has \(kibibytes["VmRSS"] ?? 0) KiB")
        }
        try daemon.stop()
    }
}
