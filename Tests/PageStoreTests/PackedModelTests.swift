import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@testable import PageStore

/// The same random operations on an object of a packed store and on plain bytes: what is read, found and counted must agree.
@Suite struct PackedModelTests {
    struct Model {
        var bytes: [UInt8] = []
        var present: Set<Int> = []

        mutating func setSize(_ size: Int) {
            if size < bytes.count {
                bytes.removeLast(bytes.count - size)
                present = present.filter { $0 * basePageSize < size }
                if size % basePageSize != 0 { look(at: size / basePageSize...size / basePageSize, mayAppear: false) }
            } else {
                bytes.append(contentsOf: repeatElement(0, count: size - bytes.count))
            }
        }

        mutating func write(_ data: [UInt8], at offset: Int) {
            if data.isEmpty { return }
            if offset + data.count > bytes.count { setSize(offset + data.count) }
            bytes.replaceSubrange(offset..<offset + data.count, with: data)
            look(at: offset / basePageSize...(offset + data.count - 1) / basePageSize, mayAppear: true)
        }

        /// A page of zeros is a hole, once it was written or a part of it punched.
        private mutating func look(at pages: ClosedRange<Int>, mayAppear: Bool) {
            for page in pages {
                let content = bytes[page * basePageSize..<min(bytes.count, (page + 1) * basePageSize)]
                if content.allSatisfy({ $0 == 0 }) { present.remove(page) } else if mayAppear { present.insert(page) }
            }
        }

        mutating func punch(at offset: Int, length: Int) {
            let end = min(offset + length, bytes.count)
            guard offset < end else { return }
            for i in offset..<end { bytes[i] = 0 }
            look(at: offset / basePageSize...(end - 1) / basePageSize, mayAppear: false)
            let first = (offset + basePageSize - 1) / basePageSize
            let last = offset + length >= bytes.count ? (end + basePageSize - 1) / basePageSize : end / basePageSize
            if first < last { present.subtract(first..<last) }
        }

        func nextData(from offset: Int) -> Int? {
            guard let page = present.filter({ $0 >= offset / basePageSize }).min() else { return nil }
            let found = max(offset, page * basePageSize)
            return found < bytes.count ? found : nil
        }

        func nextHole(from offset: Int) -> Int {
            var page = offset / basePageSize
            while present.contains(page) { page += 1 }
            return min(bytes.count, max(offset, page * basePageSize))
        }
    }

    /// Pages as programs have them: some zero, some filled, some random, most compressible.
    static func content(_ count: Int, _ generator: inout SeededGenerator) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(count)
        while bytes.count < count {
            let length = min(count - bytes.count, Int(generator.next() % 9000) + 1)
            switch generator.next() % 5 {
            case 0: bytes.append(contentsOf: repeatElement(0, count: length))
            case 1: bytes.append(contentsOf: repeatElement(UInt8(truncatingIfNeeded: generator.next()), count: length))
            case 2: for _ in 0..<length { bytes.append(UInt8(truncatingIfNeeded: generator.next())) }
            default:
                let word = generator.next()
                for i in 0..<length {
                    bytes.append(i % 16 < 8 ? UInt8(truncatingIfNeeded: word >> UInt64(i % 8 * 8)) : UInt8(truncatingIfNeeded: i / 16))
                }
            }
        }
        return bytes
    }

    @Test(arguments: [PackedCodec.lz4(acceleration: 1), .zstd(level: 1)])
    func randomOperationsAgreeWithPlainBytes(_ codec: PackedCodec) throws {
        let directory = try ScratchDirectory()
        var options = PackedOptions()
        options.codec = codec
        options.segmentBytes = 1 << 20
        options.runsInBackground = false
        let seed = testSeed("packed model")
        var generator = SeededGenerator(seed: seed)
        let maximum = 3 << 20
        let session = try Session(directory.path, options)
        var model = Model()
        for step in 0..<3000 {
            let aligned = generator.next() % 2 == 0
            var offset = Int(generator.next() % UInt64(maximum))
            var length = Int(generator.next() % (generator.next() % 4 == 0 ? 1 << 19 : 20000)) + 1
            if aligned {
                offset &= ~4095
                length = (length + 4095) & ~4095
            }
            length = min(length, maximum - offset)
            switch generator.next() % 16 {
            case 0...5:
                let data = Self.content(length, &generator)
                let written = try data.withBytes { buffer throws(Errno) in try session.object!.write(buffer, at: offset, .buffered) }
                try #require(written == length)
                model.write(data, at: offset)
            case 6...9:
                var data = [UInt8](repeating: 0xaa, count: length)
                let got = try data.withMutableBytes { buffer throws(Errno) in try session.object!.read(into: buffer, at: offset) }
                let expected = offset >= model.bytes.count ? [] : Array(model.bytes[offset..<min(offset + length, model.bytes.count)])
                try #require(got == expected.count && Array(data[0..<got]) == expected, "step \(step) of seed \(seed)")
            case 10, 11:
                try session.object!.punch(at: offset, length: length)
                model.punch(at: offset, length: length)
            case 12:
                if generator.next() % 4 == 0 {
                    try session.object!.setSize(offset)
                    model.setSize(offset)
                }
            case 13:
                try #require(try session.object!.nextData(from: offset) == model.nextData(from: offset), "step \(step) of seed \(seed)")
                if offset < model.bytes.count {
                    try #require(try session.object!.nextHole(from: offset) == model.nextHole(from: offset), "step \(step) of seed \(seed)")
                }
            case 14:
                _ = session.store?.cleaner.cleanOne(urgent: generator.next() % 2 == 0)
            default:
                if generator.next() % 8 == 0 {
                    // As a crash leaves it, or closed. The lock on the directory goes with the last reference.
                    if generator.next() % 2 == 0 { session.store?.close() }
                    try session.reopen()
                }
            }
            let object = try #require(session.object)
            try #require(object.attributes.sizeBytes == model.bytes.count, "step \(step) of seed \(seed)")
            try #require(object.attributes.pageCount == model.present.count, "step \(step) of seed \(seed)")
        }
        let object = try #require(session.object)
        let store = try #require(session.store)
        var pages: [Int] = []
        while let first = StoredPageIndex(rawValue: UInt32((pages.last ?? -1) + 1)) {
            let more = try object.pages(from: first, limit: 100)
            if more.isEmpty { break }
            pages += more.map { Int($0.rawValue) }
        }
        #expect(pages == model.present.sorted())
        #expect(store.space.pageCount == UInt64(pages.count))
        // What lives in the segments is what the index says, and what the pages add up to.
        var shares = 0
        for page in pages { shares += try #require(try object.page(StoredPageIndex(rawValue: UInt32(page))!)).storedBytes }
        #expect(shares == object.attributes.storedBytes && UInt64(shares) == store.space.storedBytes)
        #expect((0..<store.core.table.numberLimit).reduce(0) { $0 + store.core.table.slot($1).liveBytes } == shares)
        store.close()
    }

    private final class Session {
        var store: PackedStore?
        var object: PackedObject?
        private let path: String
        private let options: PackedOptions
        private let id = StoredObjectID(rawValue: 7)!

        init(_ path: String, _ options: PackedOptions) throws {
            (self.path, self.options) = (path, options)
            store = try PackedStore(directories: [path], options: options)
            object = try store?.create(id)
        }

        func reopen() throws {
            object = nil
            store = nil
            store = try PackedStore(directories: [path], options: options)
            object = try #require(try store?.object(id))
        }
    }
}

/// Limits on what is held open at once.
@Suite struct PackedLimitTests {
    @Test func moreObjectsThanMayBeMappedAreAllThere() throws {
        let directory = try ScratchDirectory()
        var options = PackedOptions()
        options.runsInBackground = false
        options.mappedObjectLimit = 16
        let store = try PackedStore(directories: [directory.path], options: options)
        func page(_ id: UInt32) -> [UInt8] { (0..<basePageSize).map { UInt8(truncatingIfNeeded: $0 / 64 &+ Int(id)) } }
        for id in 1...100 as ClosedRange<UInt32> {
            let object = try store.create(try #require(StoredObjectID(rawValue: id)))
            _ = try page(id).withBytes { buffer throws(Errno) in try object.write(buffer, at: 0, .buffered) }
        }
        #expect(store.mappedObjectCount <= 16)
        #expect(store.objects(after: nil, limit: 1000).count == 100)
        for id in 1...100 as ClosedRange<UInt32> {
            let object = try #require(try find(store, id))
            var bytes = [UInt8](repeating: 0, count: basePageSize)
            _ = try bytes.withMutableBytes { buffer throws(Errno) in try object.read(into: buffer, at: 0) }
            #expect(bytes == page(id))
        }
        #expect(store.mappedObjectCount <= 16)
    }
}
