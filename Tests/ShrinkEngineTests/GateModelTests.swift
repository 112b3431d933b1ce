import ShrinkClient
import ShrinkLinux
import ShrinkProtocol
import Synchronization
import SystemPackage
import TestSupport
import Testing

@testable import ShrinkEngine

@Suite struct GateModelTests {
    /// Random histories of several threads against one rule: from a pin that succeeded to its unpin no page of the object is copied, freed or brought
    /// back. The engine itself is asked at every step of its own, through its fault points.
    @Test func noPageOfAPinnedObjectIsEverTouched() throws {
        let seed = testSeed("gate model")
        let steps = environmentValue("SHRINKD_GATE_STEPS").flatMap { Int($0) } ?? 400
        // By object: threads that are between pin and unpin. A pin enters before it counts, and leaves before it unpins.
        let inside = PinLedger()
        let touched = Atomic<Int>(0)
        let problems = Monitor<[String]>([])
        let fixture = try EngineFixture(poolPages: 2048, seed: seed) { configuration in
            configuration.faults = { point, object, page in
                switch point {
                case .beforeCopyOut, .afterCopyOut, .afterWords, .afterFree, .beforeCopyIn, .afterCopyIn, .afterPurgeMark:
                    touched.wrappingAdd(1, ordering: .relaxed)
                    if inside.isPinned(object.rawValue) {
                        problems.withLock { $0.append("\(point) at page \(page.rawValue) of \(object), which is pinned") }
                    }
                default: break
                }
                return nil
            }
        }
        let engine = fixture.engine
        let objects = try (0..<8).map { try fixture.makeObject(pages: 4 + $0 * 3, zeroEvery: 3) }
        let users = try (0..<3).map { _ in try GateUser(engine) }
        let attachments = try users.map { user in try objects.map { try engine.attachGate($0.id, client: user.id) } }
        // One writer an object at a time: content is checked, so clients agree among each other as real ones would.
        let writers = objects.map { _ in Monitor<UInt64>(0) }
        let content = SharedPages(memory: fixture.memory.base, pattern: fixture.pattern)
        let isEnding = Atomic<Bool>(false)
        let gatePins = Atomic<Int>(0)
        let socketPins = Atomic<Int>(0)
        try withDedicatedThreads { threads in
            for (index, user) in users.enumerated() {
                threads.start("client-\(index)") {
                    var generator = SeededGenerator(seed: seed &+ UInt64(index))
                    for _ in 0..<steps {
                        let i = Int.random(in: 0..<objects.count, using: &generator)
                        let gate = user.gate(attachments[index][i])
                        if gate.pin() != nil {
                            gatePins.wrappingAdd(1, ordering: .relaxed)
                        } else {
                            do { try engine.pinGate(objects[i].id, client: user.id) } catch {
                                problems.withLock { $0.append("pin: \(error)") }
                                continue
                            }
                            socketPins.wrappingAdd(1, ordering: .relaxed)
                        }
                        inside.enter(objects[i].id.rawValue)
                        writers[i].withLock { version in
                            if let bad = content.firstMismatch(objects[i], version: version) {
                                problems.withLock { $0.append("\(objects[i].id) page \(bad) differs in version \(version)") }
                            }
                            version += 1
                            content.fill(objects[i], version: version)
                        }
                        inside.leave(objects[i].id.rawValue)
                        if !gate.unpin() { problems.withLock { $0.append("the pin of \(objects[i].id) is gone") } }
                    }
                    if index == 0 { isEnding.store(true, ordering: .relaxed) }
                }
            }
            for worker in 0..<2 {
                threads.start("shrink-\(worker)") {
                    while !isEnding.load(ordering: .relaxed) {
                        let result = worker == 0 ? engine.shrink(.all) : engine.shrink(.bytes(ByteCount(8 * basePageSize)))
                        if let failure = result.failure { problems.withLock { $0.append("shrink: \(failure)") } }
                    }
                }
            }
            threads.start("recover") {
                while !isEnding.load(ordering: .relaxed) {
                    if let failure = engine.recover(.all).failure { problems.withLock { $0.append("recover: \(failure)") } }
                }
            }
        }
        #expect(problems.withLock { $0.prefix(3) } == [], "seed \(seed)")
        #expect(touched.load(ordering: .relaxed) > 0 && gatePins.load(ordering: .relaxed) > 0 && socketPins.load(ordering: .relaxed) > 0)
        #expect(engine.status().strayPages == 0)
        #expect(engine.shrink(.all).failure == nil)
        #expect(engine.brokenInvariants() == [], "seed \(seed)")
    }

    /// A client that writes nonsense into its gates, all the time: its own object may suffer, nobody else's, and the engine neither stops nor errs.
    @Test func aScribblerHarmsOnlyItsOwnObjects() throws {
        let seed = testSeed("gate scribbler")
        let fixture = try EngineFixture(poolPages: 1024, seed: seed)
        let engine = fixture.engine
        let (bad, good) = (try GateUser(engine), try GateUser(engine))
        let badObjects = try (0..<4).map { _ in try fixture.makeObject(pages: 6, zeroEvery: 3) }
        let goodObjects = try (0..<4).map { _ in try fixture.makeObject(pages: 6, zeroEvery: 3) }
        for object in badObjects { _ = try engine.attachGate(object.id, client: bad.id) }
        let gates = try goodObjects.map { try engine.attachGate($0.id, client: good.id) }
        let content = SharedPages(memory: fixture.memory.base, pattern: fixture.pattern)
        let isEnding = Atomic<Bool>(false)
        let problems = Monitor<[String]>([])
        try withDedicatedThreads { threads in
            threads.start("scribbler") {
                var generator = SeededGenerator(seed: seed)
                let words = bad.memory.base.assumingMemoryBound(to: UInt64.self)
                while !isEnding.load(ordering: .relaxed) {
                    for gate in 0..<16 {
                        var word: UInt64 = generator.next()
                        // Often small changes of a plausible word: those hurt more than noise.
                        if generator.next() % 2 == 0 { word = AtomicMemory.load(words + gate) ^ (1 << (generator.next() % 64)) }
                        _ = AtomicMemory.exchange(words + gate, word)
                    }
                }
            }
            threads.start("scribbler's calls") {
                while !isEnding.load(ordering: .relaxed) {
                    for object in badObjects {
                        _ = try? engine.pinGate(object.id, client: bad.id)
                        _ = try? engine.object(object.id)
                    }
                }
            }
            threads.start("good") {
                var generator = SeededGenerator(seed: seed &+ 1)
                for _ in 0..<800 {
                    let i = Int.random(in: 0..<goodObjects.count, using: &generator)
                    let gate = good.gate(gates[i])
                    do {
                        if gate.pin() == nil { try engine.pinGate(goodObjects[i].id, client: good.id) }
                    } catch {
                        problems.withLock { $0.append("good: \(error)") }
                        continue
                    }
                    if let page = content.firstMismatch(goodObjects[i], version: 0) {
                        problems.withLock { $0.append("\(goodObjects[i].id) page \(page) differs") }
                    }
                    if !gate.unpin() { problems.withLock { $0.append("a good pin is gone") } }
                }
                isEnding.store(true, ordering: .relaxed)
            }
            threads.start("shrink") {
                while !isEnding.load(ordering: .relaxed) {
                    if let failure = engine.shrink(.all).failure { problems.withLock { $0.append("shrink: \(failure)") } }
                    _ = engine.recover(.all)
                }
            }
        }
        #expect(problems.withLock { $0.prefix(3) } == [], "seed \(seed)")
        engine.removeGateClient(bad.id)
        #expect(engine.shrink(.all).failure == nil)
        for object in badObjects { #expect(try engine.object(object.id).pages.resident == 0) }
        #expect(engine.brokenInvariants() == [], "seed \(seed)")
        for object in badObjects { try engine.destroyObject(object.id) }
    }
}

/// How many threads are inside a pin of each object.
private final class PinLedger: Sendable {
    private let counts = Mutex<[UInt32: Int]>([:])
    func enter(_ object: UInt32) { counts.withLock { $0[object, default: 0] += 1 } }
    func leave(_ object: UInt32) { counts.withLock { $0[object, default: 0] -= 1 } }
    func isPinned(_ object: UInt32) -> Bool { counts.withLock { ($0[object] ?? 0) > 0 } }
}

/// The pool as its clients see it; the mapping outlives them.
private struct SharedPages: @unchecked Sendable {
    let memory: UnsafeMutableRawPointer
    let pattern: PagePattern

    private func page(_ object: ObjectInfo, _ page: Int) -> UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(start: memory + object.offsetBytes.rawValue + page * basePageSize, count: basePageSize)
    }

    func fill(_ object: ObjectInfo, version: UInt64) {
        for index in 0..<object.pageCount {
            pattern.fill(page(object, index), index: Int(object.id.rawValue) << 20 | index, version: version, zeroEvery: 3)
        }
    }

    func firstMismatch(_ object: ObjectInfo, version: UInt64) -> Int? {
        (0..<object.pageCount).first {
            !page(object, $0).elementsEqual(pattern.page(Int(object.id.rawValue) << 20 | $0, version: version, zeroEvery: 3))
        }
    }
}
