import Glibc
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@testable import ShrinkEngine

/// A pool of huge pages with a mapping that is registered for touch.
private final class HugeTouch {
    let base: HugeFixture
    let touched: MappedMemory
    let userfaults: OwnedDescriptor
    var engine: Engine { base.engine }

    init(units: Int = 16, seed: UInt64 = 1, reach: Userfaults.Reach = .userMode) throws {
        base = try HugeFixture(units: units, seed: seed)
        let file = try base.engine.poolDescriptor(base.pool)
        touched = try MappedMemory(sharing: file.number, count: units * unitBytes)
        userfaults = try Userfaults.open(reach)
        _ = try base.engine.registerMapping(
            base.pool, userfaults: try userfaults.duplicate(),
            at: MappingPlace(address: UInt(bitPattern: touched.base), offset: .zero, length: ByteCount(touched.count)))
    }

    deinit {
        // A mapping with nobody to read its events waits for ever to be unmapped.
        let start = UInt(bitPattern: touched.base)
        try? Userfaults.unregister(userfaults.number, start..<start + UInt(touched.count))
    }

    func page(_ object: ObjectInfo, _ basePage: Int) -> UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(start: touched.base + object.offsetBytes.rawValue + basePage * basePageSize, count: basePageSize)
    }

    func matches(_ object: ObjectInfo, _ basePage: Int) -> Bool {
        base.matches(UnsafeRawBufferPointer(page(object, basePage)), object, basePage)
    }

    /// How a system call fares that is given the page: nil, or its error.
    func systemCall(on object: ObjectInfo, _ basePage: Int) throws -> Errno? {
        let target = try MemoryFile.make("target", size: basePageSize)
        return pwrite(target.number, page(object, basePage).baseAddress, basePageSize, 0) == basePageSize ? nil : Errno(rawValue: errno)
    }
}

/// Huge pages that are used without a pin.
@Suite(.serialized) struct HugeTouchTests {
    private static let untried = "huge pages are not tried on touch"

    @Test func aTouchedUnitIsWhatItWas() async throws {
        guard let reserve = try await HugePageReserve.take(32, so: Self.untried) else { return }
        defer { reserve.release() }
        let fixture = try HugeTouch(seed: testSeed("huge touch"))
        let objects = try [3, 1].map { try fixture.base.makeObject(units: $0) }
        let holes = try fixture.engine.createObject(in: fixture.base.pool, name: "holes", size: ByteCount(unitBytes))
        try fixture.engine.unpin(holes.id)
        #expect(fixture.engine.shrink(.all).failure == nil)
        #expect(try fixture.engine.pool(fixture.base.pool).allocatedBytes == .zero)
        for object in objects {
            for page in 0..<object.pageCount * unitPages { #expect(fixture.matches(object, page)) }
            #expect(try fixture.engine.object(object.id).pages.resident == object.pageCount)
        }
        #expect(isZero(fixture.page(holes, 9).baseAddress!, basePageSize))
        #expect(try fixture.engine.object(holes.id).pages == PageCounts(resident: 1))
        #expect(fixture.engine.touchCounts.recoveredPages == 4 * unitPages)
        fixture.engine.waitForTouchDrops()
        #expect(fixture.engine.status().backup.storedBytes == 0, "the copies are dropped")
        #expect(fixture.engine.brokenInvariants() == [])
        #expect(fixture.engine.shrink(.all).failure == nil)
        for object in objects { #expect(try fixture.base.mismatches(object) == []) }
        // Through the other mapping as well, which is of no userfaultfd, after an explicit recover.
        #expect(fixture.engine.recover(.all).failure == nil)
        for object in objects { #expect(fixture.base.isWholeInMapping(object)) }
    }

    @Test func whatIsWrittenWhileItGoesOutStays() async throws {
        guard let reserve = try await HugePageReserve.take(24, so: Self.untried) else { return }
        defer { reserve.release() }
        let seed = testSeed("huge touch")
        let fixture = try HugeTouch(units: 8, seed: seed)
        let objects = try (0..<3).map { _ in try fixture.base.makeObject(units: 2) }
        let stop = Monitor(false)
        let failures = Monitor<[String]>([])
        let writes = Monitor(0)
        try withDedicatedThreads { threads in
            for writer in 0..<2 {
                let base = UInt(bitPattern: fixture.touched.base)
                let offsets = objects.map(\.offsetBytes.rawValue)
                threads.start("hammer-\(writer)") {
                    // Each writer has a word of every base page to itself and knows what it wrote there last.
                    let perObject = 2 * unitPages
                    func word(_ i: Int) -> UnsafeMutablePointer<UInt64> {
                        UnsafeMutablePointer(
                            bitPattern: base + UInt(offsets[i / perObject] + i % perObject * basePageSize + 64 * writer))!
                    }
                    var generator = SeededGenerator(seed: seed &+ UInt64(writer))
                    var last = [UInt64](repeating: 0, count: 3 * perObject)
                    for i in last.indices { word(i).pointee = 0 }
                    while !stop.withLock({ $0 }) {
                        let i = Int(generator.next() % UInt64(last.count))
                        let found = word(i).pointee
                        if found != last[i] {
                            failures.withLock { $0.append("page \(i) had \(found), written was \(last[i])") }
                            return
                        }
                        last[i] &+= generator.next() | 1
                        word(i).pointee = last[i]
                        writes.withLock { $0 += 1 }
                    }
                }
            }
            var generator = SeededGenerator(seed: seed &+ 99)
            let end = MonotonicTime.now().advanced(milliseconds: 4000)
            let limit = MonotonicTime.now().advanced(milliseconds: 60_000)
            func isEnough() -> Bool { MonotonicTime.now() >= end && writes.withLock { $0 } > 1000 || MonotonicTime.now() >= limit }
            while !isEnough(), failures.withLock({ $0.isEmpty }) {
                switch generator.next() % 3 {
                case 0: #expect(fixture.engine.shrink(.all).failure == nil)
                case 1: #expect(fixture.engine.recover(.all).failure == nil)
                default: _ = fixture.engine.shrink(.object(objects[Int(generator.next() % 3)].id))
                }
            }
            stop.withLock { $0 = true }
        }
        #expect(failures.withLock { $0 } == [], "seed \(seed)")
        let counts = fixture.engine.touchCounts
        #expect(counts.recoveredPages > 0 && counts.poisonedPages == 0, "\(counts)")
        #expect(fixture.engine.brokenInvariants() == [])
        print("huge touch: \(counts)")
    }

    /// Without a free page the thread waits; it never reads zeros.
    @Test func aTouchWaitsForAHugePage() async throws {
        guard let reserve = try await HugePageReserve.take(8, so: Self.untried) else { return }
        defer { reserve.release() }
        let fixture = try HugeTouch(units: 4)
        let object = try fixture.base.makeObject(units: 2)
        #expect(fixture.engine.shrink(.all).failure == nil)
        let hoard = try HugePageHoard()
        let seen = Monitor<Bool?>(nil)
        try withDedicatedThreads { threads in
            let touch = UnsafeSendable(fixture)
            threads.start("toucher") {
                let matches = touch.value.matches(object, 700)
                seen.withLock { $0 = matches }
                seen.notifyAll()
            }
            let deadline = MonotonicTime.now().advanced(milliseconds: 60_000)
            while fixture.engine.touchCounts.delayedFaults == 0, MonotonicTime.now() < deadline { usleep(2000) }
            #expect(fixture.engine.touchCounts.delayedFaults == 1 && seen.withLock { $0 } == nil)
            hoard.letGo()
            #expect(seen.wait(deadline: .now().advanced(milliseconds: 60_000)) { $0 } == true)
        }
        #expect(fixture.engine.brokenInvariants() == [])
    }

    @Test func whatTheBackupLostIsSIGBUSAndNotZeros() async throws {
        guard (try? Userfaults.open(.full)) != nil else {
            return Machine.lacks("a full userfaultfd", so: "poisoned huge pages were not touched")
        }
        guard let reserve = try await HugePageReserve.take(16, so: Self.untried) else { return }
        defer { reserve.release() }
        let fixture = try HugeTouch(units: 8, reach: .full)
        let object = try fixture.base.makeObject(units: 2)
        #expect(fixture.engine.shrink(.all).failure == nil)
        let lost = try #require((0..<unitPages).first { !fixture.base.isExpectedZero(object, $0) })
        let data = try fixture.base.dataFile(object)
        try Files.punch(data.number, at: lost * basePageSize, length: basePageSize)
        #expect(try fixture.systemCall(on: object, lost) == .badAddress)
        #expect(try fixture.systemCall(on: object, lost + 1) == .badAddress, "its unit")
        #expect(try fixture.systemCall(on: object, unitPages) == nil)
        #expect(fixture.matches(object, unitPages))
        #expect(fixture.engine.touchCounts.poisonedPages >= 1 && fixture.engine.status().damagedPages >= 1)
        // What is made there later is not poisoned.
        try fixture.engine.destroyObject(object.id)
        let next = try fixture.engine.createObject(in: fixture.base.pool, name: "next", size: ByteCount(2 * unitBytes))
        #expect(next.offsetBytes == object.offsetBytes)
        #expect(try fixture.systemCall(on: next, lost) == nil)
        #expect(isZero(fixture.page(next, lost).baseAddress!, basePageSize))
    }

    /// A mapping has whole units, and a userfaultfd that knows of them.
    @Test func whatIsNoMappingIsRefused() async throws {
        guard let reserve = try await HugePageReserve.take(8, so: Self.untried) else { return }
        defer { reserve.release() }
        let fixture = try HugeFixture(units: 4)
        func refusal(_ address: UInt, _ offset: Int, _ length: Int, _ features: Userfaults.Features? = nil) throws -> EngineError.Code? {
            let userfaults = try Userfaults.open(.userMode)
            if let features { try Userfaults.begin(userfaults.number, features) }
            do throws(EngineError) {
                let id = try fixture.engine.registerMapping(
                    fixture.pool, userfaults: userfaults,
                    at: MappingPlace(address: address, offset: ByteCount(offset), length: ByteCount(length)))
                fixture.engine.unregisterMapping(id)
                return nil
            } catch { return error.code }
        }
        let start = UInt(bitPattern: fixture.memory.base)
        #expect(try refusal(start, basePageSize, unitBytes) == .invalidSize)
        #expect(try refusal(start, 0, basePageSize) == .invalidSize)
        #expect(try refusal(start + UInt(basePageSize), 0, unitBytes) == .invalidSize)
        #expect(try refusal(start, 0, unitBytes, Engine.touchFeatures) == .unsuitableMapping)
        #expect(try refusal(start, 0, unitBytes) == nil)
    }
}

/// A test's own objects, which it hands to its threads and joins before it lets go.
private struct UnsafeSendable<Value>: @unchecked Sendable {
    let value: Value
    init(_ value: Value) { self.value = value }
}
