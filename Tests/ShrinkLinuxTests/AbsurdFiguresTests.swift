import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// What the kernel, or a container that stands in for it, says of memory is reckoned with however large it is.
@Suite struct AbsurdFiguresTests {
    @Test func swapThatNoMachineHas() throws {
        let scratch = try ScratchDirectory()
        // As a container's /proc/meminfo was seen to show it.
        try Files.replaceContents(
            of: scratch.file("meminfo"),
            with: Array("MemTotal: 1024 kB\nMemFree: 512 kB\nMemAvailable: 768 kB\nSwapFree: 18446744073709346016 kB\n".utf8))
        let memory = try MemoryInfo(path: scratch.file("meminfo"))
        #expect(memory.available == 768 << 10)
        #expect(memory.availableWithSwap == .max)
    }

    @Test func hugePagesWithoutLimit() throws {
        let scratch = try ScratchDirectory()
        for (name, value) in [
            ("nr_hugepages", "8"), ("free_hugepages", "8"), ("resv_hugepages", "0"), ("surplus_hugepages", "0"),
            ("nr_overcommit_hugepages", "\(Int.max)"),
        ] { try Files.replaceContents(of: scratch.file(name), with: Array("\(value)\n".utf8)) }
        #expect(try HugePages(directory: scratch.path).available == .max)
    }
}
