import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// Limits of memory cgroups, read from trees of files: the machine may have only one version.
@Suite struct MemoryCgroupTests {
    private let scratch: ScratchDirectory

    init() throws { scratch = try ScratchDirectory() }

    private func write(_ path: String, _ text: String) throws {
        let full = scratch.file(path)
        try Files.makeDirectories(full.split(separator: "/").dropLast().reduce("") { $0 + "/" + $1 })
        try Files.replaceContents(of: full, with: Array((text + "\n").utf8))
    }

    private func group(_ membership: String) throws -> MemoryCgroup? {
        try write("membership", membership)
        return MemoryCgroup.ofThisProcess(mount: scratch.file("cgroup"), membership: scratch.file("membership"))
    }

    private func makeTwo(_ path: String, current: Int, max: String, high: String? = "max", inactive: Int = 0) throws {
        try write("cgroup\(path)/memory.current", "\(current)")
        try write("cgroup\(path)/memory.max", max)
        if let high { try write("cgroup\(path)/memory.high", high) }
        try write("cgroup\(path)/memory.stat", "anon 5\ninactive_file \(inactive)\nactive_file 9")
    }

    @Test func versionTwoTakesTheTightestOfTheGroupAndItsAncestors() throws {
        try makeTwo("/a", current: 900, max: "1000")
        try makeTwo("/a/b", current: 100, max: "500")
        try makeTwo("/a/b/c", current: 10, max: "max")
        let tightest = try #require(try group("0::/a/b/c")?.tightest())
        #expect(tightest.directory == scratch.file("cgroup/a") && tightest.limitBytes == 1000 && tightest.availableBytes == 100)
        // Freed in the ancestor: now the parent is the tighter one.
        try makeTwo("/a", current: 200, max: "1000")
        #expect(try group("0::/a/b/c")?.availableBytes() == 400)
    }

    @Test func theLowerOfBothLimitsCountsAndWhatCanBeDroppedIsAvailable() throws {
        try makeTwo("/a", current: 600, max: "1000", high: "700", inactive: 50)
        #expect(try group("0::/a")?.availableBytes() == 150)
        // Above memory.high there is less than nothing.
        try makeTwo("/a", current: 800, max: "1000", high: "700")
        #expect(try group("0::/a")?.availableBytes() == -100)
        // The root of a hierarchy, or an old kernel, has no such file.
        try Files.remove(scratch.file("cgroup/a/memory.high"))
        #expect(try group("0::/a")?.availableBytes() == 200)
    }

    @Test func withoutALimitThereIsNone() throws {
        try makeTwo("/a", current: 600, max: "max")
        #expect(try group("0::/a")?.tightest() == nil)
        #expect(try group("0::/a")?.availableBytes() == .max)
        #expect(try group("0::/nowhere") == nil)
    }

    @Test func versionOneHasItsOwnNamesAndItsOwnWordForNoLimit() throws {
        func make(_ path: String, usage: Int, limit: UInt64, inactive: Int) throws {
            try write("cgroup/memory\(path)/memory.usage_in_bytes", "\(usage)")
            try write("cgroup/memory\(path)/memory.limit_in_bytes", "\(limit)")
            try write("cgroup/memory\(path)/memory.stat", "inactive_file 1\ntotal_inactive_file \(inactive)")
        }
        try make("", usage: 5, limit: 9_223_372_036_854_771_712, inactive: 0)
        try make("/a", usage: 900, limit: 1000, inactive: 30)
        try make("/a/b", usage: 10, limit: 9_223_372_036_854_771_712, inactive: 0)
        #expect(try group("5:cpu:/x\n4:memory:/a/b\n0::/")?.availableBytes() == 130)
    }

    @Test func itsOwnPressureFileIsFoundInVersionTwoAlone() throws {
        try makeTwo("/a", current: 1, max: "max")
        #expect(try group("0::/a")?.pressurePath == nil)
        try write("cgroup/a/memory.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0")
        #expect(try group("0::/a")?.pressurePath == scratch.file("cgroup/a/memory.pressure"))
    }
}
