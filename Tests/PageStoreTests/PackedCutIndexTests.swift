import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@testable import PageStore

/// An index file that somebody cuts short, under the server or while it is away: errors of what was in it, never zeros, and the rest goes on.
@Suite struct PackedCutIndexTests {
    private static let pages = 1000
    private static let first = StoredObjectID(rawValue: 1)!
    private static let second = StoredObjectID(rawValue: 2)!

    private static func options() -> PackedOptions {
        var options = PackedOptions()
        options.segmentBytes = 1 << 20
        options.runsInBackground = false
        return options
    }

    private static func content(_ page: Int) -> [UInt8] {
        (0..<basePageSize).map { UInt8(truncatingIfNeeded: $0 / 64 &* 31 &+ page &* 7 &+ $0 % 2) }
    }

    private static func write(_ object: PackedObject, _ range: Range<Int>) throws {
        for page in range {
            _ = try content(page).withBytes { bytes throws(Errno) in try object.write(bytes, at: page * basePageSize, .buffered) }
        }
    }

    /// nil: an error.
    private static func read(_ object: PackedObject, _ page: Int) -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: basePageSize)
        let count = try? bytes.withMutableBytes { buffer throws(Errno) in try object.read(into: buffer, at: page * basePageSize) }
        return count == basePageSize ? bytes : nil
    }

    private static func makeStore(_ path: String) throws -> PackedStore {
        let store = try PackedStore(directories: [path], options: options())
        for id in [first, second] {
            let object = try store.create(id)
            try object.setSize(pages * basePageSize)
            try write(object, 0..<pages)
        }
        return store
    }

    private static func cut(_ path: String, _ id: StoredObjectID, to bytes: Int) throws {
        let directory = try Files.open(path + "/objects", [.readOnly, .directory])
        let file = try Files.open(id.description, .readWrite, at: directory.number)
        try Files.truncate(file.number, to: bytes)
    }

    @Test(arguments: [0, 4096, 6000, 8192]) func underAServerItsPagesAreErrorsAndNothingElseIs(_ bytes: Int) throws {
        let scratch = try ScratchDirectory()
        let store = try Self.makeStore(scratch.path)
        let object = try #require(try store.object(Self.first))
        let other = try #require(try store.object(Self.second))
        try Self.cut(scratch.path, Self.first, to: bytes)

        let present = max(0, bytes - ObjectHeader.totalBytes) / IndexEntry.byteCount
        for page in 0..<present { #expect(Self.read(object, page) == Self.content(page)) }
        for page in present..<Self.pages { #expect(Self.read(object, page) == nil, "page \(page) should be an error") }
        #expect(store.facts().contains { $0.key == "damaged_entries" && $0.value != "0" })
        // Nothing is promised that the file does not have.
        #expect(throws: Errno.ioError) { try Self.write(object, Self.pages - 1..<Self.pages) }
        #expect(throws: Errno.ioError) { try object.punch(at: (Self.pages - 1) * basePageSize, length: basePageSize) }
        #expect(throws: Errno.ioError) { try object.setSize(Self.pages * 8 * basePageSize) }
        #expect(throws: Errno.ioError) { try object.sync() }

        for page in 0..<Self.pages { #expect(Self.read(other, page) == Self.content(page)) }
        try Self.write(other, 0..<10)
        try store.remove(Self.first)
        #expect(try store.object(Self.first) == nil)
        store.close()
    }

    /// Beyond the end lies what a write was killed with before the object grew; then the file is cut in the middle of one of its pages.
    @Test func whatLiesBeyondTheEndOfAnIndexThatWasCutShortIsDropped() throws {
        let scratch = try ScratchDirectory()
        let (end, beyond) = (200, 250)
        let path = scratch.path + "/objects/\(Self.first)"
        do {
            let store = try PackedStore(directories: [scratch.path], options: Self.options())
            try Self.write(try store.create(Self.first), 0..<end)
            store.close()
        }
        let header = Array(try Files.contents(of: path).prefix(ObjectHeader.totalBytes))
        do {
            let store = try PackedStore(directories: [scratch.path], options: Self.options())
            try Self.write(try #require(try store.object(Self.first)), end..<beyond)
            store.close()
        }
        let file = try Files.open(path, .readWrite)
        _ = header.withUnsafeBytes { Files.write(file.number, $0, at: 0) }
        try Files.truncate(file.number, to: ObjectHeader.totalBytes + (end + 10) * IndexEntry.byteCount + 4)

        let store = try PackedStore(directories: [scratch.path], options: Self.options())
        let object = try #require(try store.object(Self.first))
        let whole = (basePageSize - ObjectHeader.totalBytes) / IndexEntry.byteCount
        #expect(whole < end)
        for page in 0..<whole { #expect(Self.read(object, page) == Self.content(page)) }
        for page in whole..<end { #expect(Self.read(object, page) == nil) }
        store.close()
    }

    @Test(arguments: [0, 4096, 8192]) func whileTheServerIsAwayItsPagesAreErrorsAfterwards(_ bytes: Int) throws {
        let scratch = try ScratchDirectory()
        do {
            let store = try Self.makeStore(scratch.path)
            store.close()
        }
        try Self.cut(scratch.path, Self.first, to: bytes)
        for _ in 0..<2 {
            let store = try PackedStore(directories: [scratch.path], options: Self.options())
            #expect(store.objects(after: nil, limit: 10) == [Self.first, Self.second])
            if bytes == 0 {
                #expect(throws: Errno.ioError) { try store.object(Self.first) }
            } else {
                let object = try #require(try store.object(Self.first))
                let present = (bytes - ObjectHeader.totalBytes) / IndexEntry.byteCount
                for page in 0..<present { #expect(Self.read(object, page) == Self.content(page)) }
                for page in present..<Self.pages { #expect(Self.read(object, page) == nil, "page \(page) should be an error") }
            }
            let other = try #require(try store.object(Self.second))
            for page in 0..<Self.pages { #expect(Self.read(other, page) == Self.content(page)) }
            store.close()
        }
    }

    @Test func segmentsCutShortAreErrorsOfTheirPages() throws {
        let scratch = try ScratchDirectory()
        let store = try Self.makeStore(scratch.path)
        let object = try #require(try store.object(Self.first))
        let directory = try Files.open(scratch.path + "/segments", [.readOnly, .directory])
        var names: [String] = []
        try Files.forEachName(in: directory.number) { names.append($0) }
        for name in names {
            let file = try Files.open(name, .readWrite, at: directory.number)
            try Files.truncate(file.number, to: 8192)
        }
        var wrong = 0
        var errors = 0
        for page in 0..<Self.pages {
            guard let bytes = Self.read(object, page) else {
                errors += 1
                continue
            }
            if bytes != Self.content(page) { wrong += 1 }
        }
        #expect(wrong == 0 && errors > Self.pages / 2)
        // What is written from now on is there.
        try Self.write(object, 0..<50)
        for page in 0..<50 { #expect(Self.read(object, page) == Self.content(page)) }
        store.close()
    }
}
