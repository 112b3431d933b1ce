import ShrinkEngine
import ShrinkLinux
import Synchronization
import SystemPackage
import TestSupport
import Testing

@Suite struct ConcurrencyTests {
    /// Clients pin, check, rewrite and unpin while others shrink and recover everything: nobody ever sees a wrong byte.
    @Test func clientsKeepTheirBytesWhileOthersShrinkAndRecover() throws {
        let seed = testSeed("concurrency")
        let fixture = try EngineFixture(poolPages: 2048, seed: seed)
        let engine = fixture.engine
        let pool = fixture.pool
        let objects = try (0..<12).map { try fixture.makeObject(pages: 20 + $0 * 10) }
        let shared = SharedFixture(memory: fixture.memory.base, pattern: fixture.pattern)
        let isEnding = Atomic<Bool>(false)
        let moved = Monitor((out: 0, back: 0))
        let problems = Monitor<[String]>([])
        try withDedicatedThreads { threads in
            for worker in 0..<2 {
                threads.start("shrink-\(worker)") {
                    while !isEnding.load(ordering: .relaxed) {
                        let result = engine.shrink(worker == 0 ? .all : .bytes(.mebibytes(1)))
                        moved.withLock { $0.out += result.backedUpPages }
                        if let failure = result.failure { problems.withLock { $0.append("shrink: \(failure)") } }
                    }
                }
            }
            threads.start("recover") {
                while !isEnding.load(ordering: .relaxed) {
                    let result = engine.recover(.all)
                    moved.withLock { $0.back += result.recoveredPages }
                    if let failure = result.failure { problems.withLock { $0.append("recover: \(failure)") } }
                }
            }
            threads.start("churn") {
                var generator = SeededGenerator(seed: seed &+ 99)
                while !isEnding.load(ordering: .relaxed) {
                    do {
                        let object = try engine.createObject(
                            in: pool, name: "short-lived", size: ByteCount(Int.random(in: 1...200, using: &generator) * basePageSize))
                        if !shared.isZero(object) { problems.withLock { $0.append("a new object is not zero") } }
                        shared.fill(object, version: 7)
                        try engine.unpin(object.id)
                        _ = engine.shrink(.object(object.id))
                        try engine.destroyObject(object.id)
                    } catch {
                        // The pool has room for a few of them only.
                        if (error as? EngineError)?.code != .poolFull { problems.withLock { $0.append("churn: \(error)") } }
                    }
                }
            }
            for client in 0..<2 {
                threads.start("client-\(client)") {
                    var generator = SeededGenerator(seed: seed &+ UInt64(client))
                    let own = objects.enumerated().filter { $0.offset % 2 == client }.map(\.element)
                    var versions = [UInt64](repeating: 0, count: own.count)
                    for _ in 0..<150 {
                        let i = Int.random(in: 0..<own.count, using: &generator)
                        do {
                            try engine.pin(own[i].id)
                            if let bad = shared.firstMismatch(own[i], version: versions[i]) {
                                problems.withLock { $0.append("\(own[i].id) page \(bad) differs in version \(versions[i])") }
                            }
                            versions[i] += 1
                            shared.fill(own[i], version: versions[i])
                            try engine.unpin(own[i].id)
                        } catch {
                            problems.withLock { $0.append("client: \(error)") }
                        }
                    }
                    if client == 0 { isEnding.store(true, ordering: .relaxed) }
                }
            }
        }
        #expect(problems.withLock { $0.prefix(3) } == [], "seed \(seed)")
        let figures = moved.withLock { $0 }
        #expect(figures.out > 0 && figures.back > 0, "nothing moved")
        #expect(engine.status().strayPages == 0)
        #expect(engine.shrink(.all).failure == nil)
        let end = try engine.pool(pool)
        #expect(end.allocatedBytes == .zero)
        #expect(end.pages.resident == 0 && end.pages.zero + end.pages.backedUp == objects.reduce(0) { $0 + $1.pageCount })
    }
}

/// What client threads share; the mapping outlives them.
private struct SharedFixture: @unchecked Sendable {
    let memory: UnsafeMutableRawPointer
    let pattern: PagePattern

    private func page(_ object: ObjectInfo, _ page: Int) -> UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(start: memory + object.offsetBytes.rawValue + page * basePageSize, count: basePageSize)
    }

    func fill(_ object: ObjectInfo, version: UInt64) {
        for index in 0..<object.pageCount {
            pattern.fill(page(object, index), index: Int(object.id.rawValue) << 20 | index, version: version)
        }
    }

    func firstMismatch(_ object: ObjectInfo, version: UInt64) -> Int? {
        (0..<object.pageCount).first {
            !page(object, $0).elementsEqual(pattern.page(Int(object.id.rawValue) << 20 | $0, version: version))
        }
    }

    func isZero(_ object: ObjectInfo) -> Bool { (0..<object.pageCount).allSatisfy { page(object, $0).allSatisfy { $0 == 0 } } }
}
