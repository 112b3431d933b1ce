import ShrinkEngine
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@Suite struct EmbeddingTests {
    @Test func theExampleRuns() throws {
        let tmpfs = try ScratchMemoryFileSystem(sizeBytes: 32 << 20)
        let cache = try TileCache(directory: tmpfs.path, capacityBytes: 16 << 20, residentBytes: 4 << 20)
        var drawn = 0
        func use(_ number: Int) throws {
            try cache.withTile(number) { bytes in
                drawn += 1
                for i in bytes.indices { bytes[i] = UInt8(truncatingIfNeeded: number + 1) }
            } use: { bytes in
                #expect(bytes.allSatisfy { $0 == UInt8(truncatingIfNeeded: number + 1) }, "tile \(number)")
            }
        }
        // Three times what may be resident.
        for number in 0..<48 { try use(number) }
        cache.frameDone()
        #expect(drawn == 48)
        for number in 0..<48 { try use(number) }
        #expect(drawn == 48, "what went out came back, nothing was drawn twice")
        for number in 0..<48 { try cache.isCheap(number) }
        guard case .scanned(let result) = cache.shrinker.scan(goalPages: 64, .background) else { return #expect(Bool(false)) }
        #expect(result.purgedPages == 64)
        for number in 0..<48 { try use(number) }
        #expect(drawn > 48, "what was purged is drawn again")
        #expect(cache.evict { $0 >= .mebibytes(1) } >= .mebibytes(1))
        try cache.close()
    }

    /// The documentation shows the file that runs here, to the letter.
    @Test func theDocumentedExampleIsThisOne() throws {
        let root = #filePath.split(separator: "/").dropLast(3).reduce("") { $0 + "/" + $1 }
        let document = String(decoding: try Files.contents(of: root + "/docs/embedding.md"), as: UTF8.self)
        let example = String(decoding: try Files.contents(of: root + "/Tests/ShrinkEngineTests/EmbeddingExample.swift"), as: UTF8.self)
        #expect(document.contains("```swift\n" + example + "```\n"))
    }

    /// Every test that the map names exists, and is where the map says.
    @Test func theKernelMapNamesTestsThatExist() throws {
        let root = #filePath.split(separator: "/").dropLast(3).reduce("") { $0 + "/" + $1 }
        let map = String(decoding: try Files.contents(of: root + "/docs/kernel-map.md"), as: UTF8.self)
        var sources = ""
        let directory = try Files.open(root + "/Tests/ShrinkEngineTests", [.readOnly, .directory])
        try Files.forEachName(in: directory.number) { name in
            if let bytes = try? Files.contents(of: name, at: directory.number) { sources += String(decoding: bytes, as: UTF8.self) }
        }
        var checked = 0
        for line in map.split(separator: "\n") where line.hasPrefix("| ") {
            guard let last = line.split(separator: "|").last else { continue }
            for (index, name) in last.split(separator: "`", omittingEmptySubsequences: false).enumerated() where index % 2 == 1 {
                #expect(sources.contains("func \(name)("), "\(name) is in the map and not in the tests")
                checked += 1
            }
        }
        #expect(checked > 60)
    }
}
