import Glibc
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// Answers of docs/backup-filesystem.md that no other suite asks for.
@Suite(.serialized) struct PosixAnswersTests {
    /// -1 and errno as a value.
    private func failure(_ result: some SignedInteger) -> Errno? { result < 0 ? Errno(rawValue: errno) : nil }

    @Test(arguments: DataPath.allCases) func mappingsAreSharedOnlyWhereNoSecondCopyIsMade(_ path: DataPath) throws {
        try withMount(path) { server in
            let data = try server.makeObject(1, sizeBytes: 4 * page)
            try write([UInt8](repeating: 5, count: 4 * page), to: data.number, at: 0)
            let shared = mmap(nil, page, PROT_READ | PROT_WRITE, MAP_SHARED, data.number, 0)
            let isPassedThrough = try server.statistic("passthrough") == "yes"
            if !isPassedThrough {
                #expect(shared == MAP_FAILED && errno == ENODEV)
            } else {
                let memory = try #require(shared)
                #expect(memory != MAP_FAILED)
                memory.storeBytes(of: 77, as: UInt8.self)
                #expect(try read(data.number, at: 0, count: 1) == [77])
                munmap(memory, page)
            }
            let content = try Files.open(server.file("objects/1/content"), .readOnly)
            #expect(mmap(nil, page, PROT_READ, MAP_SHARED, content.number, 0) == MAP_FAILED && errno == ENODEV)
            let own = try #require(mmap(nil, page, PROT_READ, MAP_PRIVATE, content.number, off_t(page)))
            #expect(own != MAP_FAILED && own.load(as: UInt8.self) == 5)
            munmap(own, page)
        }
    }

    @Test(arguments: DataPath.allCases) func appendingGoesToTheEnd(_ path: DataPath) throws {
        try withMount(path) { server in
            let data = try server.makeObject(1)
            let first = try Files.open(server.file("objects/1/data"), [.writeOnly, .append])
            let second = try Files.open(server.file("objects/1/data"), [.writeOnly, .append])
            for i in 0..<100 {
                let file = i % 2 == 0 ? first.number : second.number
                #expect([UInt8(i)].withUnsafeBytes { Glibc.write(file, $0.baseAddress, 1) } == 1)
            }
            #expect(try read(data.number, at: 0, count: 200) == (0..<100).map { UInt8($0) })
        }
    }

    @Test(arguments: DataPath.allCases) func aPageFileStaysAFileUntilItIsClosed(_ path: DataPath) throws {
        try withMount(path) { server in
            let data = try server.makeObject(1, sizeBytes: 4 * page)
            try write([UInt8](repeating: 5, count: page), to: data.number, at: 2 * page)
            let open = try Files.open(server.file("objects/1/pages/2"), .readOnly)
            try Files.punch(data.number, at: 2 * page, length: page)
            #expect(throws: Errno.noSuchFileOrDirectory) { try Files.status(of: server.file("objects/1/pages/2")) }
            let status = try Files.status(open.number)
            #expect(status.sizeBytes == page && status.allocatedBytes == 0 && status.kind == .regular)
            #expect(try read(open.number, at: 0, count: 8) == [UInt8](repeating: 5, count: 8))
        }
    }

    @Test func namesAreAtMost255BytesLong() throws {
        try withMount { server in
            _ = try server.makeObject(1, sizeBytes: page)
            for directory in ["", "objects/", "objects/1/", "objects/1/pages/"] {
                let name = directory + String(repeating: "1", count: 256)
                #expect(throws: Errno.fileNameTooLong) { try Files.status(of: server.file(name)) }
                #expect(throws: Errno.fileNameTooLong) { try Files.makeDirectory(server.file(name)) }
                #expect(throws: Errno.fileNameTooLong) { _ = try Files.open(server.file(name), [.writeOnly, .create]) }
                #expect(throws: Errno.noSuchFileOrDirectory) { try Files.status(of: server.file(String(name.dropLast()))) }
            }
        }
    }

    @Test func timesFollowWritesAndCanBeSet() throws {
        try withMount { server in
            let data = try server.makeObject(1, sizeBytes: page)
            let old = FileTime(seconds: 1_000_000, nanoseconds: 5)
            try Files.setTimes(data.number, accessed: nil, modified: old)
            #expect(try Files.status(data.number).modified == old)
            #expect(try Files.status(of: server.file("objects/1")).modified == old)
            let before = FileTime.now()
            try write([1], to: data.number, at: 0)
            #expect(try Files.status(data.number).modified.seconds >= before.seconds - 1)
            #expect(try Files.status(of: server.file("objects/1/pages/0")).modified.seconds >= before.seconds - 1)
            let info = try Files.open(server.file("objects/1/info"), .readOnly)
            #expect(throws: Errno.notPermitted) { try Files.setTimes(info.number, accessed: nil, modified: old) }
        }
    }

    @Test func whatTheKernelDoesItselfWorks() throws {
        try withMount { server in
            let data = try server.makeObject(1)
            let other = try server.makeObject(2)
            try write(PagePattern(seed: 9).page(0, zeroEvery: 0), to: data.number, at: 0)
            #expect(flock(data.number, LOCK_EX | LOCK_NB) == 0)
            let again = try Files.open(server.file("objects/1/data"), .readWrite)
            #expect(failure(flock(again.number, LOCK_EX | LOCK_NB)) == .wouldBlock)
            let copied = try runProgram(
                "/bin/dd", ["if=" + server.file("objects/1/content"), "of=" + server.file("objects/2/data"), "conv=notrunc"])
            #expect(copied.ending == .exited(0))
            let plain = try runProgram("/bin/cp", [server.file("objects/1/content"), server.file("objects/2/data")])
            #expect(plain.ending == .exited(0), "\(plain.errors)")
            #expect(try read(other.number, at: 0, count: page) == PagePattern(seed: 9).page(0, zeroEvery: 0))
            #expect(try Files.contents(of: "/proc/self/mountinfo").isEmpty == false)
            for name in ["stats", "objects/1/info"] {
                let text = try runProgram("/bin/sh", ["-c", "wc -c < \(server.file(name))"])
                #expect((Int(text.output.split(separator: "\n").first ?? "") ?? 0) > 100)
            }
        }
    }

    @Test func attributesOfOthersAreNotKept() throws {
        try withMount { server in
            _ = try server.makeObject(1)
            let python = """
                import os, sys, errno
                d = sys.argv[1]
                def code(f, *a, **k):
                    try: f(*a, **k)
                    except OSError as e: return errno.errorcode[e.errno]
                    return "OK"
                data = d + "/objects/1/data"
                print(code(os.getxattr, data, "user.foo"), code(os.getxattr, data, "security.capability"),
                      code(os.getxattr, data, "system.posix_acl_access"), code(os.removexattr, data, "user.foo"),
                      code(os.removexattr, data, "user.shrinkd.stored_bytes"), code(os.setxattr, data, "user.foo", b"1"),
                      code(os.setxattr, data, "user.shrinkd.name", b"a", os.XATTR_REPLACE),
                      code(os.setxattr, data, "user.shrinkd.name", b"a", os.XATTR_CREATE),
                      code(os.setxattr, data, "user.shrinkd.name", b"b", os.XATTR_CREATE),
                      os.listxattr(data), code(os.listxattr, d))
                import fcntl
                fd = os.open(data, os.O_RDWR)
                print(code(fcntl.ioctl, fd, 0x5401), code(os.lseek, fd, 0, os.SEEK_DATA), code(os.pread, fd, 1, 2**62))
                """
            let answers = try runProgram("/usr/bin/python3", ["-c", python, server.mountPoint])
            #expect(
                answers.output.split(separator: "\n").map(String.init) == [
                    "ENODATA ENODATA ENOTSUP ENODATA EPERM ENOTSUP ENODATA OK EEXIST "
                        + "['user.shrinkd.stored_bytes', 'user.shrinkd.name'] OK",
                    "ENOTTY ENXIO OK",
                ], "\(answers.errors)")
        }
    }
}
