import TestSupport
import Testing

@testable import ShrinkEngine

/// A mask against a set, at its edges and at random.
@Suite struct RunMaskTests {
    @Test func itsRunsAreThoseOfASet() throws {
        var generator = SeededGenerator(seed: testSeed("run mask"))
        for round in 0..<2000 {
            var mask = RunMask()
            var model = [Bool](repeating: false, count: RunMask.limit)
            // Empty, full, sparse, dense, and whole stretches.
            let share = [0, 256, 3, 250, 128][round % 5]
            var page = 0
            while page < RunMask.limit {
                let length = round % 2 == 0 ? 1 : Int.random(in: 1...70, using: &generator)
                let isIn = Int.random(in: 0..<256, using: &generator) < share
                for other in page..<min(page + length, RunMask.limit) where isIn {
                    mask.insert(other)
                    model[other] = true
                }
                page += length
            }
            var found = [Bool](repeating: false, count: RunMask.limit)
            var from = 0
            while let run = mask.nextRun(from: from) {
                #expect(run.lowerBound >= from && !run.isEmpty && run.upperBound <= RunMask.limit)
                // As long as it can be.
                if run.upperBound < RunMask.limit { #expect(!model[run.upperBound]) }
                for other in run { found[other] = true }
                from = run.upperBound
            }
            #expect(found == model, "round \(round)")
            #expect(mask.nextRun(from: RunMask.limit) == nil)
        }
    }
}
