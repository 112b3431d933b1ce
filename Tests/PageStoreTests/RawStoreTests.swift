import PageStore
import ShrinkLinux
import Synchronization
import SystemPackage
import TestSupport
import Testing

@Suite struct RawStoreTests {
    private func withStore<R>(_ body: (String) throws -> R) throws -> R {
        let scratch = try ScratchDirectory()
        return try withExtendedLifetime(scratch) { try body(scratch.path) }
    }

    private func id(_ value: UInt32) throws -> StoredObjectID { try #require(StoredObjectID(rawValue: value)) }

    private func code(_ body: () throws -> Void) -> StoreError.Code? {
        do { try body() } catch { return (error as? StoreError)?.code }
        return nil
    }

    @Test func objectsAndTheirBytesAreThereAfterReopening() throws {
        try withStore { path in
            let pattern = PagePattern(seed: 3)
            do {
                let store = try RawStore(path)
                for value: UInt32 in [1, 2, 900] {
                    let object = try store.create(try id(value))
                    for page in [0, 7, 8] {
                        let bytes = pattern.page(page + Int(value), zeroEvery: 0)
                        #expect(try bytes.withBytes { (b) throws(Errno) in try object.write(b, at: page * 4096, .durable) } == 4096)
                    }
                    try object.setHint(.name, to: "number \(value)")
                }
                try store.remove(try id(2))
                store.close()
            }
            let store = try RawStore(path)
            #expect(store.objects(after: nil, limit: 100).map(\.rawValue) == [1, 900])
            #expect(store.objects(after: try id(1), limit: 100).map(\.rawValue) == [900])
            #expect(store.objects(after: try id(500), limit: 100).map(\.rawValue) == [900])
            #expect(store.objects(after: nil, limit: 1).map(\.rawValue) == [1])
            #expect(try store.object(try id(2)) == nil)
            let object = try #require(try store.object(try id(900)))
            #expect(object.hint(.name) == "number 900")
            #expect(try object.attributes.sizeBytes == 9 * 4096)
            #expect(try object.pagesByTier() == [3])
            #expect(try object.pages(from: try #require(StoredPageIndex(rawValue: 1)), limit: 10).map(\.rawValue) == [7, 8])
            var bytes = [UInt8](repeating: 0, count: 4096)
            let count = try bytes.withMutableBytes { (b) throws(Errno) in try object.read(into: b, at: 7 * 4096) }
            #expect(count == 4096)
            #expect(bytes == pattern.page(907, zeroEvery: 0))
            #expect(try object.page(try #require(StoredPageIndex(rawValue: 6))) == nil)
        }
    }

    @Test func anIDIsNeverGivenTwiceAndNoneIsLost() throws {
        try withStore { path in
            // Ended in order, killed, and killed again.
            for round: UInt32 in 0..<3 {
                let store = try RawStore(path)
                for value in UInt32(1)..<round * 10 + 1 where value % 10 != 7 {
                    #expect(throws: Errno.fileExists, "\(value) in round \(round)") { _ = try store.create(try id(value)) }
                }
                #expect(store.highestID == round * 10)
                // In any order, and removed at once or not.
                for value: UInt32 in [5, 3, 4, 10, 1, 2, 6, 8, 9] {
                    _ = try store.create(try id(round * 10 + value))
                    if value % 2 == 0 { try store.remove(try id(round * 10 + value)) }
                }
                #expect(throws: Errno.fileExists) { _ = try store.create(try id(round * 10 + 3)) }
                #expect(throws: Errno.fileExists) { _ = try store.create(try id(round * 10 + 4)) }
                if round == 0 { store.close() }
            }
            let store = try RawStore(path)
            for value: UInt32 in [7, 17, 27, 31, .max] { _ = try store.create(try id(value)) }
            #expect(store.highestID == .max)
        }
    }

    @Test func afterTheMachineWentDownIDsThatMayHaveBeenUsedAreNotGiven() throws {
        try withStore { path in
            do {
                let store = try RawStore(path)
                for value: UInt32 in [5, 11] { _ = try store.create(try id(value)) }
                try store.remove(try id(11))
                // No close.
            }
            // As another boot finds it.
            let journal = try Files.open(path + "/used-ids", .readWrite)
            _ = Array("00000000".utf8).withUnsafeBytes { Files.write(journal.number, $0, at: 8) }
            do {
                let store = try RawStore(path)
                #expect(store.highestID >= 11)
                for value: UInt32 in [3, 5, 11] { #expect(throws: Errno.fileExists) { _ = try store.create(try id(value)) } }
                _ = try store.create(try id(store.highestID + 1))
                store.close()
            }
            // A damaged journal is no journal.
            try Files.replaceContents(of: path + "/used-ids", with: [1, 2, 3])
            let store = try RawStore(path)
            #expect(throws: Errno.fileExists) { _ = try store.create(try id(11)) }
            _ = try store.create(try id(store.highestID + 1))
        }
    }

    @Test func moreObjectsThanMayBeOpenAreAllReachable() throws {
        try withStore { path in
            let store = try RawStore(path, openFiles: 8)
            for value: UInt32 in 1...100 {
                let object = try store.create(try id(value))
                _ = try [UInt8(value)].withBytes { (b) throws(Errno) in try object.write(b, at: 0, .buffered) }
            }
            var generator = SeededGenerator(seed: testSeed("open files"))
            for _ in 0..<1000 {
                let value = UInt32.random(in: 1...100, using: &generator)
                var byte: [UInt8] = [0]
                let object = try #require(try store.object(try id(value)))
                _ = try byte.withMutableBytes { (b) throws(Errno) in try object.read(into: b, at: 0) }
                #expect(byte[0] == UInt8(value))
            }
            #expect(store.facts().first { $0.key == "raw.open_files" }?.value == "8")
            #expect(store.space.objectCount == 100)
        }
    }

    @Test func aStoreIsServedOnceAndOnlyIfItIsOne() throws {
        try withStore { path in
            #expect(code { _ = try RawStore(path + "/none") } == .missing)
            let store = try RawStore(path)
            #expect(code { _ = try RawStore(path) } == .busy)
            withExtendedLifetime(store) {}
        }
        try withStore { path in
            try Files.replaceContents(of: path + "/x", with: [])
            #expect(code { _ = try RawStore(path) } == .foreign)
        }
        try withStore { path in
            do { _ = try RawStore(path) }
            try Files.replaceContents(of: path + "/format", with: Array("shrinkd page store\nlayout raw\nversion 2\n".utf8))
            #expect(code { _ = try RawStore(path) } == .newer)
            try Files.replaceContents(of: path + "/format", with: [UInt8](repeating: 65, count: 10_000))
            #expect(code { _ = try RawStore(path) } == .foreign)
            try Files.replaceContents(of: path + "/format", with: [])
            #expect(code { _ = try RawStore(path) } == .foreign)
        }
    }

    @Test func filesAndDirectoriesAreForTheOwnerAlone() throws {
        try withStore { path in
            let store = try RawStore(path)
            _ = try store.create(try id(1))
            #expect(try Files.status(of: path + "/objects").mode == 0o700)
            for name in ["format", "lock", "high-water", "used-ids", "objects/1"] {
                #expect(try Files.status(of: path + "/" + name).mode == 0o600)
            }
        }
    }

    @Test func aSnapshotNeverMixesTwoVersionsOfAPage() throws {
        try withStore { path in
            let store = try RawStore(path)
            let object = try store.create(try id(1))
            let index = try #require(StoredPageIndex(rawValue: 3))
            let versions = (0..<8).map { [UInt8](repeating: UInt8(10 + $0), count: 4096) }
            _ = try versions[0].withBytes { (b) throws(Errno) in try object.write(b, at: 3 * 4096, .buffered) }
            let file = try #require(object.backingFile)
            let isDone = Atomic<Bool>(false)
            try withDedicatedThreads { threads in
                threads.start("writer") {
                    var i = 0
                    while !isDone.load(ordering: .relaxed) {
                        _ = versions[i % 8].withUnsafeBytes { Files.write(file.number, $0, at: 3 * 4096) }
                        i += 1
                    }
                }
                defer { isDone.store(true, ordering: .relaxed) }
                try readSnapshots(of: object, index, versions)
            }
        }
    }

    private func readSnapshots(of object: RawObject, _ index: StoredPageIndex, _ versions: [[UInt8]]) throws {
        var page = [UInt8](repeating: 0, count: 4096)
        let limit = MonotonicTime.now().advanced(milliseconds: 1500)
        while MonotonicTime.now() < limit {
            do throws(Errno) {
                let info = try page.withMutableBytes { (b) throws(Errno) in try object.snapshot(of: index, into: b) }
                #expect(info != nil)
            } catch {
                // A page that never rests is told so, not shown half and half.
                #expect(error == .resourceTemporarilyUnavailable)
                continue
            }
            guard versions.contains(page) else {
                Issue.record("a mixed page: \(Set(page))")
                return
            }
        }
    }
}
