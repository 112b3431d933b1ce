/// Pages of a pool that one thread works on; claims never overlap.
///
/// An object's reservation keeps its words from other operations, but a fault must not wait for it: a worker may hold it across a call that waits for the very
/// client whose fault it is. So whoever changes words or memory of a page holds a claim on the page, and what a fault may do under somebody else's claim depends on
/// the work. Whoever ends a claim wakes the pages' waiters, so a fault that meets a claim needs no place to wait: it comes again.
struct PageClaim {
    enum Work {
        /// Shrink, up to the words: a write makes the page hot, and it stays.
        case copyingOut
        /// Shrink, words set and the memory about to go: everything waits for the end.
        case freeing
        /// Explicit recover. It may wait for the file's lock, so faults bring their page themselves, write-protected.
        case copyingIn
        /// A fault is being served; it waits for the backup and for no client.
        case serving
        /// Copies in the backup go, whose pages are back.
        case dropping
        /// The object is being destroyed or emptied: its memory reads as zeros.
        case ending
        /// The content is being given up: who touches it hears so.
        case purging
    }

    let id: UInt64
    let pages: Range<Int>
    var work: Work
    var hot = HotPages()
    /// Faults that bring pages of it.
    var guests = 0
    /// A fault was told to come again since the pages were last woken.
    var wasMet = false
}

/// Pages of one run, counted from its start.
struct HotPages: Equatable {
    private var bits: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)

    static func == (a: HotPages, b: HotPages) -> Bool { a.bits == b.bits }

    var isEmpty: Bool { bits == (0, 0, 0, 0) }

    mutating func insert(_ page: Int) {
        let bit = UInt64(1) << UInt64(page & 63)
        switch page >> 6 {
        case 0: bits.0 |= bit
        case 1: bits.1 |= bit
        case 2: bits.2 |= bit
        default: bits.3 |= bit
        }
    }

    @inline(__always)
    func contains(_ page: Int) -> Bool {
        let word: UInt64
        switch page >> 6 {
        case 0: word = bits.0
        case 1: word = bits.1
        case 2: word = bits.2
        default: word = bits.3
        }
        return word >> UInt64(page & 63) & 1 != 0
    }

    /// Calls `body` with each longest run of pages of `range` that are (not) hot.
    @inline(__always)
    func forEachRun<E: Error>(of range: Range<Int>, hot: Bool, _ body: (Range<Int>) throws(E) -> Void) throws(E) {
        if isEmpty {
            if !hot, !range.isEmpty { try body(range) }
            return
        }
        var page = range.lowerBound
        while page < range.upperBound {
            guard contains(page) == hot else {
                page += 1
                continue
            }
            var end = page + 1
            while end < range.upperBound, contains(end) == hot { end += 1 }
            try body(page..<end)
            page = end
        }
    }
}
