import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@testable import ShrinkEngine

@Suite struct PageRunsTests {
    /// All runs of an object, asked for `limit` at a time.
    private func runs(_ engine: Engine, _ id: ObjectID, limit: Int = 1024) throws -> [PageRun] {
        var all: [PageRun] = []
        var first: Int? = 0
        while let start = first {
            let found = try engine.pageRuns(id, from: start, limit: limit)
            #expect(found.runs.count <= limit)
            if let last = all.last, let next = found.runs.first, last.state == next.state, last.tier == next.tier {
                all[all.count - 1].count += next.count
                all += found.runs.dropFirst()
            } else {
                all += found.runs
            }
            if let next = found.next { #expect(next > start) }
            first = found.next
        }
        return all
    }

    private func counts(_ runs: [PageRun]) -> PageCounts {
        var counts = PageCounts()
        for run in runs {
            switch run.state {
            case .resident: counts.resident += run.count
            case .zero: counts.zero += run.count
            case .backedUp: counts.backedUp += run.count
            case .empty, .purged: counts.empty += run.count
            }
        }
        return counts
    }

    @Test func runsSayWhatWasDoneWithEachPage() throws {
        let fixture = try EngineFixture()
        let object = try fixture.engine.createObject(in: fixture.pool, name: "o", size: ByteCount(64 * basePageSize))
        #expect(try runs(fixture.engine, object.id) == [PageRun(first: 0, count: 64, state: .empty)])
        // 0…7 written, 8…15 zeros that were written, 16…63 never touched.
        for page in 0..<8 { fixture.bytes(object, page)[0] = 1 }
        for page in 8..<16 { fixture.bytes(object, page)[0] = 0 }
        #expect(
            try runs(fixture.engine, object.id) == [
                PageRun(first: 0, count: 16, state: .resident), PageRun(first: 16, count: 48, state: .empty),
            ])
        try fixture.engine.unpin(object.id)
        #expect(fixture.engine.shrink(.object(object.id)).failure == nil)
        let out = try runs(fixture.engine, object.id)
        #expect(out.first == PageRun(first: 0, count: 8, state: .backedUp), "a plain directory tells no tier")
        #expect(out.dropFirst().first == PageRun(first: 8, count: 8, state: .zero))
        #expect(try counts(out) == fixture.engine.object(object.id).pages)
        #expect(try runs(fixture.engine, object.id) == out, "looking changes nothing")
        // A client that writes a zero page again has it resident, whatever the hint says.
        fixture.bytes(object, 9)[5] = 1
        #expect(try runs(fixture.engine, object.id).contains(PageRun(first: 9, count: 1, state: .resident)))
    }

    @Test func purgedPagesAreToldApart() throws {
        let fixture = try EngineFixture()
        let object = try fixture.makeObject(pages: 32)
        #expect(try fixture.engine.setPurgeable(object.id, true).retained)
        _ = fixture.engine.shrink(.object(object.id))
        #expect(try runs(fixture.engine, object.id).allSatisfy { $0.state == .purged })
    }

    @Test func anyChunkingGivesTheSameRunsAndTheCountersAgree() throws {
        let seed = testSeed("page runs")
        let fixture = try EngineFixture(seed: seed)
        let object = try fixture.makeObject(pages: 1000, zeroEvery: 3)
        _ = fixture.engine.shrink(.bytes(ByteCount(500 * basePageSize)))
        let whole = try runs(fixture.engine, object.id)
        #expect(try counts(whole) == fixture.engine.object(object.id).pages)
        #expect(whole.reduce(0) { $0 + $1.count } == 1000)
        for (a, b) in zip(whole, whole.dropFirst()) { #expect(a.first + a.count == b.first && a.state != b.state) }
        for limit in [1, 2, 7] { #expect(try runs(fixture.engine, object.id, limit: limit) == whole) }
        #expect(throws: EngineError.self) { try fixture.engine.pageRuns(object.id, from: 1001) }
        #expect(throws: EngineError.self) { try fixture.engine.pageRuns(object.id, from: -1) }
        #expect(try fixture.engine.pageRuns(object.id, from: 1000).runs.isEmpty)
    }

    // MARK: Tiers

    /// A backup with tiers told by a table, as chopped up as the test likes.
    private final class TieredBackup: Backup, TierMap {
        private let base = MemoryBackup()
        let tierOf: @Sendable (Int) -> Int?
        let pagesOfOneAnswer: Int

        init(pagesOfOneAnswer: Int, _ tierOf: @escaping @Sendable (Int) -> Int?) {
            self.pagesOfOneAnswer = pagesOfOneAnswer
            self.tierOf = tierOf
        }

        func tiers(of id: ObjectID, from first: Int) throws(EngineError) -> (runs: [TierRun], next: Int?) {
            let end = min(512, first + pagesOfOneAnswer)
            let runs = (first..<max(first, end)).compactMap { page in tierOf(page).map { TierRun(first: page, count: 1, tier: $0) } }
            return (runs, end < 512 ? end : nil)
        }

        func create(_ id: ObjectID, sizeBytes: Int, hints: BackupHints) throws(EngineError) {
            try base.create(id, sizeBytes: sizeBytes, hints: hints)
        }
        func open(_ id: ObjectID) throws(EngineError) -> BackupFile { try base.open(id) }
        func remove(_ id: ObjectID) throws(EngineError) { try base.remove(id) }
        func nextID() throws(EngineError) -> ObjectID { try base.nextID() }
        func status() -> BackupStatus { base.status() }
        var availableBytes: UInt64 { base.availableBytes }
        var isMemory: Bool { true }
        func objects() throws(EngineError) -> [ObjectID] { try base.objects() }
    }

    @Test(arguments: [1, 3, 64, 1000]) func tiersSplitTheRuns(_ pagesOfOneAnswer: Int) throws {
        let tierOf: @Sendable (Int) -> Int? = { $0 < 100 ? 0 : $0 < 130 ? 1 : $0 < 140 ? nil : 2 }
        let backup = TieredBackup(pagesOfOneAnswer: pagesOfOneAnswer, tierOf)
        let engine = try Engine(backup: backup, logger: quiet)
        let pool = try engine.createPool(name: "p", owner: 0, size: ByteCount(512 * basePageSize)).id
        let file = try engine.poolDescriptor(pool)
        let memory = try MappedMemory(sharing: file.number, count: 512 * basePageSize)
        let object = try engine.createObject(in: pool, name: "o", size: ByteCount(512 * basePageSize))
        // Pages 50 … 59 stay untouched.
        for page in 0..<200 where !(50..<60).contains(page) { memory.bytes[page * basePageSize] = 1 }
        try engine.unpin(object.id)
        #expect(engine.shrink(.object(object.id)).failure == nil)
        let expected = [
            PageRun(first: 0, count: 50, state: .backedUp, tier: 0), PageRun(first: 50, count: 10, state: .empty),
            PageRun(first: 60, count: 40, state: .backedUp, tier: 0), PageRun(first: 100, count: 30, state: .backedUp, tier: 1),
            PageRun(first: 130, count: 10, state: .backedUp), PageRun(first: 140, count: 60, state: .backedUp, tier: 2),
            PageRun(first: 200, count: 312, state: .empty),
        ]
        let found = try runs(engine, object.id).map {
            PageRun(first: $0.first, count: $0.count, state: $0.state == .zero ? .empty : $0.state, tier: $0.tier)
        }
        #expect(found == expected)
        for limit in [1, 2, 3] { #expect(try runs(engine, object.id, limit: limit).map(\.count) == expected.map(\.count)) }
    }

    @Test func aTierListIsReadAndNonsenseInItIsNot() {
        let answer = BackupDirectory.parse("0 12 0\n12 3 1\nrubbish\n1 2\n20 0 1\nnext 99\n")
        #expect(answer.runs == [TierRun(first: 0, count: 12, tier: 0), TierRun(first: 12, count: 3, tier: 1)])
        #expect(answer.next == 99)
    }
}
