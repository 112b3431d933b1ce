/// Which object of a pool has a page: objects in the order of their ranges, 8 bytes each.
struct PagePlaces {
    private struct Place {
        var first: UInt32
        var id: UInt32
    }

    private var places: [Place] = []

    init() {}

    /// Those of a pool that lived without until now.
    init(_ objects: [(first: UInt32, id: UInt32)]) {
        places = objects.map { Place(first: $0.first, id: $0.id) }.sorted { $0.first < $1.first }
    }

    /// The position of the first place at or behind a page.
    private func position(_ first: UInt32) -> Int {
        var (low, high) = (0, places.count)
        while low < high {
            let middle = (low + high) / 2
            if places[middle].first < first { low = middle + 1 } else { high = middle }
        }
        return low
    }

    mutating func insert(_ id: UInt32, first: UInt32) { places.insert(Place(first: first, id: id), at: position(first)) }

    mutating func remove(first: UInt32) {
        let i = position(first)
        if i < places.count, places[i].first == first { places.remove(at: i) }
    }

    /// The object that starts at or last before a page; whether it reaches that far the caller sees.
    func object(before page: UInt32) -> UInt32? {
        let i = position(page)
        if i < places.count, places[i].first == page { return places[i].id }
        return i > 0 ? places[i - 1].id : nil
    }
}
