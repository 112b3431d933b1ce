/// Some of the pages of one run, by their numbers in it. A value without memory of its own: calls that are written down carry it.
struct RunMask: Sendable, Equatable {
    private var words: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)

    /// As many pages as a run may have (`EngineLimits.runPages`): four words.
    static let limit = EngineLimits.runPages

    init() {}

    /// The first `count` pages.
    init(first count: Int) { for page in 0..<count { insert(page) } }

    var count: Int { words.0.nonzeroBitCount + words.1.nonzeroBitCount + words.2.nonzeroBitCount + words.3.nonzeroBitCount }

    /// Those of both.
    func intersection(_ other: RunMask) -> RunMask {
        var both = RunMask()
        both.words = (words.0 & other.words.0, words.1 & other.words.1, words.2 & other.words.2, words.3 & other.words.3)
        return both
    }

    /// Those that are not in the other.
    func subtracting(_ other: RunMask) -> RunMask {
        var rest = RunMask()
        rest.words = (words.0 & ~other.words.0, words.1 & ~other.words.1, words.2 & ~other.words.2, words.3 & ~other.words.3)
        return rest
    }

    var isEmpty: Bool { words == (0, 0, 0, 0) }

    static func == (a: RunMask, b: RunMask) -> Bool { a.words == b.words }

    /// `page` is below `limit`.
    @inline(__always)
    mutating func insert(_ page: Int) {
        precondition(page >= 0 && page < Self.limit)
        let bit: UInt64 = 1 << UInt64(page & 63)
        switch page >> 6 {
        case 0: words.0 |= bit
        case 1: words.1 |= bit
        case 2: words.2 |= bit
        case 3: words.3 |= bit
        default: preconditionFailure("a run has more pages than a mask has bits")
        }
    }

    @inline(__always)
    private func word(_ index: Int) -> UInt64 {
        switch index {
        case 0: words.0
        case 1: words.1
        case 2: words.2
        case 3: words.3
        default: 0
        }
    }

    @inline(__always)
    func contains(_ page: Int) -> Bool { word(page >> 6) >> UInt64(page & 63) & 1 == 1 }

    /// The first page at or after `page` that is in it, or is not in it; `limit` if there is none.
    @inline(__always)
    private func next(_ isIn: Bool, from page: Int) -> Int {
        var index = page >> 6
        var rest = (isIn ? word(index) : ~word(index)) & (UInt64.max << UInt64(page & 63))
        while index < Self.limit >> 6 {
            if rest != 0 { return index << 6 + rest.trailingZeroBitCount }
            index += 1
            rest = isIn ? word(index) : ~word(index)
        }
        return Self.limit
    }

    /// The next neighbours in it, at or after `page`; nil if there are none.
    @inline(__always)
    func nextRun(from page: Int) -> Range<Int>? {
        guard page < Self.limit else { return nil }
        let first = next(true, from: page)
        return first < Self.limit ? first..<next(false, from: first) : nil
    }

    /// Calls `body` with each longest run of pages of `range` that are, or are not, in it.
    @inline(__always)
    func forEachRun<E: Error>(of range: Range<Int>, isIn: Bool, _ body: (Range<Int>) throws(E) -> Void) throws(E) {
        var page = range.lowerBound
        while page < range.upperBound {
            let first = next(isIn, from: page)
            guard first < range.upperBound else { return }
            let end = min(next(!isIn, from: first), range.upperBound)
            try body(first..<end)
            page = end
        }
    }
}
