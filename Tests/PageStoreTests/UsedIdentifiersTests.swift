import TestSupport
import Testing

@testable import PageStore

@Suite struct UsedIdentifiersTests {
    @Test func theyAgreeWithASetInAnyOrder() {
        var generator = SeededGenerator(seed: testSeed("used ids"))
        for _ in 0..<50 {
            var used = UsedIdentifiers(upTo: 20)
            var model = Set(UInt32(1)...20)
            for _ in 0..<400 {
                let id = UInt32.random(in: 1...300, using: &generator)
                #expect(used.contains(id) == model.contains(id))
                let isNew = used.insert(id)
                #expect(isNew == model.insert(id).inserted)
                #expect(used.highest == model.max())
            }
        }
    }

    @Test func theyTakeBoundedMemoryAndNeverForgetAnID() {
        var used = UsedIdentifiers(upTo: 0, limit: 16)
        for id in stride(from: UInt32(2), through: 400, by: 2) {
            let isNew = used.insert(id)
            #expect(isNew)
        }
        for id in stride(from: UInt32(2), through: 400, by: 2) { #expect(used.contains(id)) }
        #expect(!used.contains(399))
        let (first, second) = (used.insert(.max), used.insert(.max))
        #expect(first && !second)
        #expect(used.highest == .max)
    }

    @Test func rangesFromSeveralSourcesMerge() {
        let used = UsedIdentifiers(merging: [10...12, 1...3, 4...4, 11...20, 100...100, UInt32.max...UInt32.max, 7...7])
        #expect(used.ranges == [1...4, 7...7, 10...20, 100...100, UInt32.max...UInt32.max])
        #expect(UsedIdentifiers(merging: used.ranges, limit: 2).ranges == [1...100, UInt32.max...UInt32.max])
    }
}
