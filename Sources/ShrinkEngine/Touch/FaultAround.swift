/// How many pages a fault brings back: twice as many as the last time while a thread goes through a mapping in order, few where it jumps. And what is
/// brought ahead of a thread that goes on.
///
/// Several threads may go through one mapping; each of the last few places where a fault was served may be continued.
///
/// A thread that finds its pages there tells nobody where it is. So where much is brought ahead one page of it is left out, the *marker*: the
/// thread's fault there asks for more while it still has plenty in front of it.
struct FaultAround {
    /// A place where somebody is expected next.
    private struct Stream {
        /// The last fault; -1 is nowhere.
        var last = -1
        /// The end of what was brought or is being brought.
        var frontier = -1
        /// A page before the frontier that was left out.
        var marker = -1
        var window = 1
        var usedAt = 0

        /// A page that nobody brings belongs here.
        func continues(at page: Int) -> Bool {
            guard last >= 0, page >= last else { return false }
            return page == marker || page >= frontier - FaultAround.longest && page < frontier + FaultAround.slack
        }
    }

    /// What is to be done for a fault.
    struct Window: Equatable {
        /// Pages to bring at once.
        var count: Int
        /// Pages to bring ahead, or nothing.
        var ahead: Range<Int>?
    }

    static let longest = EngineLimits.runPages
    /// Pages that were there already are passed over, up to so many.
    private static let slack = 64
    private static let longestAfterJump = 8
    /// A window of this length is worth fetching what follows before it is asked for.
    private static let aheadFrom = 16
    /// What is ahead of a thread at most, in windows of its own.
    static let aheadWindows = 8
    /// What the thread itself waits for, once the rest is fetched ahead.
    private static let first = 32
    /// A marker is left out no nearer than this to the thread.
    private static let markerDistance = 1280
    /// In faults.
    private static let lately = 16

    private var streams = (Stream(), Stream(), Stream(), Stream())
    private var clock = 0

    /// Pages to bring for a fault at `page` that nobody brings yet, before what bounds it is known.
    mutating func window(at page: Int) -> Window {
        clock += 1
        guard let i = index(where: { $0.continues(at: page) }) else {
            // A jump: the stream that was used least recently makes room, and what it had learned fades.
            let i = oldest
            let window = max(1, min(self[i].window / 4, Self.longestAfterJump))
            self[i] = Stream(last: page, frontier: page + window, window: window, usedAt: clock)
            return Window(count: window)
        }
        grow(i, at: page)
        guard self[i].window >= Self.aheadFrom else {
            self[i].frontier = max(self[i].frontier, page + self[i].window)
            return Window(count: self[i].window)
        }
        // A marker's neighbours are there.
        let count = page == self[i].marker ? 1 : Self.first
        self[i].frontier = max(self[i].frontier, page + count)
        return Window(count: count, ahead: ahead(of: i))
    }

    /// A fault at a page that is being brought: what to bring ahead now.
    mutating func met(_ page: Int) -> Range<Int>? {
        guard let i = index(where: { $0.last >= 0 && page >= $0.last && page < $0.frontier }) else { return nil }
        clock += 1
        grow(i, at: page)
        return self[i].window >= Self.aheadFrom ? ahead(of: i) : nil
    }

    /// Pages are going to be brought ahead: no fault starts anew before their end.
    mutating func reserved(_ pages: Range<Int>) {
        if let i = index(where: { $0.last >= 0 && pages.lowerBound >= $0.last && $0.continues(at: pages.lowerBound) }) {
            self[i].frontier = max(self[i].frontier, pages.upperBound)
        }
    }

    /// Whether pages about to be brought should leave out their first one.
    mutating func takesMarker(_ pages: Range<Int>) -> Bool {
        guard
            let i = index(where: {
                $0.last >= 0 && pages.lowerBound >= $0.last + Self.markerDistance && $0.marker <= $0.last
                    && $0.continues(at: pages.lowerBound)
            })
        else { return false }
        self[i].marker = pages.lowerBound
        return true
    }

    private mutating func grow(_ i: Int, at page: Int) {
        // The same fault again, or another thread's, tells nothing new.
        if page > self[i].last { self[i].window = min(self[i].window * 2, Self.longest) }
        self[i].last = page
        self[i].usedAt = clock
    }

    private func ahead(of i: Int) -> Range<Int>? {
        let end = self[i].last + self[i].window * Self.aheadWindows
        return self[i].frontier < end ? self[i].frontier..<end : nil
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

    /// Who jumps must not take the place of who goes on, rarely faults, and was here lately.
    private var oldest: Int {
        func age(_ i: Int) -> Int {
            let isGoingOn = self[i].window >= Self.aheadFrom && clock - self[i].usedAt <= Self.lately
            return isGoingOn ? clock - self[i].usedAt - Self.lately : clock - self[i].usedAt + Self.lately
        }
        return (0..<4).max { age($0) < age($1) } ?? 0
    }

    private func index(where matches: (Stream) -> Bool) -> Int? { (0..<4).first { matches(self[$0]) } }
}
