import ShrinkLinux
import Synchronization
import SystemPackage
import TestSupport
import Testing

@testable import PageStore

/// A flipped bit is an error of the pages it touches: never other bytes, never zeros, never a hole.
@Suite struct PackedIntegrityTests {
    static let pages = 200

    private static func options() -> PackedOptions {
        var options = PackedOptions()
        options.segmentBytes = 1 << 20
        options.runsInBackground = false
        return options
    }

    /// Compressible, filled, random pages and holes.
    private static func content(_ page: Int, _ seed: UInt64) -> [UInt8]? {
        var generator = SeededGenerator(seed: seed &+ UInt64(page) &* 977)
        switch generator.next() % 6 {
        case 0: return nil
        case 1: return [UInt8](repeating: UInt8(truncatingIfNeeded: generator.next()) | 1, count: basePageSize)
        case 2: return (0..<basePageSize).map { _ in UInt8(truncatingIfNeeded: generator.next()) }
        default:
            let word = generator.next()
            return (0..<basePageSize).map { i -> UInt8 in
                let repeated = UInt8(truncatingIfNeeded: word >> UInt64(i % 8 * 8))
                return i % 16 < 8 ? repeated : UInt8(i / 32)
            }
        }
    }

    private static func fill(_ path: String, _ seed: UInt64) throws {
        let store = try PackedStore(directories: [path], options: options())
        for number in 1...2 as ClosedRange<UInt32> {
            let object = try store.create(try #require(StoredObjectID(rawValue: number)))
            try object.setSize(pages * basePageSize)
            for page in 0..<pages {
                guard let bytes = content(page, seed &+ UInt64(number)) else { continue }
                _ = try bytes.withBytes { buffer throws(Errno) in try object.write(buffer, at: page * basePageSize, .buffered) }
            }
            // Runs, for blocks of several pages.
            for page in stride(from: 0, to: pages - 16, by: 40) {
                let run = (page..<page + 16).flatMap { content($0, seed &+ UInt64(number)) ?? [UInt8](repeating: 0, count: basePageSize) }
                _ = try run.withBytes { buffer throws(Errno) in try object.write(buffer, at: page * basePageSize, .buffered) }
                for hole in page..<page + 16 where content(hole, seed &+ UInt64(number)) == nil {
                    try object.punch(at: hole * basePageSize, length: basePageSize)
                }
            }
        }
        store.close()
    }

    /// Pages that read as errors; anything that reads otherwise must be right.
    private static func errors(_ path: String, _ seed: UInt64, _ what: String) throws -> Set<Int> {
        let store = try PackedStore(directories: [path], options: options())
        var bad: Set<Int> = []
        for number in 1...2 as ClosedRange<UInt32> {
            let object = try #require(try find(store, number), "\(what): object \(number) is gone")
            try #require(object.attributes.sizeBytes == pages * basePageSize, "\(what)")
            for page in 0..<pages {
                var bytes = [UInt8](repeating: 0x55, count: basePageSize)
                do throws(Errno) {
                    _ = try bytes.withMutableBytes { buffer throws(Errno) in try object.read(into: buffer, at: page * basePageSize) }
                    let expected = content(page, seed &+ UInt64(number))
                    let isThere = try object.nextData(from: page * basePageSize) == page * basePageSize
                    if bytes != expected ?? [UInt8](repeating: 0, count: basePageSize) || isThere != (expected != nil) {
                        Issue.record("\(what): object \(number) page \(page) is \(isThere ? "there with" : "a hole with") other bytes")
                    }
                } catch {
                    if error != .ioError { Issue.record("\(what): \(error)") }
                    bad.insert(Int(number) << 32 | page)
                }
            }
        }
        if bad.isEmpty
            == (store.core.counters.checksumErrors.load(ordering: .relaxed) + store.core.counters.damagedEntries.load(ordering: .relaxed)
                > 0)
        {
            Issue.record("\(what): the counters don't tell of \(bad.count) errors")
        }
        return bad
    }

    @Test func aFlippedBitAnywhereIsAnErrorOfThePagesItTouchesOnly() throws {
        let seed = testSeed("packed integrity")
        var generator = SeededGenerator(seed: seed)
        let directory = try ScratchDirectory()
        try Self.fill(directory.path, seed)
        try #require(try Self.errors(directory.path, seed, "intact").isEmpty)

        var files: [(name: String, bytes: Int)] = []
        for folder in ["segments", "objects"] {
            let handle = try Files.open(directory.file(folder), [.readOnly, .directory])
            var names: [String] = []
            try Files.forEachName(in: handle.number) { names.append($0) }
            for name in names { files.append((folder + "/" + name, try Files.status(of: directory.file(folder + "/" + name)).sizeBytes)) }
        }
        var touched = 0
        for round in 0..<60 {
            // Indexes are small: as often as segments, all the same.
            let kind = round % 2 == 0 ? "segments" : "objects"
            let candidates = files.filter { $0.name.hasPrefix(kind) }
            let file = candidates[Int(generator.next() % UInt64(candidates.count))]
            let offset = Int(generator.next() % UInt64(file.bytes))
            let bit = UInt8(1) << UInt8(generator.next() % 8)
            let handle = try Files.open(directory.file(file.name), .readWrite)
            func flip() throws {
                var byte: [UInt8] = [0]
                _ = try byte.withMutableBytes { buffer throws(Errno) in try Files.read(handle.number, into: buffer, at: offset) }
                byte[0] ^= bit
                _ = byte.withUnsafeBytes { Files.write(handle.number, $0, at: offset) }
            }
            try flip()
            let what = "bit \(bit) of byte \(offset) in \(file.name), seed \(seed)"
            let bad = try Self.errors(directory.path, seed, what)
            #expect(bad.count <= (kind == "segments" ? 8 : 1), "\(what): \(bad.count) pages")
            touched += bad.count
            let check = try PackedStoreCheck(directories: [directory.path])
            #expect(check.findings.filter { $0.page != nil }.count == bad.count, "\(what): \(check.findings)")
            try flip()
        }
        #expect(touched > 0)
    }

    @Test func repairDropsTheBadPagesAndNothingElse() throws {
        let seed = testSeed("packed repair")
        let directory = try ScratchDirectory()
        try Self.fill(directory.path, seed)
        let segments = try Files.open(directory.file("segments"), [.readOnly, .directory])
        var names: [String] = []
        try Files.forEachName(in: segments.number) { names.append($0) }
        let name = try #require(names.first)
        let file = try Files.open(name, .readWrite, at: segments.number)
        // Longer than what overwriting can leave dead in one place: 16 pages.
        let garbage = [UInt8](repeating: 0xa5, count: 70_000)
        _ = garbage.withUnsafeBytes { Files.write(file.number, $0, at: 100_000) }
        let bad: Int
        do {
            let check = try PackedStoreCheck(directories: [directory.path])
            bad = check.findings.count
            #expect(bad > 0 && check.findings.allSatisfy { $0.remedy == .dropPage })
            #expect(try check.repair() == bad)
        }
        #expect(try PackedStoreCheck(directories: [directory.path]).findings.isEmpty)
        let store = try PackedStore(directories: [directory.path], options: Self.options())
        var lost = 0
        for number in 1...2 as ClosedRange<UInt32> {
            let object = try #require(try find(store, number))
            for page in 0..<Self.pages {
                var bytes = [UInt8](repeating: 0, count: basePageSize)
                _ = try bytes.withMutableBytes { buffer throws(Errno) in try object.read(into: buffer, at: page * basePageSize) }
                let isThere = try object.nextData(from: page * basePageSize) == page * basePageSize
                let expected = Self.content(page, seed &+ UInt64(number))
                if expected != nil, !isThere { lost += 1 } else { #expect(bytes == expected ?? [UInt8](repeating: 0, count: basePageSize)) }
            }
        }
        #expect(lost == bad)
    }

    @Test func aSegmentThatIsGoneIsAnErrorOfItsPagesAndTheRestGoesOn() throws {
        let seed = testSeed("packed missing segment")
        let directory = try ScratchDirectory()
        try Self.fill(directory.path, seed)
        let segments = try Files.open(directory.file("segments"), [.readOnly, .directory])
        var names: [String] = []
        try Files.forEachName(in: segments.number) { names.append($0) }
        try Files.remove(try #require(names.first), at: segments.number)
        #expect(try !Self.errors(directory.path, seed, "segment removed").isEmpty)
        let store = try PackedStore(directories: [directory.path], options: Self.options())
        let object = try store.create(try #require(StoredObjectID(rawValue: 9)))
        let page = [UInt8](repeating: 3, count: 100) + [UInt8](repeating: 4, count: basePageSize - 100)
        #expect(try page.withBytes { buffer throws(Errno) in try object.write(buffer, at: 0, .buffered) } == basePageSize)
    }

    @Test func aSignatureWithAFlippedBitIsRefused() throws {
        let directory = try ScratchDirectory()
        try Self.fill(directory.path, 1)
        let path = directory.file(StoreSignature.fileName)
        let whole = try Files.contents(of: path)
        for bit in stride(from: 0, to: whole.count * 8, by: 3) {
            var bytes = whole
            bytes[bit / 8] ^= 1 << UInt8(bit % 8)
            try Files.replaceContents(of: path, with: bytes)
            #expect(throws: StoreError.self) { try PackedStore(directories: [directory.path], options: Self.options()) }
        }
    }

    @Test func whatIsNotAStoreOrIsInUseIsRefusedWithTheReason() throws {
        let directory = try ScratchDirectory()
        #expect(throws: StoreError.self) { try PackedStore(directories: [directory.file("missing")], options: Self.options()) }
        let foreign = directory.file("foreign")
        try Files.makeDirectory(foreign)
        try Files.replaceContents(of: foreign + "/x", with: [1])
        func code(_ path: String) -> StoreError.Code? {
            do throws(StoreError) { _ = try PackedStore(directories: [path], options: Self.options()) } catch { return error.code }
            return nil
        }
        #expect(code(foreign) == .foreign)
        let own = directory.file("own")
        try Files.makeDirectory(own)
        let store = try PackedStore(directories: [own], options: Self.options())
        #expect(code(own) == .busy)
        store.close()
        let newer = directory.file("newer")
        try Files.makeDirectory(newer)
        try Files.replaceContents(
            of: newer + "/" + StoreSignature.fileName, with: Array("shrinkd page store\nlayout packed\nversion 2\n".utf8))
        #expect(code(newer) == .newer)
    }
}
