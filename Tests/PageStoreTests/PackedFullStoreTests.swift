import ShrinkLinux
import Synchronization
import SystemPackage
import TestSupport
import Testing

@testable import PageStore

/// A full tier refuses, loses nothing, and goes on once there is room; dead bytes are room.
@Suite struct PackedFullStoreTests {
    private static func options() -> PackedOptions { .alone(segmentBytes: 1 << 20) }

    private static func noise(_ seed: UInt64, _ page: Int, _ version: UInt64) -> [UInt8] {
        PagePattern(seed: seed).page(page, version: version, zeroEvery: 0)
    }

    private static func expectContent(_ object: PackedObject, _ versions: [Int: UInt64], _ seed: UInt64) throws {
        var bytes = [UInt8](repeating: 0, count: basePageSize)
        for (page, version) in versions {
            _ = try bytes.withMutableBytes { buffer throws(Errno) in try object.read(into: buffer, at: page * basePageSize) }
            if bytes != noise(seed, page, version) { Issue.record("page \(page) is not as written") }
        }
    }

    @Test func aFullStoreLosesNothingAndCleansItselfForOverwrites() throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "no tmpfs of a test's own: a full packed store is not tested") }
        let seed = testSeed("packed full")
        let memory = try ScratchMemoryFileSystem(sizeBytes: 12 << 20)
        let store = try PackedStore(directories: [memory.path], options: Self.options())
        let object = try store.create(try #require(StoredObjectID(rawValue: 1)))
        var versions: [Int: UInt64] = [:]
        var page = 0
        var refusal: Errno?
        while refusal == nil {
            let run = (page..<page + 16).flatMap { Self.noise(seed, $0, 0) }
            do throws(Errno) {
                let written = try run.withBytes { buffer throws(Errno) in try object.write(buffer, at: page * basePageSize, .buffered) }
                for i in 0..<written / basePageSize { versions[page + i] = 0 }
                page += written / basePageSize
            } catch { refusal = error }
        }
        #expect(refusal == .noSpace)
        // The reserve and a rest of a segment are all that is left of it.
        #expect(versions.count * basePageSize > 9 << 20, "\(versions.count) pages")
        try Self.expectContent(object, versions, seed)

        // Each overwrite makes as much dead as it needs: never a refusal, once some room is there for the work.
        try object.punch(at: 0, length: 1 << 20)
        for gone in 0..<256 { versions[gone] = nil }
        var generator = SeededGenerator(seed: seed)
        for round in 1...600 as ClosedRange<UInt64> {
            let first = 256 + Int(generator.next() % UInt64(page - 256 - 8))
            let run = (first..<first + 8).flatMap { Self.noise(seed, $0, round) }
            let written = try run.withBytes { buffer throws(Errno) in try object.write(buffer, at: first * basePageSize, .buffered) }
            for i in 0..<written / basePageSize { versions[first + i] = round }
        }
        try Self.expectContent(object, versions, seed)
        #expect(store.core.counters.cleanedSegments.load(ordering: .relaxed) > 0)

        // Reopened as a kill leaves it, then emptied: all of the room is there again.
        store.close()
        try store.remove(object.id)
    }

    /// As little as the cleaner compacts for: a fiftieth of one segment, in a store that is otherwise full to the last byte.
    @Test func aFiftiethOfASegmentPunchedIsRoomForAPage() throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "no tmpfs of a test's own: a full packed store is not tested") }
        let seed = testSeed("packed fiftieth")
        let memory = try ScratchMemoryFileSystem(sizeBytes: 8 << 20)
        let store = try PackedStore(directories: [memory.path], options: Self.options())
        let object = try store.create(try #require(StoredObjectID(rawValue: 1)))
        var versions: [Int: UInt64] = [:]
        func write(_ page: Int, _ version: UInt64) throws(Errno) {
            _ = try Self.noise(seed, page, version).withBytes { buffer throws(Errno) in
                try object.write(buffer, at: page * basePageSize, .buffered)
            }
            versions[page] = version
        }
        var page = 0
        func fill() {
            while true {
                do throws(Errno) { try write(page, 0) } catch { return }
                page += 1
            }
        }
        fill()
        var generator = SeededGenerator(seed: seed)
        for round in 0..<20 {
            // Neighbours were written one after the other: six of twelve at least lie in one segment.
            var first = 0
            repeat { first = Int(generator.next() % UInt64(page - 12)) } while !(first..<first + 12).allSatisfy { versions[$0] != nil }
            try object.punch(at: first * basePageSize, length: 12 * basePageSize)
            for gone in first..<first + 12 { versions[gone] = nil }
            do throws(Errno) {
                try write(page, 0)
                page += 1
            } catch { Issue.record("round \(round): \(error)") }
            fill()
        }
        try Self.expectContent(object, versions, seed)
        store.close()
    }

    @Test func removingEverythingGivesAllRoomBack() throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "no tmpfs of a test's own: room given back is not tested") }
        let memory = try ScratchMemoryFileSystem(sizeBytes: 16 << 20)
        let store = try PackedStore(directories: [memory.path], options: Self.options())
        let before = store.space.availableBytes
        for number in 1...3 as ClosedRange<UInt32> {
            let id = try #require(StoredObjectID(rawValue: number))
            let object = try store.create(id)
            let run = (0..<600).flatMap { Self.noise(1, $0, 0) }
            _ = try run.withBytes { buffer throws(Errno) in try object.write(buffer, at: 0, .buffered) }
            try store.remove(id)
        }
        // What is left is the open segment at most.
        #expect(store.space.availableBytes + (1 << 20) + 65536 >= before)
        #expect(store.space.pageCount <= 600)
    }

    @Test func aStoreOpensAgainWhenFullAndRemovingMakesRoom() throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "no tmpfs of a test's own: reopening a full store is not tested") }
        let seed = testSeed("packed full reopen")
        let memory = try ScratchMemoryFileSystem(sizeBytes: 8 << 20)
        let page = Self.noise(seed, 0, 0)
        func fill(_ object: PackedObject) -> Int {
            var count = 0
            while (try? page.withBytes { buffer throws(Errno) in try object.write(buffer, at: count * basePageSize, .buffered) }) != nil {
                count += 1
            }
            return count
        }
        let id = try #require(StoredObjectID(rawValue: 1))
        let count: Int
        do {
            let store = try PackedStore(directories: [memory.path], options: Self.options())
            count = fill(try store.create(id))
            #expect(count > 1000)
        }
        let store = try PackedStore(directories: [memory.path], options: Self.options())
        var object = try #require(try store.object(id))
        #expect(object.attributes.pageCount == count)
        // The room that was allocated ahead of another writer is this one's now; no more.
        var more = 0
        let refused = #expect(throws: Errno.self) {
            while true {
                _ = try page.withBytes { buffer throws(Errno) in try object.write(buffer, at: (500 << 20) + more * basePageSize, .buffered)
                }
                more += 1
            }
        }
        #expect(refused == .noSpace && more * basePageSize <= RunReserve.firstWriters * RunReserve.runBytes)
        try object.setSize(0)
        object = try store.create(try #require(StoredObjectID(rawValue: 2)))
        #expect(fill(object) > 1000)
    }

    @Test func aMemoryTierStopsBeforeTheMachinesLastMemory() throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "no tmpfs of a test's own: the memory floor is not tested") }
        let memory = try ScratchMemoryFileSystem(sizeBytes: 16 << 20)
        var options = Self.options()
        options.memoryFloorBytes = 1 << 50
        let store = try PackedStore(directories: [memory.path], options: options)
        #expect(store.space.availableBytes == 0)
        let object = try store.create(try #require(StoredObjectID(rawValue: 1)))
        let page = Self.noise(1, 0, 0)
        #expect(throws: Errno.noSpace) { try page.withBytes { buffer throws(Errno) in try object.write(buffer, at: 0, .buffered) } }
    }
}
