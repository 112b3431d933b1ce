import ShrinkLinux
import Synchronization
import SystemPackage
import TestSupport
import Testing

@testable import PageStore

/// What a block holds and how it is read whole.
@Suite struct PackedBlockTests {
    private static func options() -> PackedOptions {
        var options = PackedOptions()
        options.segmentBytes = 1 << 20
        options.runsInBackground = false
        return options
    }

    /// A page of which the first `noise` bytes do not compress and the rest does.
    private static func page(_ generator: inout SeededGenerator, noise: Int) -> [UInt8] {
        (0..<basePageSize).map { $0 < noise ? UInt8(truncatingIfNeeded: generator.next()) : UInt8($0 / 512 + 1) }
    }

    @Test(arguments: [5, 3, 2, 9]) func blocksWithHolesAreReadWholeWhereTheyBelong(everyPageIsAHole step: Int) throws {
        var generator = SeededGenerator(seed: testSeed("blocks with holes"))
        let directory = try ScratchDirectory()
        let store = try PackedStore(directories: [directory.path], options: Self.options())
        defer { store.close() }
        let object = try store.create(try #require(StoredObjectID(rawValue: 1)))
        let count = 256
        var content: [UInt8] = []
        for index in 0..<count {
            content += index % step == step - 1 ? [UInt8](repeating: 0, count: basePageSize) : Self.page(&generator, noise: 1000)
        }
        _ = try content.withBytes { bytes throws(Errno) in try object.write(bytes, at: 0, .buffered) }
        var back = [UInt8](repeating: 0xee, count: content.count)
        let before = store.core.counters.pagesRead.load(ordering: .relaxed)
        _ = try back.withMutableBytes { bytes throws(Errno) in try object.read(into: bytes, at: 0) }
        // Not inside: a difference of a MiB would be searched for hours.
        let isSame = back == content
        #expect(isSame)
        #expect(store.core.counters.pagesRead.load(ordering: .relaxed) - before == count - count / step, "each page was read once")
        // From the middle of a block, to the middle of one, and with a page of it written since.
        let other = Self.page(&generator, noise: 500)
        _ = try other.withBytes { bytes throws(Errno) in try object.write(bytes, at: 12 * basePageSize, .buffered) }
        content.replaceSubrange(12 * basePageSize..<13 * basePageSize, with: other)
        for range in [1..<40, 3..<11, 0..<13, 6..<count - 3] {
            var part = [UInt8](repeating: 0xee, count: range.count * basePageSize)
            _ = try part.withMutableBytes { bytes throws(Errno) in try object.read(into: bytes, at: range.lowerBound * basePageSize) }
            let isPartSame = part == Array(content[range.lowerBound * basePageSize..<range.upperBound * basePageSize])
            #expect(isPartSame, "pages \(range)")
        }
    }

    @Test func aDamagedBlockWithHolesIsAnErrorOfItsPagesOnly() throws {
        var generator = SeededGenerator(seed: testSeed("damaged block with holes"))
        let directory = try ScratchDirectory()
        let store = try PackedStore(directories: [directory.path], options: Self.options())
        defer { store.close() }
        let object = try store.create(try #require(StoredObjectID(rawValue: 1)))
        var content: [UInt8] = []
        for index in 0..<40 {
            content += index % 5 == 4 ? [UInt8](repeating: 0, count: basePageSize) : Self.page(&generator, noise: 1000)
        }
        _ = try content.withBytes { bytes throws(Errno) in try object.write(bytes, at: 0, .buffered) }
        try flipBit(inBlockOf: 10, directory.path + "/segments")
        var all = [UInt8](repeating: 0xee, count: content.count)
        var failure: Errno?
        do throws(Errno) {
            _ = try all.withMutableBytes { buffer throws(Errno) in try object.read(into: buffer, at: 0) }
        } catch { failure = error }
        #expect(failure == .ioError)
        var bad: Set<Int> = []
        var one = [UInt8](repeating: 0xee, count: basePageSize)
        for index in 0..<40 {
            do throws(Errno) {
                _ = try one.withMutableBytes { buffer throws(Errno) in try object.read(into: buffer, at: index * basePageSize) }
                let isSame = one == Array(content[index * basePageSize..<(index + 1) * basePageSize])
                #expect(isSame, "page \(index)")
            } catch {
                #expect(error == .ioError)
                bad.insert(index)
            }
        }
        #expect(!bad.isEmpty && bad.isSubset(of: [10, 11, 12, 13, 15, 16, 17, 18]), "\(bad)")
    }

    /// In the payload of the block whose first page is `page`, in the only segment.
    private func flipBit(inBlockOf page: Int, _ directory: String) throws {
        var names: [String] = []
        let opened = try Files.open(directory, [.readOnly, .directory])
        try Files.forEachName(in: opened.number) { names.append($0) }
        let file = try Files.open(directory + "/" + (try #require(names.first)), .readWrite)
        var bytes = try Files.contents(of: directory + "/" + (try #require(names.first)))
        var position = SegmentTable.headerBytes
        var place: Int?
        bytes.withUnsafeBytes { raw in
            while place == nil, position < raw.count,
                let header = BlockHeader(at: raw.baseAddress! + position, available: raw.count - position)
            {
                if header.firstPage == page { place = position + header.headerBytes + 500 }
                position += header.length
            }
        }
        let found = try #require(place)
        bytes[found] ^= 4
        let written = bytes[found...found].withUnsafeBytes { Files.write(file.number, $0, at: found) }
        #expect(written.error == nil)
    }

    /// Every block costs the same to decompress; one that saves little is kept plain.
    @Test func aBlockThatSavesLessThanAFifthIsPlain() throws {
        var generator = SeededGenerator(seed: testSeed("plain blocks"))
        let directory = try ScratchDirectory()
        let store = try PackedStore(directories: [directory.path], options: Self.options())
        defer { store.close() }
        let object = try store.create(try #require(StoredObjectID(rawValue: 1)))
        for (index, noise, codec) in [(0, 4096, "plain"), (8, 3400, "plain"), (16, 3000, "lz4"), (24, 500, "lz4")] {
            let block = (0..<8).flatMap { _ in Self.page(&generator, noise: noise) }
            _ = try block.withBytes { bytes throws(Errno) in try object.write(bytes, at: index * basePageSize, .buffered) }
            let place = try #require(StoredPageIndex(rawValue: UInt32(index)))
            let page = try #require(try object.page(place))
            #expect(page.codec == codec, "\(noise) bytes of noise in each page")
        }
    }
}
