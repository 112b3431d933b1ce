import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// Files of a packed store that somebody cuts short under a server that has them mapped: errors of what was in them, and the server lives.
@Suite(.serialized) struct CutShortTests {
    private static let arguments = ["--layout", "packed", "--segment", "1M"]
    private static let pages = 1024

    /// How many of the pages read as errors; all others must be right.
    private func errors(_ data: CInt, _ pattern: PagePattern) throws -> Int {
        var errors = 0
        for index in 0..<Self.pages {
            do {
                let found = try read(data, at: index * page, count: page)
                if found != pattern.page(index, zeroEvery: 0) { Issue.record("page \(index) is not as written") }
            } catch {
                try #require(error as? Errno == .ioError, "\(error)")
                errors += 1
            }
        }
        return errors
    }

    private func cut(_ path: String, to bytes: Int) throws {
        let file = try Files.open(path, .readWrite)
        try Files.truncate(file.number, to: bytes)
    }

    @Test func aSegment() throws {
        guard Machine.isRoot else {
            return Machine.lacks("root", so: "no tmpfs of a test's own: mapped segments that are cut short are not tested")
        }
        let memory = try ScratchMemoryFileSystem(sizeBytes: 64 << 20)
        let pattern = PagePattern(seed: testSeed("cut segment"))
        try withExtendedLifetime(memory) {
            try withBackupFileSystem(store: memory.path, arguments: Self.arguments) { server in
                let data = try server.makeObject(1, sizeBytes: Self.pages * page)
                for index in 0..<Self.pages { try write(pattern.page(index, zeroEvery: 0), to: data.number, at: index * page) }
                #expect(try errors(data.number, pattern) == 0)
                let mapped = try #require(Int(try server.statistic("mapped_segments") ?? ""))
                #expect(mapped > 3)

                let segments = try Files.open(memory.path + "/segments", [.readOnly, .directory])
                var names: [String] = []
                try Files.forEachName(in: segments.number) { names.append($0) }
                let full = try #require(try names.first { try Files.status(of: $0, at: segments.number).sizeBytes > 900 << 10 })
                try cut(memory.path + "/segments/" + full, to: 4096)
                let lost = try errors(data.number, pattern)
                #expect(lost > 200 && lost < 300)
                #expect(try errors(data.number, pattern) == lost)
                #expect(Int(try server.statistic("mapped_segments") ?? "") == mapped - 1)
                #expect(Int(try server.statistic("checksum_errors") ?? "") ?? 0 >= lost)
                for index in 0..<Self.pages { try write(pattern.page(index, zeroEvery: 0), to: data.number, at: index * page) }
                #expect(try errors(data.number, pattern) == 0)
                #expect(try server.stop() == .exited(0))
            }
        }
    }

    @Test func anIndex() throws {
        let scratch = try ScratchDirectory()
        let pattern = PagePattern(seed: testSeed("cut index"))
        try withBackupFileSystem(store: scratch.path, arguments: Self.arguments) { server in
            let data = try server.makeObject(1, sizeBytes: Self.pages * page)
            let other = try server.makeObject(2, sizeBytes: Self.pages * page)
            for index in 0..<Self.pages {
                try write(pattern.page(index, zeroEvery: 0), to: data.number, at: index * page)
                try write(pattern.page(index, zeroEvery: 0), to: other.number, at: index * page)
            }
            try cut(scratch.path + "/objects/1", to: 8192)
            let lost = try errors(data.number, pattern)
            #expect(lost > 500 && lost < Self.pages)
            #expect(try errors(other.number, pattern) == 0)
            #expect(try server.stop() == .exited(0))
        }
    }
}
