import Glibc
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@Suite(.serialized) struct DataTests {
    @Test(arguments: DataPath.allCases) func aReCreatedDataSharesNothingWithDescriptorsOfTheOldOne(_ path: DataPath) throws {
        try withMount(path) { server in
            let old = try server.makeObject(1, sizeBytes: 8 * page)
            try write([UInt8](repeating: 1, count: 2 * page), to: old.number, at: 0)
            for round in 2...4 as ClosedRange<UInt8> {
                try Files.remove(server.file("objects/1/data"))
                if round == 2 { #expect(try Files.nextData(old.number, from: 0) == nil) }
                let new = try Files.open(server.file("objects/1/data"), [.readWrite, .create])
                try write([UInt8](repeating: round, count: page), to: new.number, at: 0)
                #expect(throws: Errno.ioError) { try read(old.number, at: 0, count: page) }
                #expect(throws: Errno.ioError) { try write([9], to: old.number, at: 0) }
                #expect(throws: Errno.ioError) { try Files.nextData(old.number, from: 0) }
                #expect(throws: Errno.ioError) { try Files.punch(old.number, at: 0, length: page) }
                #expect(try read(new.number, at: 0, count: 2 * page) == [UInt8](repeating: round, count: page))
                #expect(try Files.status(of: server.file("objects/1/data")).sizeBytes == page)
            }
        }
    }

    @Test(arguments: DataPath.allCases) func holesAreExactToThePage(_ path: DataPath) throws {
        try withMount(path) { server in
            let data = try server.makeObject(1, sizeBytes: 100 * page)
            #expect(try Files.nextData(data.number, from: 0) == nil)
            #expect(try Files.nextHole(data.number, from: 0) == 0)
            try write([UInt8](repeating: 1, count: 3 * page), to: data.number, at: 10 * page)
            try write([1], to: data.number, at: 50 * page + 7)
            let content = try Files.open(server.file("objects/1/content"), .readOnly)
            for file in [data.number, content.number] {
                #expect(try Files.nextData(file, from: 0) == 10 * page)
                #expect(try Files.nextData(file, from: 10 * page + 5) == 10 * page + 5)
                #expect(try Files.nextHole(file, from: 10 * page) == 13 * page)
                #expect(try Files.nextHole(file, from: 13 * page + 1) == 13 * page + 1)
                #expect(try Files.nextData(file, from: 13 * page) == 50 * page)
                #expect(try Files.nextHole(file, from: 50 * page) == 51 * page)
                #expect(try Files.nextData(file, from: 51 * page) == nil)
                #expect(try Files.nextHole(file, from: 99 * page) == 99 * page)
                #expect(try Files.nextHole(file, from: 100 * page) == nil)
                #expect(try Files.nextData(file, from: 100 * page) == nil)
                #expect(lseek(file, 0, SEEK_END) == 100 * page)
            }
        }
    }

    @Test(arguments: DataPath.allCases) func punchingZeroesPartsAndDropsWholePages(_ path: DataPath) throws {
        try withMount(path) { server in
            let data = try server.makeObject(1, sizeBytes: 16 * page)
            try write([UInt8](repeating: 7, count: 8 * page), to: data.number, at: 0)
            try Files.punch(data.number, at: page + 100, length: 3 * page)
            #expect(try server.names("objects/1/pages").sorted() == ["0", "1", "4", "5", "6", "7"])
            let bytes = try read(data.number, at: 0, count: 8 * page)
            for (i, byte) in bytes.enumerated() {
                let punched = i >= page + 100 && i < 4 * page + 100
                if byte != (punched ? 0 : 7) {
                    Issue.record("byte \(i) is \(byte)")
                    break
                }
            }
            // A part of a hole stays a hole.
            try Files.punch(data.number, at: 10 * page + 1, length: 10)
            #expect(try Files.nextData(data.number, from: 8 * page) == nil)
            #expect(try Files.status(data.number).sizeBytes == 16 * page)
            // Beyond the end nothing happens.
            try Files.punch(data.number, at: 100 * page, length: page)
            #expect(try Files.status(data.number).sizeBytes == 16 * page)
        }
    }

    @Test(arguments: DataPath.allCases) func zeroRangeGrowsOnlyWhenAskedTo(_ path: DataPath) throws {
        try withMount(path) { server in
            let data = try server.makeObject(1, sizeBytes: 2 * page)
            try write([UInt8](repeating: 7, count: 2 * page), to: data.number, at: 0)
            let (zeroRange, keepSize): (CInt, CInt) = (16, 1)
            try Files.allocate(data.number, mode: zeroRange | keepSize, at: page, length: 10 * page)
            #expect(try Files.status(data.number).sizeBytes == 2 * page)
            #expect(try read(data.number, at: page, count: 2 * page) == [UInt8](repeating: 0, count: page))
            try Files.allocate(data.number, mode: zeroRange, at: page, length: 4 * page + 1)
            #expect(try Files.status(data.number).sizeBytes == 5 * page + 1)
            for mode: CInt in [0, keepSize, 8, 32] {
                #expect(throws: Errno.notSupported, "mode \(mode)") { try Files.allocate(data.number, mode: mode, at: 0, length: page) }
            }
        }
    }

    @Test(arguments: DataPath.allCases) func theEndIsWhereTheSizeIs(_ path: DataPath) throws {
        try withMount(path) { server in
            let data = try server.makeObject(1)
            #expect(try read(data.number, at: 0, count: 10).isEmpty)
            try write([1, 2, 3], to: data.number, at: page - 1)
            #expect(try Files.status(data.number).sizeBytes == page + 2)
            #expect(try read(data.number, at: page - 2, count: 100) == [0, 1, 2, 3])
            #expect(try read(data.number, at: page + 2, count: 100).isEmpty)
            #expect(try read(data.number, at: 1 << 40, count: 100).isEmpty)
            // What is cut off does not come back.
            try Files.truncate(data.number, to: page)
            try Files.truncate(data.number, to: 3 * page)
            #expect(try read(data.number, at: page - 1, count: 4) == [1, 0, 0, 0])
            #expect(try Files.nextHole(data.number, from: 0) == page)
            try Files.truncate(data.number, to: 0)
            #expect(try server.names("objects/1/pages").isEmpty)
            let shortened = try Files.open(server.file("objects/1/data"), [.readWrite, .truncate])
            #expect(try Files.status(shortened.number).sizeBytes == 0)
        }
    }

    @Test(arguments: DataPath.allCases) func sizesAndOffsetsBeyondTheLimitAreRefused(_ path: DataPath) throws {
        try withMount(path) { server in
            let data = try server.makeObject(1)
            let limit = 1 << 40
            try Files.truncate(data.number, to: limit)
            #expect(throws: Errno.fileTooLarge) { try Files.truncate(data.number, to: limit + 1) }
            #expect(throws: Errno.fileTooLarge) { try Files.truncate(data.number, to: Int.max) }
            #expect(throws: Errno.invalidArgument) { try Files.truncate(data.number, to: -1) }
            #expect(throws: Errno.fileTooLarge) { try Files.allocate(data.number, mode: 16, at: limit, length: 1) }
            try Files.punch(data.number, at: limit - page, length: Int.max - limit)
            try write([4], to: data.number, at: limit - 1)
            #expect(try read(data.number, at: limit - 1, count: 5) == [4])
            #expect(try server.names("objects/1/pages") == ["268435455"])
            if path != .passthrough {
                var byte: UInt8 = 1
                #expect(pwrite(data.number, &byte, 1, limit) == -1 && errno == EFBIG)
                #expect(pwrite(data.number, &byte, 1, Int.max - 1) == -1 && errno == EFBIG)
            }
        }
    }

    @Test(arguments: DataPath.allCases) func largeAndOddTransfersArriveWhole(_ path: DataPath) throws {
        try withMount(path) { server in
            let data = try server.makeObject(1, sizeBytes: 0)
            var generator = SeededGenerator(seed: testSeed("transfers"))
            for (count, offset) in [(1 << 20, 0), ((3 << 20) + 5, 4097), (1, 10 << 20), (8193, (12 << 20) - 3)] {
                var bytes = [UInt8](repeating: 0, count: count)
                for i in bytes.indices { bytes[i] = UInt8.random(in: 1...255, using: &generator) }
                try write(bytes, to: data.number, at: offset)
                #expect(try read(data.number, at: offset, count: count) == bytes)
                let content = try Files.open(server.file("objects/1/content"), .readOnly)
                #expect(try read(content.number, at: offset, count: count) == bytes)
            }
        }
    }

    @Test(arguments: DataPath.allCases) func durableWritesAndFsyncSucceed(_ path: DataPath) throws {
        try withMount(path) { server in
            let data = try server.makeObject(1)
            try write([UInt8](repeating: 3, count: page), to: data.number, at: 0, .dataSync)
            try Files.sync(data.number)
            try Files.sync(data.number, dataOnly: true)
            let direct = try Files.open(server.file("objects/1/data"), [.readWrite, .direct])
            let memory = try MappedMemory(anonymous: page, populated: true)
            memory.bytes.initializeMemory(as: UInt8.self, repeating: 9)
            let written = Files.write(direct.number, UnsafeRawBufferPointer(memory.bytes), at: page, .dataSync)
            #expect(written.bytes == page && written.error == nil)
            #expect(try read(data.number, at: page, count: page) == [UInt8](repeating: 9, count: page))
        }
    }

    @Test func withPassthroughBytesDoNotReachTheServerAndWithoutTheyDo() throws {
        for path in DataPath.allCases {
            try withMount(path) { server in
                if path == .passthrough, let reason = try server.reasonAgainstPassthrough() {
                    return Machine.lacks("FUSE passthrough (\(reason))", so: "data goes through the server in all tests")
                }
                let data = try server.makeObject(1, sizeBytes: 64 * page)
                let second = try Files.open(server.file("objects/1/data"), .readWrite)
                #expect(try server.statistic("open.passthrough") == (path == .passthrough ? "2" : "0"))
                let before = (try server.statistic("requests.read"), try server.statistic("requests.write"))
                for i in 0..<64 {
                    try write([UInt8](repeating: UInt8(i), count: page), to: data.number, at: i * page)
                    #expect(try read(second.number, at: i * page, count: 1) == [UInt8(i)])
                }
                let after = (try server.statistic("requests.read"), try server.statistic("requests.write"))
                let writes = (Int(after.1 ?? "") ?? 0) - (Int(before.1 ?? "") ?? 0)
                let reads = (Int(after.0 ?? "") ?? 0) - (Int(before.0 ?? "") ?? 0)
                // Reading stats takes reads of its own: two for each of the three looks at it.
                #expect(writes == (path == .passthrough ? 0 : 64))
                #expect(path == .passthrough ? reads < 10 : reads >= 64)
            }
        }
    }

    @Test func registrationsAreGivenBackWhenFilesClose() throws {
        try withMount { server in
            if try server.reasonAgainstPassthrough() != nil { return }
            let data = try server.makeObject(1, sizeBytes: page)
            for _ in 0..<200 { _ = try Files.open(server.file("objects/1/data"), .readWrite) }
            try write([1], to: data.number, at: 0)
            // RELEASE comes a moment after close(2).
            var open: String?
            for _ in 0..<1000 {
                open = try server.statistic("open.passthrough")
                if open == "1" { break }
            }
            #expect(open == "1")
        }
    }

    @Test(arguments: DataPath.allCases) func aFullStoreSaysSoAndLosesNothing(_ path: DataPath) throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "a full store is not tested") }
        // A packed store keeps one segment in reserve and allocates a run ahead of each writer; what else it takes beside the pages is little.
        let storePages = path == .packed ? 2048 : 512
        let memory = try ScratchMemoryFileSystem(sizeBytes: storePages * page)
        try withExtendedLifetime(memory) {
            try withBackupFileSystem(store: memory.path, arguments: path.arguments) { server in
                let data = try server.makeObject(1, sizeBytes: 16 << 20)
                let pattern = PagePattern(seed: 4)
                var stored = 0
                while stored < 4096 {
                    let bytes = pattern.page(stored, zeroEvery: 0)
                    let written = bytes.withUnsafeBytes { Files.write(data.number, $0, at: stored * page) }
                    if let error = written.error {
                        #expect(error == .noSpace)
                        break
                    }
                    stored += 1
                }
                #expect(stored > (path == .packed ? storePages / 2 : 400) && stored < storePages, "\(stored) pages")
                for i in 0..<stored { #expect(try read(data.number, at: i * page, count: page) == pattern.page(i, zeroEvery: 0)) }
                // Of a packed store whole segments come free: by compacting, where that gains one.
                try Files.punch(data.number, at: 0, length: path == .packed ? stored / 2 * page : page)
                try write(pattern.page(4000, zeroEvery: 0), to: data.number, at: 4000 * page)
            }
        }
    }

    @Test func statfsTellsTheStoresRoom() throws {
        guard Machine.isRoot else { return }
        let memory = try ScratchMemoryFileSystem(sizeBytes: 64 << 20)
        try withExtendedLifetime(memory) {
            try withBackupFileSystem(store: memory.path) { server in
                let root = try Files.open(server.mountPoint, [.readOnly, .directory])
                let before = try FileSystem(of: root.number)
                #expect(before.kind == .fuse && before.totalBytes == 64 << 20)
                let data = try server.makeObject(1)
                try write([UInt8](repeating: 1, count: 16 << 20), to: data.number, at: 0)
                let after = try FileSystem(of: root.number)
                #expect(before.availableBytes - after.availableBytes >= 16 << 20)
                #expect(try server.statistic("first_tier") == "memory")
            }
        }
    }
}
