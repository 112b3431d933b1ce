import Glibc
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// What becomes of a store that somebody or something damages while it is served.
@Suite(.serialized) struct DamageTests {
    private func withPacked(_ body: (BackupFileSystemProcess) throws -> Void) throws {
        let memory = Machine.isRoot ? try ScratchMemoryFileSystem(sizeBytes: 256 << 20) : nil
        try withExtendedLifetime(memory) {
            try withBackupFileSystem(store: memory?.path, arguments: ["--layout", "packed", "--segment", "1M"], body)
        }
    }

    private func segments(_ server: BackupFileSystemProcess) throws -> [String] {
        var names: [String] = []
        try Files.forEachName(in: try Files.open(server.storeDirectory + "/segments", [.readOnly, .directory]).number) { names.append($0) }
        return names.sorted().map { server.storeDirectory + "/segments/" + $0 }
    }

    /// Pages of the object by what reading each gives: right, EIO, or something else, which must not be.
    private func outcomes(_ server: BackupFileSystemProcess, _ pages: Int, _ pattern: PagePattern) throws -> (
        right: Int, failed: [Int], wrong: [Int]
    ) {
        let data = try Files.open(server.file("objects/1/data"), .readWrite)
        var (right, failed, wrong): (Int, [Int], [Int]) = (0, [], [])
        for index in 0..<pages {
            var bytes = [UInt8](repeating: 0xee, count: page)
            do throws(Errno) {
                let count = try bytes.withMutableBytes { (b) throws(Errno) in try Files.read(data.number, into: b, at: index * page) }
                if count == page, bytes == pattern.page(index, zeroEvery: 0) { right += 1 } else { wrong.append(index) }
            } catch {
                if error == .ioError { failed.append(index) } else { wrong.append(index) }
            }
        }
        return (right, failed, wrong)
    }

    @Test func flippedBitsUnderAServedStoreAreErrorsOfTheirPagesAlone() throws {
        let seed = testSeed("damage")
        let pattern = PagePattern(seed: seed)
        var chance = SeededGenerator(seed: seed)
        try withPacked { server in
            let pages = 600
            do {
                let data = try server.makeObject(1, sizeBytes: pages * page)
                for index in 0..<pages { try write(pattern.page(index, zeroEvery: 0), to: data.number, at: index * page) }
            }
            #expect(try outcomes(server, pages, pattern).right == pages)
            let all = try segments(server)
            #expect(all.count > 1)
            // Ten bits, each in another part of the first segment.
            let segment = try Files.open(all[0], .readWrite)
            for i in 0..<10 {
                let offset = 4096 + i * 90_000 + Int(chance.next() % 80_000)
                var byte: [UInt8] = [0]
                _ = try byte.withUnsafeMutableBytes { try Files.read(segment.number, into: $0, at: offset) }
                byte[0] ^= 1 << UInt8(chance.next() % 8)
                try write(byte, to: segment.number, at: offset)
            }
            let found = try outcomes(server, pages, pattern)
            #expect(found.wrong.isEmpty, "never wrong bytes, never zeros")
            #expect(!found.failed.isEmpty && found.failed.count <= 10 * 16, "\(found.failed.count) pages fail")
            #expect(found.right + found.failed.count == pages)
            for index in found.failed.prefix(3) {
                #expect(openError(server.file("objects/1/pages/\(index)"), .readOnly) == .ioError, "page files tell the same")
            }
            #expect(try #require(Int(try server.statistic("checksum_errors") ?? "")) > 0)
            #expect(try #require(Int(try server.statistic("errors.store") ?? "")) >= found.failed.count)
            // What is written anew is whole again.
            let data = try Files.open(server.file("objects/1/data"), .readWrite)
            for index in found.failed { try write(pattern.page(index, zeroEvery: 0), to: data.number, at: index * page) }
            #expect(try outcomes(server, pages, pattern).right == pages)
        }
    }

    /// The server has its segments open, so a name that is taken away takes no bytes with it; new pages go on.
    @Test func aSegmentRemovedUnderneathHarmsAtMostItsPages() throws {
        let pattern = PagePattern(seed: testSeed("removed segment"))
        try withPacked { server in
            let pages = 600
            do {
                let data = try server.makeObject(1, sizeBytes: 2 * pages * page)
                for index in 0..<pages { try write(pattern.page(index, zeroEvery: 0), to: data.number, at: index * page) }
            }
            try Files.remove(try segments(server)[0])
            let found = try outcomes(server, pages, pattern)
            #expect(found.wrong.isEmpty)
            let data = try Files.open(server.file("objects/1/data"), .readWrite)
            for index in pages..<pages + 50 { try write(pattern.page(index, zeroEvery: 0), to: data.number, at: index * page) }
            let last = pages + 49
            #expect(try read(data.number, at: last * page, count: page) == pattern.page(last, zeroEvery: 0))
        }
    }

    @Test(arguments: ["raw", "packed"]) func offsetsBeyondTheLargestObjectAreRefused(_ layout: String) throws {
        try withBackupFileSystem(arguments: ["--layout", layout]) { server in
            let data = try server.makeObject(1, sizeBytes: page)
            try write([1], to: data.number, at: 0)
            let limit = 1 << 40
            for offset in [limit, Int.max - 4096, Int.max] {
                let written = [UInt8(1)].withUnsafeBytes { Files.write(data.number, $0, at: offset) }
                #expect(written.bytes == 0 && [.fileTooLarge, .invalidArgument].contains(written.error), "\(offset): \(written)")
            }
            #expect(throws: Errno.fileTooLarge) { try Files.truncate(data.number, to: limit + 1) }
            #expect(throws: Errno.fileTooLarge) { try Files.truncate(data.number, to: Int.max) }
            #expect(throws: Errno.invalidArgument) { try Files.truncate(data.number, to: -1) }
            // Punching where nothing can be is nothing.
            try Files.punch(data.number, at: limit, length: page)
            #expect(try Files.nextData(data.number, from: 0) == 0)
            #expect(try read(data.number, at: limit, count: 1).isEmpty)
            #expect(try Files.status(data.number).sizeBytes == page)
        }
    }
}
