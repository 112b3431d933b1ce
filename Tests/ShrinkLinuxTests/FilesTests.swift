import SystemPackage
import Testing

@testable import ShrinkLinux

@Suite struct FilesTests {
    @Test func aSealedMemoryFileKeepsItsSizeAndPunchedPagesAreHoles() throws {
        let file = try MemoryFile.makeSealed("test", size: 1 << 20)
        #expect(throws: Errno.notPermitted) { try Files.truncate(file.number, to: 4096) }
        let page = [UInt8](repeating: 7, count: 8192)
        let written = page.withUnsafeBytes { Files.write(file.number, $0, at: 4096) }
        #expect(written.bytes == 8192 && written.error == nil)
        #expect(try Files.nextData(file.number, from: 0) == 4096)
        #expect(try Files.nextHole(file.number, from: 4096) == 12288)
        try Files.punch(file.number, at: 4096, length: 4096)
        #expect(try Files.nextData(file.number, from: 0) == 8192)
        try Files.punch(file.number, at: 8192, length: 4096)
        #expect(try Files.nextData(file.number, from: 0) == nil)
        #expect(try Files.status(file.number).allocatedBytes == 0)
    }

    @Test func aZeroPageIsToldFromOneWithASingleBit() throws {
        let memory = try MappedMemory(anonymous: basePageSize, populated: true)
        #expect(isZero(memory.base, basePageSize))
        for offset in [0, 1, 2047, 4095] {
            memory.bytes[offset] = 0x80
            #expect(!isZero(memory.base, basePageSize))
            memory.bytes[offset] = 0
        }
    }

    @Test func mountInfoUnescapesPaths() {
        let line = #"36 35 98:0 /mnt1 /mnt\040two rw,noatime master:1 - fuse.backupfs a\134b rw,errors=continue"#
        let mounts = Mounts.parse(line)
        #expect(mounts.count == 1)
        #expect(mounts.first?.path == "/mnt two")
        #expect(mounts.first?.type == "fuse.backupfs")
        #expect(mounts.first?.source == #"a\b"#)
        #expect(mounts.first?.device.minor == 0)
    }

    @Test func descriptorsTravelOverAUnixSocket() throws {
        let ends = try UnixSocket.pair()
        let file = try MemoryFile.make("passed", size: 4096)
        let sent = try "x".utf8CString.withUnsafeBytes {
            try UnixSocket.send(ends.first.number, UnsafeRawBufferPointer(rebasing: $0[0..<1]), descriptors: [file.number])
        }
        #expect(sent == 1)
        var buffer = [UInt8](repeating: 0, count: 16)
        let received = try buffer.withUnsafeMutableBytes { try UnixSocket.receive(ends.second.number, into: $0) }
        let descriptor = try #require(received?.descriptors.first)
        let passed = OwnedDescriptor(owning: descriptor)
        #expect(try Files.status(passed.number).inode == Files.status(file.number).inode)
    }

    @Test func aChildGetsItsDescriptorsFromThreeAndItsEndingIsSeen() throws {
        let file = try MemoryFile.make("inherited", size: 0)
        let child = try ChildProcess("/bin/sh", ["-c", "printf hello >&3; exit 7"], environment: [], descriptors: [file.number])
        #expect(try child.wait() == .exited(7))
        #expect(try Files.status(file.number).sizeBytes == 5)
    }
}
