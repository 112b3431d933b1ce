import Glibc
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@testable import ShrinkEngine

/// Memory that is used without a pin, through a mapping that is registered: pages go out under it and come back when they are touched.
@Suite(.serialized) struct TouchTests {
    @Test func aTouchedPageIsWhatItWas() throws {
        let fixture = try TouchFixture(seed: testSeed("touch"))
        let objects = try [700, 1, 33].map { try fixture.base.makeObject(pages: $0) }
        #expect(fixture.engine.shrink(.all).failure == nil)
        #expect(try fixture.engine.pool(fixture.base.pool).allocatedBytes == .zero)
        for object in objects {
            for page in 0..<object.pageCount { #expect(fixture.matches(object, page)) }
            let pages = try fixture.engine.object(object.id).pages
            #expect(pages.backedUp == 0, "everything came back, and is counted")
        }
        fixture.engine.waitForTouchDrops()
        #expect(fixture.engine.status().backup.storedBytes == 0, "the copies are dropped")
        #expect(fixture.engine.brokenInvariants() == [])
        // And once more: what came back by touch goes out like anything else.
        #expect(fixture.engine.shrink(.all).failure == nil)
        #expect(try fixture.engine.pool(fixture.base.pool).allocatedBytes == .zero)
        for object in objects { #expect(try fixture.base.mismatches(object) == []) }
    }

    @Test func pagesAroundComeInOrderAndNotAtRandom() throws {
        let fixture = try TouchFixture(seed: testSeed("touch"))
        let object = try fixture.base.makeObject(pages: 2048, zeroEvery: 0)
        let other = try fixture.base.makeObject(pages: 2048, zeroEvery: 0)
        #expect(fixture.engine.shrink(.all).failure == nil)
        for page in 0..<2048 {
            #expect(fixture.page(object, page)[0] == fixture.base.pattern.page(Int(object.id.rawValue) << 20 | page, zeroEvery: 0)[0])
        }
        #expect(fixture.engine.touchCounts.faults < 200, "in order: \(fixture.engine.touchCounts)")
        fixture.engine.waitForTouchDrops()
        let before = fixture.engine.touchCounts
        var generator = SeededGenerator(seed: testSeed("random"))
        // Elsewhere, and far apart: nobody goes on where somebody was.
        for page in stride(from: 100, to: 2048, by: 128).shuffled(using: &generator) { #expect(fixture.matches(other, page, zeroEvery: 0)) }
        let recovered = fixture.engine.touchCounts.recoveredPages - before.recoveredPages
        #expect(recovered < 16 * 20, "at random: \(recovered) pages for 16")
    }

    @Test func whatIsWrittenWhileItGoesOutStays() throws {
        let seed = testSeed("touch")
        let fixture = try TouchFixture(poolPages: 2048, seed: seed)
        let objects = try (0..<4).map { _ in try fixture.base.makeObject(pages: 256, zeroEvery: 0) }
        let stop = Monitor(false)
        let writers = 2
        let failures = Monitor<[String]>([])
        try withDedicatedThreads { threads in
            for writer in 0..<writers {
                let base = UInt(bitPattern: fixture.touched.base)
                let offsets = objects.map(\.offsetBytes.rawValue)
                threads.start("hammer-\(writer)") {
                    // Each writer has a word of every page to itself and knows what it wrote there last.
                    var generator = SeededGenerator(seed: seed &+ UInt64(writer))
                    var last = [UInt64](repeating: 0, count: 4 * 256)
                    for i in last.indices { Self.word(base, offsets[i / 256], i % 256, writer).pointee = 0 }
                    while !stop.withLock({ $0 }) {
                        let i = Int(generator.next() % UInt64(last.count))
                        let word = Self.word(base, offsets[i / 256], i % 256, writer)
                        if word.pointee != last[i] {
                            failures.withLock { $0.append("page \(i) had \(word.pointee), written was \(last[i])") }
                            return
                        }
                        last[i] &+= generator.next() | 1
                        word.pointee = last[i]
                    }
                }
            }
            var generator = SeededGenerator(seed: seed &+ 99)
            let end = MonotonicTime.now().advanced(milliseconds: 4000)
            while MonotonicTime.now() < end, failures.withLock({ $0.isEmpty }) {
                switch generator.next() % 3 {
                case 0: #expect(fixture.engine.shrink(.all).failure == nil)
                case 1: #expect(fixture.engine.recover(.all).failure == nil)
                default: _ = fixture.engine.shrink(.bytes(.kibibytes(256)))
                }
            }
            stop.withLock { $0 = true }
        }
        #expect(failures.withLock { $0 } == [], "seed \(seed)")
        let counts = fixture.engine.touchCounts
        #expect(counts.recoveredPages > 0, "\(counts)")
        #expect(counts.poisonedPages == 0)
        #expect(fixture.engine.brokenInvariants() == [])
        print("touch: \(counts)")
    }

    private static func word(_ base: UInt, _ offset: Int, _ page: Int, _ writer: Int) -> UnsafeMutablePointer<UInt64> {
        // Bound each time: the address is real memory that the compiler must look at anew.
        UnsafeMutablePointer(bitPattern: base + UInt(offset + page * basePageSize + 64 * writer))!
    }
}

/// What goes wrong, or changes, while pages are out.
@Suite(.serialized) struct TouchTroubleTests {
    /// Root may have what tells the faults of system calls too; without, these tests can't see SIGBUS without dying of it.
    private static let hasFullReach = (try? Userfaults.open(.full)) != nil

    @Test func whatTheBackupLostIsSIGBUSAndNotZeros() throws {
        guard Self.hasFullReach else { return Machine.lacks("a full userfaultfd", so: "poisoned pages were not touched") }
        let fixture = try TouchFixture(seed: testSeed("lost"), reach: .full)
        let object = try fixture.base.makeObject(pages: 40, zeroEvery: 0)
        #expect(fixture.engine.shrink(.all).failure == nil)
        // A page of the backup is gone behind the engine's back.
        let data = try Files.open(fixture.base.backup.path + "/objects/\(object.id.rawValue)/data", .readWrite)
        try Files.punch(data.number, at: 7 * basePageSize, length: basePageSize)
        #expect(fixture.matches(object, 6, zeroEvery: 0))
        #expect(try fixture.systemCall(on: object, 7) == .badAddress)
        #expect(try fixture.systemCall(on: object, 6) == nil)
        #expect(fixture.matches(object, 8, zeroEvery: 0), "its neighbours come")
        #expect(fixture.engine.status().damagedPages >= 1)
        #expect(fixture.engine.touchCounts.poisonedPages >= 1)
        // What is made there later is not poisoned.
        try fixture.engine.destroyObject(object.id)
        let next = try fixture.engine.createObject(in: fixture.base.pool, name: "next", size: ByteCount(40 * basePageSize))
        #expect(next.offsetBytes == object.offsetBytes)
        #expect(fixture.page(next, 7).allSatisfy { $0 == 0 })
    }

    /// Its mark goes when an explicit recover finds the page after all, also one that an engine before left.
    @Test(arguments: [false, true]) func aPageThatComesBackAfterAllIsSeenAgain(_ knowsNot: Bool) throws {
        guard Self.hasFullReach else { return Machine.lacks("a full userfaultfd", so: "poisoned pages were not touched") }
        let fixture = try TouchFixture(seed: testSeed("found again"), reach: .full)
        let object = try fixture.base.makeObject(pages: 40, zeroEvery: 0)
        #expect(fixture.engine.shrink(.all).failure == nil)
        let data = try Files.open(fixture.base.backup.path + "/objects/\(object.id.rawValue)/data", .readWrite)
        var kept = [UInt8](repeating: 0, count: basePageSize)
        _ = try kept.withMutableBytes { (bytes) throws(Errno) in try Files.read(data.number, into: bytes, at: 7 * basePageSize) }
        try Files.punch(data.number, at: 7 * basePageSize, length: basePageSize)
        #expect(try fixture.systemCall(on: object, 7) == .badAddress)
        #expect(fixture.engine.recover(.object(object.id)).failure?.code == .damaged)
        #expect(try fixture.systemCall(on: object, 7) == .badAddress, "still")
        // Somebody restores the store.
        try kept.withBytes { (bytes) throws(Errno) in
            if let error = Files.write(data.number, bytes, at: 7 * basePageSize).error { throw error }
        }
        if knowsNot { try fixture.readopt() }
        #expect(fixture.engine.recover(.object(object.id)).failure == nil)
        #expect(fixture.matches(object, 7, zeroEvery: 0))
        #expect(fixture.matches(object, 8, zeroEvery: 0))
    }

    @Test func purgedContentIsSIGBUSUntilItIsPinned() throws {
        guard Self.hasFullReach else { return Machine.lacks("a full userfaultfd", so: "poisoned pages were not touched") }
        let fixture = try TouchFixture(seed: testSeed("purged"), reach: .full)
        let object = try fixture.base.makeObject(pages: 20, zeroEvery: 0)
        try fixture.engine.setPurgeable(object.id, true)
        #expect(fixture.engine.shrink(.all).failure == nil)
        #expect(try fixture.systemCall(on: object, 3) == .badAddress)
        #expect(try fixture.engine.pin(object.id).retained == false)
        #expect(fixture.page(object, 3).allSatisfy { $0 == 0 })
    }

    @Test func partsThatAreUnmappedAndMovedAreFollowed() throws {
        let fixture = try TouchFixture(poolPages: 1024, seed: testSeed("moved"))
        let object = try fixture.base.makeObject(pages: 300, zeroEvery: 0)
        #expect(fixture.engine.shrink(.all).failure == nil)
        // Pages 100 ..< 200 show elsewhere from now on, 200 ..< 250 nowhere.
        let start = fixture.page(object, 0).baseAddress!
        let moved = try #require(
            try? ProcessMemory.move(UnsafeMutableRawBufferPointer(start: start + 100 * basePageSize, count: 100 * basePageSize)))
        defer { munmap(moved, 100 * basePageSize) }
        #expect(munmap(start + 200 * basePageSize, 50 * basePageSize) == 0)
        for page in 0..<100 { #expect(fixture.matches(object, page, zeroEvery: 0)) }
        for page in 100..<200 {
            let expected = fixture.base.pattern.page(Int(object.id.rawValue) << 20 | page, zeroEvery: 0)
            let bytes = UnsafeRawBufferPointer(start: moved + (page - 100) * basePageSize, count: basePageSize)
            #expect(bytes.elementsEqual(expected))
        }
        for page in 250..<300 { #expect(fixture.matches(object, page, zeroEvery: 0)) }
        // And out again, under the mapping as it is now.
        #expect(fixture.engine.shrink(.all).failure == nil)
        #expect(try fixture.engine.pool(fixture.base.pool).allocatedBytes == .zero)
        #expect(try fixture.base.mismatches(object, zeroEvery: 0) == [])
        #expect(fixture.engine.brokenInvariants() == [])
    }

    @Test func mappingsMoveWhilePagesGoOutAndIn() throws {
        let seed = testSeed("moving")
        let fixture = try TouchFixture(poolPages: 1024, seed: seed)
        let object = try fixture.base.makeObject(pages: 256, zeroEvery: 0)
        let failures = Monitor<[String]>([])
        let stop = Monitor(false)
        let start = UInt(bitPattern: fixture.page(object, 0).baseAddress!)
        try withDedicatedThreads { threads in
            threads.start("mover") {
                var place = UnsafeMutableRawPointer(bitPattern: start)!
                var last = [UInt64](repeating: 0, count: 256)
                var generator = SeededGenerator(seed: seed)
                for i in last.indices { place.advanced(by: i * basePageSize).storeBytes(of: 0, as: UInt64.self) }
                while !stop.withLock({ $0 }) {
                    for _ in 0..<50 {
                        let i = Int(generator.next() % 256)
                        let word = place.advanced(by: i * basePageSize).assumingMemoryBound(to: UInt64.self)
                        if word.pointee != last[i] {
                            let found = word.pointee
                            failures.withLock { $0.append("page \(i) had \(found), written was \(last[i])") }
                            return
                        }
                        last[i] &+= 1
                        word.pointee = last[i]
                    }
                    guard let next = try? ProcessMemory.move(UnsafeMutableRawBufferPointer(start: place, count: 256 * basePageSize)) else {
                        return failures.withLock { $0.append("not moved") }
                    }
                    place = next
                }
                munmap(place, 256 * basePageSize)
            }
            let end = MonotonicTime.now().advanced(milliseconds: 2000)
            while MonotonicTime.now() < end, failures.withLock({ $0.isEmpty }) {
                let failure = fixture.engine.shrink(.all).failure
                #expect(failure == nil || failure?.code == .busy)
                _ = fixture.engine.recover(.all)
            }
            stop.withLock { $0 = true }
        }
        #expect(failures.withLock { $0 } == [], "seed \(seed)")
        #expect(fixture.engine.brokenInvariants() == [])
    }

    @Test func aPoolMayBeMappedSeveralTimes() throws {
        let seed = testSeed("several")
        let fixture = try TouchFixture(poolPages: 1024, seed: seed)
        let object = try fixture.base.makeObject(pages: 256, zeroEvery: 0)
        let file = try fixture.engine.poolDescriptor(fixture.base.pool)
        let second = try MappedMemory(sharing: file.number, count: 1024 * basePageSize)
        let userfaults = try Userfaults.open(.userMode)
        _ = try fixture.engine.registerMapping(
            fixture.base.pool, userfaults: try userfaults.duplicate(),
            at: MappingPlace(address: UInt(bitPattern: second.base), offset: .zero, length: ByteCount(second.count)))
        let bases = [
            UInt(bitPattern: fixture.page(object, 0).baseAddress!), UInt(bitPattern: second.base) + UInt(object.offsetBytes.rawValue),
        ]
        let failures = Monitor<[String]>([])
        let stop = Monitor(false)
        for page in 0..<256 { for word in 0..<2 { fixture.page(object, page).storeBytes(of: 0, toByteOffset: 64 * word, as: UInt64.self) } }
        try withDedicatedThreads { threads in
            for (writer, base) in bases.enumerated() {
                threads.start("writer-\(writer)") {
                    var last = [UInt64](repeating: 0, count: 256)
                    var generator = SeededGenerator(seed: seed &+ UInt64(writer))
                    while !stop.withLock({ $0 }) {
                        let i = Int(generator.next() % 256)
                        let word = UnsafeMutablePointer<UInt64>(bitPattern: base + UInt(i * basePageSize + 64 * writer))!
                        if word.pointee != last[i] {
                            let found = word.pointee
                            failures.withLock { $0.append("writer \(writer): page \(i) had \(found), written was \(last[i])") }
                            return
                        }
                        last[i] &+= 1
                        word.pointee = last[i]
                    }
                }
            }
            let end = MonotonicTime.now().advanced(milliseconds: 2000)
            while MonotonicTime.now() < end, failures.withLock({ $0.isEmpty }) {
                #expect(fixture.engine.shrink(.all).failure == nil)
                _ = fixture.engine.recover(.all)
            }
            stop.withLock { $0 = true }
        }
        #expect(failures.withLock { $0 } == [], "seed \(seed)")
        #expect(fixture.engine.brokenInvariants() == [])
        try Userfaults.unregister(userfaults.number, UInt(bitPattern: second.base)..<UInt(bitPattern: second.base) + UInt(second.count))
    }
}
