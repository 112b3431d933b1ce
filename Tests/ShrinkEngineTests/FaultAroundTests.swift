import Testing

@testable import ShrinkEngine

/// What is brought around a fault, and ahead of it.
@Suite struct FaultAroundTests {
    /// Faults of a thread that reads on as soon as its page is there, one window after the other.
    private func faults(_ around: inout FaultAround, from start: Int, count: Int) -> [FaultAround.Window] {
        var page = start
        var windows: [FaultAround.Window] = []
        for _ in 0..<count {
            let window = around.window(at: page)
            windows.append(window)
            if let ahead = window.ahead { around.reserved(ahead) }
            page = max(page + window.count, window.ahead?.upperBound ?? 0)
        }
        return windows
    }

    @Test func itDoublesInOrderAndThenFetchesAhead() {
        var around = FaultAround()
        let windows = faults(&around, from: 1000, count: 10)
        #expect(windows.prefix(4).map(\.count) == [1, 2, 4, 8])
        #expect(windows.prefix(4).allSatisfy { $0.ahead == nil })
        #expect(windows.dropFirst(4).allSatisfy { $0.count <= 32 && $0.ahead != nil }, "who waits goes on soon, the rest is fetched ahead")
        let last = windows.last?.ahead?.count ?? 0
        #expect(last <= FaultAround.longest * FaultAround.aheadWindows && last > FaultAround.longest)
    }

    @Test func aJumpBringsFewAndSoonOne() {
        var around = FaultAround()
        _ = faults(&around, from: 0, count: 12)
        let counts = (1...12).map { around.window(at: 100_000 * $0).count }
        #expect(counts.allSatisfy { $0 <= 8 })
        #expect(counts.last == 1)
    }

    /// Somebody reads at random between two faults of somebody who reads in order and faults rarely.
    @Test func whoJumpsDoesNotPushOutWhoGoesOn() {
        var around = FaultAround()
        var page = 0
        for i in 0..<30 {
            let window = around.window(at: page)
            if let ahead = window.ahead { around.reserved(ahead) }
            page = max(page + window.count, window.ahead?.upperBound ?? 0)
            // At first it is as young as they are.
            if i < 8 { continue }
            for k in 0..<10 { _ = around.window(at: 1_000_000 + 10_000 * (i * 10 + k)) }
        }
        let next = around.window(at: page)
        #expect(next.ahead != nil)
    }

    @Test func piecesThatAreBroughtOutOfTurnAreOneStream() {
        var around = FaultAround()
        let windows = faults(&around, from: 0, count: 8)
        let end = windows.last?.ahead?.upperBound ?? 0
        // The second piece is begun before the first, and the thread comes to the first meanwhile.
        around.reserved(end + 32..<end + 64)
        let next = around.window(at: end)
        #expect(next.ahead != nil)
        around.reserved(end + 64..<end + 128)
        let met = around.met(end + 70)
        #expect(met != nil, "who meets what is being brought wants what follows")
        let elsewhere = around.met(end + 100_000)
        #expect(elsewhere == nil)
    }

    @Test func aMarkerFarAheadAsksForMore() throws {
        var around = FaultAround()
        let windows = faults(&around, from: 0, count: 12)
        let window = try #require(windows.last)
        let ahead = try #require(window.ahead)
        let last = ahead.lowerBound - window.count
        let near = around.takesMarker(last + 100..<last + 200)
        #expect(!near, "near the thread nothing is left out")
        let marker = ahead.upperBound
        around.reserved(last..<marker)
        let first = around.takesMarker(marker..<marker + 256)
        #expect(first)
        let second = around.takesMarker(marker + 1..<marker + 256)
        #expect(!second, "one is enough")
        around.reserved(marker + 1..<marker + 600)
        // The thread comes to the marker: only that page is missing, and the next pages are asked for.
        let next = around.window(at: marker)
        #expect(next.count == 1)
        #expect(next.ahead?.lowerBound == marker + 600)
    }
}
