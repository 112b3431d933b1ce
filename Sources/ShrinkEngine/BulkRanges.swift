/// The ranges of bulk moves: per bulk and priority, the first and last object of a run of neighbours in the list.
///
/// The kernel's counterpart is `ttm_lru_bulk_move.pos[][]`. Hitches may stand in a range; other objects never do.
struct BulkRanges {
    static let none = UInt32.max

    struct Range {
        var first: UInt32
        var last: UInt32
    }

    private struct Bulk {
        var ranges: (Range?, Range?, Range?, Range?) = (nil, nil, nil, nil)
        var isInUse = false
        /// How often the place was used: who kept the name of a bulk move that is gone does not get the next one.
        var generation: UInt32 = 0
    }

    private var bulks: [Bulk] = []
    private var free: [UInt32] = []

    mutating func make() -> UInt32? {
        if let index = free.popLast() {
            bulks[Int(index)] = Bulk(isInUse: true, generation: bulks[Int(index)].generation &+ 1)
            return index
        }
        guard bulks.count < EngineLimits.bulkMoves else { return nil }
        bulks.append(Bulk(isInUse: true))
        return UInt32(bulks.count - 1)
    }

    mutating func remove(_ bulk: UInt32) {
        precondition(isInUse(bulk), "no such bulk move")
        bulks[Int(bulk)].isInUse = false
        free.append(bulk)
    }

    func generation(_ bulk: UInt32) -> UInt32 { bulks[Int(bulk)].generation }

    func isInUse(_ bulk: UInt32) -> Bool { Int(bulk) < bulks.count && bulks[Int(bulk)].isInUse }

    subscript(bulk: UInt32, priority: Int) -> Range? {
        get {
            switch priority {
            case 0: bulks[Int(bulk)].ranges.0
            case 1: bulks[Int(bulk)].ranges.1
            case 2: bulks[Int(bulk)].ranges.2
            default: bulks[Int(bulk)].ranges.3
            }
        }
        set {
            switch priority {
            case 0: bulks[Int(bulk)].ranges.0 = newValue
            case 1: bulks[Int(bulk)].ranges.1 = newValue
            case 2: bulks[Int(bulk)].ranges.2 = newValue
            default: bulks[Int(bulk)].ranges.3 = newValue
            }
        }
    }

    mutating func begin(_ bulk: UInt32, _ priority: Int, with slot: UInt32) { self[bulk, priority] = Range(first: slot, last: slot) }
    mutating func extend(_ bulk: UInt32, _ priority: Int, to slot: UInt32) { self[bulk, priority]?.last = slot }
    mutating func clear(_ bulk: UInt32, _ priority: Int) { self[bulk, priority] = nil }
    mutating func shorten(_ bulk: UInt32, _ priority: Int, first slot: UInt32) { self[bulk, priority]?.first = slot }
    mutating func shorten(_ bulk: UInt32, _ priority: Int, last slot: UInt32) { self[bulk, priority]?.last = slot }
}
