/// How many pages a fault brings back: twice as many as the last time while a thread goes through a mapping in order, few where it jumps.
///
/// Several threads may go through one mapping; each of the last few places where a fault was served may be continued.
struct FaultAround {
    /// A place where somebody is expected next.
    private struct Stream {
        /// The page behind the last window; -1 is nowhere.
        var next = -1
        var window = 1
        var usedAt = 0
    }

    static let longest = EngineLimits.runPages
    /// Pages that were there already are passed over, up to so many.
    private static let slack = 64
    private static let longestAfterJump = 8
    /// A window of this length is worth fetching the next one before it is asked for.
    static let aheadFrom = 16

    private var streams = (Stream(), Stream(), Stream(), Stream())
    private var clock = 0

    /// Pages to bring for a fault at `page`, before what bounds it is known.
    mutating func window(at page: Int) -> (pages: Int, isSequential: Bool) {
        clock += 1
        if let i = index(where: { $0.next >= 0 && page >= $0.next && page < $0.next + Self.slack }) {
            let window = min(self[i].window * 2, Self.longest)
            self[i] = Stream(next: page + window, window: window, usedAt: clock)
            return (window, true)
        }
        // A jump: the stream that was used least recently makes room, and what it had learned fades.
        let i = oldest
        let window = max(1, min(self[i].window / 4, Self.longestAfterJump))
        self[i] = Stream(next: page + window, window: window, usedAt: clock)
        return (window, false)
    }

    /// What really came for that fault ends here.
    mutating func served(from page: Int, to end: Int) {
        if let i = index(where: { $0.usedAt == clock }) { self[i].next = end }
    }

    /// Pages `from ..< to` were brought ahead: whoever comes through them goes on behind.
    mutating func advanced(from page: Int, to end: Int) {
        if let i = index(where: { $0.next >= page && $0.next < end }) {
            self[i].next = end
            self[i].window = min(max(self[i].window, end - page), Self.longest)
        }
    }

    private subscript(i: Int) -> Stream {
        get {
            switch i {
            case 0: streams.0
            case 1: streams.1
            case 2: streams.2
            default: streams.3
            }
        }
        set {
            switch i {
            case 0: streams.0 = newValue
            case 1: streams.1 = newValue
            case 2: streams.2 = newValue
            default: streams.3 = newValue
            }
        }
    }

    private var oldest: Int { (0..<4).min { self[$0].usedAt < self[$1].usedAt } ?? 0 }

    private func index(where matches: (Stream) -> Bool) -> Int? { (0..<4).first { matches(self[$0]) } }
}
