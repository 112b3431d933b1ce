import PageStore
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@Suite struct FaultTests {
    @Test(arguments: [
        "op=write errno=EIO every=100 count=3", "op=read delay_ms=20 probability=0.25 object=7", "op=punch errno=ENOSPC every=1",
    ]) func aRuleIsItsText(_ text: String) throws {
        let rule = try #require(FaultRule(text: text))
        #expect(rule.text == text)
        #expect(FaultRule(text: rule.text + " seen=12 hits=3") == rule, "a listing can be set again")
    }

    @Test(arguments: [
        "", "op=write", "errno=EIO", "op=fly errno=EIO", "op=write errno=ENOSYS", "op=write errno=EINTR", "op=write errno=EIO delay_ms=1",
        "op=write delay_ms=0", "op=write delay_ms=10001", "op=write errno=EIO probability=1.5", "op=write errno=EIO probability=nan",
        "op=write errno=EIO probability=0.5 every=2", "op=write errno=EIO every=0", "op=write errno=EIO count=0",
        "op=write errno=EIO object=0", "op=write errno=EIO object=x", "op=write op=read errno=EIO", "op=write errno=EIO colour=red",
        "write",
    ]) func whatIsNoRuleIsRefused(_ text: String) { #expect(FaultRule(text: text) == nil) }

    @Test func everyOperationCanBeNamed() {
        for operation in FaultOperation.allCases { #expect(FaultRule(text: "op=\(operation.rawValue) errno=EIO")?.operation == operation) }
        for name in FaultError.names { #expect(FaultRule(text: "op=read errno=\(name)") != nil) }
    }

    @Test func addingReplacingAndClearing() throws {
        let rules = FaultRules()
        try rules.take("op=write errno=EIO every=2\nop=read errno=EIO")
        try rules.take("+ op=sync delay_ms=5; op=seek errno=EIO")
        #expect(rules.listed.map(\.rule.operation) == [.write, .read, .sync, .seek])
        #expect(throws: FaultRules.Refusal.malformed) { try rules.take("op=write errno=EIO\nnonsense") }
        #expect(throws: FaultRules.Refusal.malformed) { try rules.take("+") }
        let many = String(repeating: "op=write errno=EIO\n", count: FaultRules.limit)
        #expect(throws: FaultRules.Refusal.tooMany) { try rules.take("+" + many) }
        #expect(rules.listed.count == 4, "what is refused changes nothing")
        try rules.take(many)
        #expect(rules.listed.count == FaultRules.limit)
        try rules.take("")
        #expect(rules.text.isEmpty)
    }

    // MARK: On a store

    enum Layout: String, CaseIterable { case raw, packed }

    private func withFaults<R>(_ layout: Layout, _ body: (any StoredObject, any ObjectStore, FaultRules) throws -> R) throws -> R {
        let scratch = try ScratchDirectory()
        let rules = FaultRules()
        func run(_ base: some ObjectStore) throws -> R {
            defer { base.close() }
            let store = FaultyStore(base, rules)
            return try body(try store.create(try #require(StoredObjectID(rawValue: 1))), store, rules)
        }
        return try withExtendedLifetime(scratch) {
            switch layout {
            case .raw: return try run(try RawStore(scratch.path))
            case .packed:
                var options = PackedOptions()
                options.segmentBytes = 1 << 20
                return try run(try PackedStore(directories: [scratch.path], options: options))
            }
        }
    }

    private func write(_ byte: UInt8, to object: any StoredObject, page: Int) -> Errno? {
        let bytes = [UInt8](repeating: byte, count: basePageSize - 1) + [byte &+ 1]
        do throws(Errno) {
            let count = try bytes.withBytes { (b) throws(Errno) in try object.write(b, at: page * basePageSize, .buffered) }
            return count == basePageSize ? nil : .ioError
        } catch {
            return error
        }
    }

    @Test(arguments: Layout.allCases) func everyNthCallFailsAndChangesNothing(_ layout: Layout) throws {
        try withFaults(layout) { object, store, rules in
            for page in 0..<8 { #expect(write(1, to: object, page: page) == nil) }
            try rules.take("op=write errno=ENOSPC every=3 count=2")
            let outcomes = (0..<12).map { write(2, to: object, page: $0 % 8) }
            #expect(outcomes == [nil, nil, .noSpace, nil, nil, .noSpace, nil, nil, nil, nil, nil, nil], "every third, and twice at most")
            #expect(rules.listed.map(\.hits) == [2])
            #expect(rules.listed.map(\.seen) == [12])
            // The third write was to page 2 and the sixth to page 5; later writes reached 0 … 3 only.
            var bytes = [UInt8](repeating: 0, count: basePageSize)
            for (page, expected) in [(5, UInt8(1)), (4, 2), (6, 2)] {
                _ = try bytes.withMutableBytes { (b) throws(Errno) in try object.read(into: b, at: page * basePageSize) }
                #expect(bytes[0] == expected, "page \(page)")
            }
        }
    }

    @Test(arguments: Layout.allCases) func eachOperationIsHitByItsOwnRuleAlone(_ layout: Layout) throws {
        try withFaults(layout) { object, store, rules in
            #expect(write(1, to: object, page: 0) == nil)
            let id = object.id
            let index = try #require(StoredPageIndex(rawValue: 0))
            var bytes = [UInt8](repeating: 0, count: basePageSize)
            let calls: [(FaultOperation, () throws -> Void)] = [
                (.open, { _ = try store.object(id) }),
                (.create, { _ = try store.create(try #require(StoredObjectID(rawValue: UInt32.random(in: 2...9_999_999)))) }),
                (.resize, { try object.setSize(4 * basePageSize) }),
                (.read, { _ = try bytes.withMutableBytes { (b) throws(Errno) in try object.read(into: b, at: 0) } }),
                (.read, { _ = try bytes.withMutableBytes { (b) throws(Errno) in try object.snapshot(of: index, into: b) } }),
                (.write, { if let error = self.write(1, to: object, page: 0) { throw error } }),
                (.punch, { try object.punch(at: 2 * basePageSize, length: basePageSize) }), (.sync, { try object.sync() }),
                (.seek, { _ = try object.nextData(from: 0) }), (.seek, { _ = try object.nextHole(from: 0) }),
                (.status, { _ = try object.attributes }), (.status, { _ = try object.page(index) }),
                (.status, { _ = try object.pagesByTier() }), (.list, { _ = try object.pages(from: index, limit: 9) }),
                (.hint, { try object.setHint(.name, to: "n") }), (.remove, { try store.remove(id) }),
            ]
            #expect(Set(calls.map(\.0)) == Set(FaultOperation.allCases))
            for operation in FaultOperation.allCases {
                try rules.take("op=\(operation.rawValue) errno=ETIMEDOUT")
                for (other, call) in calls where other == operation || other != .remove {
                    var met: Errno?
                    do { try call() } catch { met = error as? Errno }
                    #expect(
                        (met == .timedOut) == (other == operation),
                        "\(other) with a fault on \(operation): \(met.map { "\($0)" } ?? "done")")
                }
            }
            #expect(object.backingFile == nil)
            #expect(store.facts().contains { $0.key == "faults.allowed" && $0.value == "yes" })
        }
    }

    @Test func aRuleOfOneObjectLeavesTheOthersAlone() throws {
        try withFaults(.raw) { object, store, rules in
            let other = try store.create(try #require(StoredObjectID(rawValue: 2)))
            try rules.take("op=write errno=EIO object=2")
            #expect(write(1, to: object, page: 0) == nil)
            #expect(write(1, to: other, page: 0) == .ioError)
            #expect(rules.listed[0].seen == 1)
        }
    }

    @Test func probabilityIsAShareOfCalls() throws {
        try withFaults(.raw) { object, _, rules in
            try rules.take("op=seek errno=EIO probability=0.1\nop=status errno=EIO probability=0\nop=sync errno=EIO probability=1")
            var failed = 0
            for _ in 0..<20_000 { do { _ = try object.nextData(from: 0) } catch { failed += 1 } }
            // Nine standard deviations: by chance once in 10^18 runs.
            #expect((1620...2380).contains(failed), "\(failed) of 20000")
            #expect(rules.listed[0].hits == UInt64(failed))
            #expect(throws: Never.self) { for _ in 0..<1000 { _ = try object.attributes } }
            #expect(throws: Errno.ioError) { try object.sync() }
        }
    }

    @Test func aDelayHoldsTheCallAndClearingLetsItGo() throws {
        try withFaults(.raw) { object, _, rules in
            try rules.take("op=sync delay_ms=30")
            var start = MonotonicTime.now()
            try object.sync()
            #expect(MonotonicTime.now().nanoseconds(since: start) >= 30_000_000)
            try rules.take("op=sync delay_ms=10000")
            start = .now()
            let thread = try DedicatedThread("held") { try? object.sync() }
            while rules.listed.first?.hits != 1, MonotonicTime.now().nanoseconds(since: start) < 5_000_000_000 { pause() }
            #expect(rules.listed.first?.hits == 1, "it was held")
            try rules.take("")
            thread.join()
            #expect(MonotonicTime.now().nanoseconds(since: start) < 9_000_000_000)
        }
    }

    /// A pause between two looks at a condition.
    private func pause() { _ = Monitor(()).wait(deadline: .now().advanced(milliseconds: 1)) { _ in Void?.none } }
}
