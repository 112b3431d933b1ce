import Glibc
import SystemPackage
import TestSupport
import Testing

@testable import ShrinkLinux

/// What is allocated before it is needed.
@Suite(.serialized) struct ResidentMemoryTests {
    @Test func stacksTheHeapAndDataAreAllocatedAndNothingElse() {
        let maps = """
            55d000000000-55d000002000 r-xp 00000000 fe:00 12 /usr/bin/some program
            55d000003000-55d000005000 rw-p 00003000 fe:00 12 /usr/bin/some program
            55d000100000-55d000200000 rw-p 00000000 00:00 0 [heap]
            7f0000000000-7f0000001000 ---p 00000000 00:00 0
            7f0000001000-7f0000101000 rw-p 00000000 00:00 0
            7f0000200000-7f0040200000 rw-s 00000000 00:01 77 /memfd:pool (deleted)
            7f0050000000-7f0060000000 rw-p 00000000 00:00 0
            7f0070000000-7f0080000000 rw-p 00000000 fe:00 13 /var/large
            7ffd00000000-7ffd00800000 rw-p 00000000 00:00 0 [stack]

            nonsense
            """
        let ranges = ProcessMemory.rangesToAllocate(ProcessMemory.parse(maps))
        let expected: [Range<UInt>] = [
            0x55d0_0000_3000..<0x55d0_0000_5000, 0x55d0_0010_0000..<0x55d0_0020_0000, 0x7f00_000f_1000..<0x7f00_0010_1000,
            0x7ffd_007f_0000..<0x7ffd_0080_0000,
        ]
        #expect(ranges == expected)
    }

    @Test func aThreadThatWaitsHasItsStackAllocated() throws {
        let place = Monitor<UInt?>(nil)
        let isOver = Monitor(false)
        let thread = try DedicatedThread("waiting") {
            var here = 0
            withUnsafeMutablePointer(to: &here) { pointer in place.withLock { $0 = UInt(bitPattern: pointer) } }
            place.notifyAll()
            isOver.wait { $0 ? () : nil }
        }
        let address = place.wait { $0 }
        // The last page of the part that is allocated, which this thread has never come to.
        func isThere() throws -> Bool {
            let deep = (address & ~4095) - 48 << 10
            var flags: UInt8 = 0
            try #require(mincore(UnsafeMutableRawPointer(bitPattern: deep), 4096, &flags) == 0)
            return flags & 1 != 0
        }
        try ProcessMemory.allocateWorkingMemory()
        let found = try isThere()
        isOver.withLock { $0 = true }
        isOver.notifyAll()
        thread.join()
        #expect(found)
    }

    @Test func aKernelFileIsReadAnewEachTimeThoughItStaysOpen() throws {
        let before = try MemoryInfo()
        #expect(before.total > 0 && before.available > 0)
        // Its figures change with what is used.
        let memory = try MappedMemory(anonymous: 64 << 20, populated: true)
        let after = try MemoryInfo()
        #expect(after.total == before.total && after.free != before.free)
        withExtendedLifetime(memory.base) {}
        #expect(throws: Errno.noSuchFileOrDirectory) { try KernelFiles.contents(of: "/proc/no such file") }
    }

    @Test func aGroupThatWentAndCameAgainIsReadAnew() throws {
        guard Machine.isRoot, let group = try? MemoryGroup.make("-again") else {
            return Machine.lacks("a writable memory cgroup (version 1)", so: "a group that comes again is not looked at")
        }
        defer { group.remove() }
        try group.limit(64 << 20)
        let path = group.path + "/memory.limit_in_bytes"
        #expect(try KernelFiles.contents(of: path) == Array("\(64 << 20)\n".utf8))
        group.remove()
        let again = try MemoryGroup.make("-again")
        try again.limit(32 << 20)
        #expect(try KernelFiles.contents(of: path) == Array("\(32 << 20)\n".utf8))
    }
}
