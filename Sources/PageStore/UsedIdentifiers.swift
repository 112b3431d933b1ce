/// Which object ids were ever used: ids are given once in a store's life.
///
/// Kept as ranges. Ids mostly come in ascending order, so there are few; where there would be more than `limit`, the gap that is lowest counts as
/// used, which loses ids nobody asked for and never gives one twice.
struct UsedIdentifiers {
    /// Ascending, none touching another.
    private(set) var ranges: [ClosedRange<UInt32>] = []
    private let limit: Int

    /// Everything up to `mark` counts as used.
    init(upTo mark: UInt32, limit: Int = 65536) {
        precondition(limit > 1, "there is always a lowest range and a highest")
        self.limit = limit
        if mark > 0 { ranges = [1...mark] }
    }

    /// What several sources say was used, in any order and overlapping.
    init(merging sources: [ClosedRange<UInt32>], limit: Int = 65536) {
        precondition(limit > 1, "there is always a lowest range and a highest")
        self.limit = limit
        for range in sources.sorted(by: { $0.lowerBound < $1.lowerBound }) {
            if let last = ranges.last, last.upperBound == .max || range.lowerBound <= last.upperBound + 1 {
                ranges[ranges.count - 1] = last.lowerBound...max(last.upperBound, range.upperBound)
            } else {
                ranges.append(range)
            }
        }
        while ranges.count > limit { mergeLowest() }
    }

    private mutating func mergeLowest() {
        ranges[0] = ranges[0].lowerBound...ranges[1].upperBound
        ranges.remove(at: 1)
    }

    var highest: UInt32 { ranges.last?.upperBound ?? 0 }

    func contains(_ id: UInt32) -> Bool {
        let i = firstRange(endingAtOrAfter: id)
        return i < ranges.count && ranges[i].contains(id)
    }

    /// False if it was used before.
    mutating func insert(_ id: UInt32) -> Bool {
        precondition(id > 0, "ids begin at 1")
        let i = firstRange(endingAtOrAfter: id)
        if i < ranges.count, ranges[i].contains(id) { return false }
        let joinsLower = i > 0 && ranges[i - 1].upperBound == id - 1
        let joinsUpper = i < ranges.count && id < UInt32.max && ranges[i].lowerBound == id + 1
        switch (joinsLower, joinsUpper) {
        case (true, true):
            ranges[i - 1] = ranges[i - 1].lowerBound...ranges[i].upperBound
            ranges.remove(at: i)
        case (true, false): ranges[i - 1] = ranges[i - 1].lowerBound...id
        case (false, true): ranges[i] = id...ranges[i].upperBound
        case (false, false):
            ranges.insert(id...id, at: i)
            if ranges.count > limit { mergeLowest() }
        }
        return true
    }

    private func firstRange(endingAtOrAfter id: UInt32) -> Int {
        var (low, high) = (0, ranges.count)
        while low < high {
            let middle = (low + high) / 2
            if ranges[middle].upperBound < id { low = middle + 1 } else { high = middle }
        }
        return low
    }
}
