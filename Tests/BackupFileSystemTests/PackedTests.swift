import Glibc
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// What only the packed layout has, seen through the mount and the command line.
@Suite(.serialized) struct PackedTests {
    private static let arguments = ["--layout", "packed", "--segment", "1M"]

    private func backupfs(_ arguments: [String]) throws -> ProgramResult { try runProgram(Machine.program("backupfs"), arguments) }

    @Test func wrongValuesAreUsageAndNameWhatIsRight() throws {
        let scratch = try ScratchDirectory()
        let start = [scratch.path, "--store", scratch.path]
        for (wrong, says) in [
            (["--layout", "flat"], "raw or packed"), (["--codec", "gzip"], "lz4"), (["--codec", "zstd:99"], "zstd"),
            (["--segment", "3M"], "power of two"), (["--segment", "512K"], "power of two"), (["--age", "0"], "seconds"),
            (["--write-budget", "much"], "20G"), (["--layout", "raw", "--codec", "lz4"], "--layout packed"),
            (["--layout", "raw", "--store", "/tmp"], "one --store"),
        ] {
            let result = try backupfs(start + wrong)
            #expect(result.ending == .exited(64) && result.errors.contains(says), "\(wrong): \(result.errors)")
        }
    }

    @Test func aStoreOfTheOtherLayoutIsRefusedAndLeftAsItIs() throws {
        let scratch = try ScratchDirectory()
        for (made, other) in [("raw", "packed"), ("packed", "raw")] {
            let store = scratch.file(made)
            try Files.makeDirectory(store)
            try withBackupFileSystem(store: store, arguments: ["--layout", made]) { server in
                let layout = try server.statistic("layout")
                #expect(layout == made)
            }
            try Files.makeDirectory(scratch.file("mount-\(made)"))
            let refused = try backupfs([scratch.file("mount-\(made)"), "--store", store, "--layout", other])
            #expect(refused.ending == .exited(65))
            #expect(refused.errors.contains("holds a store of layout '\(made)'") && refused.errors.contains("--layout \(made)"))
            // Without being told, it is what it was.
            try withBackupFileSystem(store: store) { server in
                let layout = try server.statistic("layout")
                #expect(layout == made)
            }
        }
    }

    @Test func factsAreTrueAndAddUp() throws {
        try withMount(.packed) { server in
            let data = try server.makeObject(4, sizeBytes: 1000 * page)
            let text = (0..<page).map { UInt8(truncatingIfNeeded: $0 / 64) }
            try write(text, to: data.number, at: 0)
            try write(PagePattern(seed: 1).page(0, zeroEvery: 0), to: data.number, at: 5 * page)
            try write([UInt8](repeating: 7, count: page), to: data.number, at: 6 * page)
            try write([UInt8](repeating: 0, count: page), to: data.number, at: 8 * page)
            #expect(try server.names("objects/4/pages").sorted() == ["0", "5", "6"])
            #expect(try Files.nextData(data.number, from: 7 * page) == nil)
            func fact(_ name: String, _ index: Int) throws -> String? {
                try server.attribute("user.shrinkd." + name, of: "objects/4/pages/\(index)")
            }
            #expect(try fact("codec", 0) == "lz4" && fact("codec", 5) == "plain" && fact("codec", 6) == "same")
            #expect(try fact("handle", 6) == "7" && fact("tier", 5) == "0")
            #expect(try fact("checksum", 0)?.count == 8 && fact("checksum", 0) != fact("checksum", 5))
            let stored = try [0, 5, 6].map { Int(try fact("stored_bytes", $0) ?? "") ?? -1 }
            #expect(stored[0] > 0 && stored[0] < page / 4 && stored[1] >= page && stored[2] == 0)
            for (i, index) in [0, 5, 6].enumerated() {
                let status = try Files.status(of: server.file("objects/4/pages/\(index)"))
                #expect(status.sizeBytes == page && status.allocatedBytes == (stored[i] + 511) / 512 * 512)
            }
            let sum = stored.reduce(0, +)
            #expect(try ExtendedAttributes.value("user.shrinkd.stored_bytes", of: data.number) == Array(String(sum).utf8))
            #expect(try server.statistic("stored_bytes") == String(sum) && server.statistic("tier.0.stored_bytes") == String(sum))
            #expect(try server.statistic("pages") == "3" && server.statistic("pages_by_tier") == "3")
            #expect(try server.statistic("tier.0.kind") == "memory" || !Machine.isRoot)
            #expect(try server.statistic("zero_pages") == "holes")
            let info = String(decoding: try Files.contents(of: server.file("objects/4/info")), as: UTF8.self)
            #expect(info.contains("\"pages\" : 3") && info.contains("\"stored_bytes\" : \(sum)"))
            let snapshot = try Files.contents(of: server.file("objects/4/pages/6"))
            #expect(snapshot == [UInt8](repeating: 7, count: page))
        }
    }

    /// Pages go to the second directory by a durable write, by fsync and by age, and are read from there.
    @Test func pagesGoToTheNextTierThreeWays() throws {
        let below = try ScratchDirectory()
        let memory = Machine.isRoot ? try ScratchMemoryFileSystem(sizeBytes: 64 << 20) : nil
        let pattern = PagePattern(seed: testSeed("tiers"))
        let two = Self.arguments + ["--store", below.path, "--age", "1"]
        try withExtendedLifetime((below, memory)) {
            try withBackupFileSystem(store: memory?.path, arguments: two) { server in
                let data = try server.makeObject(1, sizeBytes: 64 * page)
                func tier(_ index: Int) throws -> String? { try server.attribute("user.shrinkd.tier", of: "objects/1/pages/\(index)") }
                try write(pattern.page(1, zeroEvery: 0), to: data.number, at: page, .dataSync)
                #expect(try tier(1) == "1")
                try write(pattern.page(2, zeroEvery: 0), to: data.number, at: 2 * page)
                try Files.sync(data.number)
                #expect(try tier(2) == "1")
                try write(pattern.page(3, zeroEvery: 0), to: data.number, at: 3 * page)
                let limit = MonotonicTime.now().advanced(milliseconds: 20_000)
                while try tier(3) == "0", MonotonicTime.now() < limit { usleep(50_000) }
                #expect(try tier(3) == "1")
                for index in 1...3 {
                    #expect(try read(data.number, at: index * page, count: page) == pattern.page(index, zeroEvery: 0))
                }
                #expect(try server.statistic("pages_by_tier") == "0 3")
                #expect(try server.statistic("tier.1.path") == Files.resolved(below.path))
                #expect(try server.statistic("tier.1.kind") == "disk")
                let info = String(decoding: try Files.contents(of: server.file("objects/1/info")), as: UTF8.self)
                #expect(info.contains("\"pages_by_tier\" : [\n    0,\n    3\n  ]"), "\(info)")
            }
        }
    }

    @Test func aSecondTierInMemoryIsRefused() throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "a tier in memory is not tested") }
        let scratch = try ScratchDirectory()
        let memory = try ScratchMemoryFileSystem(sizeBytes: 1 << 20)
        try Files.makeDirectory(scratch.file("mount"))
        try Files.makeDirectory(scratch.file("store"))
        try withExtendedLifetime(memory) {
            let result = try backupfs([
                scratch.file("mount"), "--store", scratch.file("store"), "--store", memory.path, "--layout", "packed",
            ])
            #expect(result.ending == .exited(69) && result.errors.contains("lies in memory"), "\(result.errors)")
        }
    }

    /// A store filled with what is then overwritten and punched goes on taking pages: the cleaner frees what is dead.
    @Test func aFullStoreTakesPagesAgainWhenOthersGo() throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "a full store is not tested") }
        let memory = try ScratchMemoryFileSystem(sizeBytes: 16 << 20)
        let pattern = PagePattern(seed: testSeed("full"))
        try withExtendedLifetime(memory) {
            try withBackupFileSystem(store: memory.path, arguments: Self.arguments) { server in
                let data = try server.makeObject(1, sizeBytes: 64 << 20)
                var stored = 0
                while stored < 16384 {
                    let written = pattern.page(stored, zeroEvery: 0).withUnsafeBytes { Files.write(data.number, $0, at: stored * page) }
                    if let error = written.error {
                        #expect(error == .noSpace)
                        break
                    }
                    stored += 1
                }
                #expect(stored > 3000 && stored < 4096)
                // Two of three go, so every segment is mostly dead and none is empty.
                for index in 0..<stored where index % 3 != 0 { try Files.punch(data.number, at: index * page, length: page) }
                let more = stored / 2
                for index in stored..<stored + more { try write(pattern.page(index, zeroEvery: 0), to: data.number, at: index * page) }
                for index in (0..<stored).filter({ $0 % 3 == 0 }) + Array(stored..<stored + more) {
                    let found = try read(data.number, at: index * page, count: page)
                    if found != pattern.page(index, zeroEvery: 0) {
                        Issue.record("page \(index) differs")
                        break
                    }
                }
                #expect(Int(try server.statistic("cleaned_segments") ?? "") ?? 0 > 0)
            }
        }
    }

    @Test func checkFindsAFlippedBitAndRepairDropsThatPageAlone() throws {
        let scratch = try ScratchDirectory()
        let store = scratch.file("store")
        try Files.makeDirectory(store)
        let pattern = PagePattern(seed: 9)
        try withBackupFileSystem(store: store, arguments: Self.arguments) { server in
            let data = try server.makeObject(1, sizeBytes: 8 * page)
            for index in 0..<8 { try write(pattern.page(index, zeroEvery: 0), to: data.number, at: index * page) }
            #expect(try backupfs(["check", store]).ending == .exited(69))
            #expect(try server.stop() == .exited(0))
        }
        let clean = try backupfs(["check", store])
        #expect(clean.ending == .exited(0) && clean.output.contains("8 pages"), "\(clean.output)\(clean.errors)")

        // The pages are random and stored plain, one block each: a byte of the third is changed where it lies.
        let segments = try Files.open(store + "/segments", [.readOnly, .directory])
        var changed = false
        var names: [String] = []
        try Files.forEachName(in: segments.number) { names.append($0) }
        for name in names where Int(name) != nil {
            let segment = try Files.open(name, .readWrite, at: segments.number)
            let bytes = try read(segment.number, at: 0, count: 1 << 20)
            let wanted = pattern.page(2, zeroEvery: 0)
            if let at = (0..<max(0, bytes.count - page)).first(where: {
                bytes[$0] == wanted[0] && bytes[$0..<$0 + page].elementsEqual(wanted)
            }) {
                try write([bytes[at + 100] ^ 4], to: segment.number, at: at + 100)
                changed = true
            }
        }
        #expect(changed)
        let bad = try backupfs(["check", store])
        #expect(bad.ending == .exited(1) && bad.output.contains("object 1 page 2"), "\(bad.output)")
        try withBackupFileSystem(store: store) { server in
            let data = try Files.open(server.file("objects/1/data"), .readWrite)
            #expect(throws: Errno.ioError) { try read(data.number, at: 2 * page, count: page) }
            #expect(openError(server.file("objects/1/pages/2"), .readOnly) == .ioError)
            #expect(try read(data.number, at: 3 * page, count: page) == pattern.page(3, zeroEvery: 0))
            #expect(Int(try server.statistic("checksum_errors") ?? "") ?? 0 > 0)
        }
        // Nobody can answer here.
        #expect(try backupfs(["check", store, "--repair"]).ending == .exited(64))
        #expect(try backupfs(["check", store, "--repair", "--yes"]).ending == .exited(0))
        let after = try backupfs(["check", store])
        #expect(after.ending == .exited(0) && after.output.contains("7 pages"), "\(after.output)")
    }
}
