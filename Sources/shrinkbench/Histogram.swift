/// Durations. Percentiles are of the durations themselves; the bars, for people, double in width four steps an octave.
struct Histogram {
    struct Bar: Encodable {
        /// Upper end.
        var below: UInt64
        var count: Int
    }

    private var values: [UInt64] = []

    mutating func add(_ nanoseconds: UInt64, if counts: Bool = true) { if counts { values.append(nanoseconds) } }

    func percentile(_ p: Double) -> UInt64 {
        guard !values.isEmpty else { return 0 }
        let sorted = values.sorted()
        return sorted[min(sorted.count - 1, Int(Double(sorted.count) * p / 100))]
    }

    var bars: [Bar] {
        var bars: [UInt64: Int] = [:]
        for value in values {
            var limit: UInt64 = 1000
            while value >= limit { limit += limit.leadingBit / 4 }
            bars[limit, default: 0] += 1
        }
        return bars.sorted { $0.key < $1.key }.map { Bar(below: $0.key, count: $0.value) }
    }

    func printed(_ name: String) {
        let most = bars.map(\.count).max() ?? 1
        print("\(name), \(values.count) touches")
        for bar in bars where bar.count * 200 >= most {
            print(
                "  < \(column(Double(bar.below) / 1000, width: 8)) µs \(String(repeating: "#", count: max(1, bar.count * 60 / most))) \(bar.count)"
            )
        }
        let rest = bars.filter { $0.count * 200 < most }.reduce(0) { $0 + $1.count }
        if rest > 0 { print("  elsewhere \(rest), up to \(column(Double(values.max() ?? 0) / 1000, width: 1)) µs") }
    }
}

extension UInt64 {
    fileprivate var leadingBit: UInt64 { 1 << UInt64(63 - leadingZeroBitCount) }
}
