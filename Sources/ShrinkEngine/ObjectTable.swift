/// The objects of an engine, by slot and by id.
///
/// Ids are found by open addressing in a table of slots alone (4 bytes an entry, at most 3/4 full); an entry's key is the id of the object in its slot.
struct ObjectTable: ~Copyable {
    private static let none = UInt32.max

    private var slab = Slab<BufferObject>(repeating: BufferObject())
    /// Free slots, chained through the `id` field's neighbour: the first, then by `record`.
    private var firstFree = Self.none
    private var entries: UnsafeMutablePointer<UInt32>
    private var entryCount = 64
    private(set) var count = 0

    init() {
        entries = .allocate(capacity: 64)
        entries.initialize(repeating: Self.none, count: 64)
    }

    deinit { entries.deallocate() }

    /// Slots ever in use.
    var capacity: Int { slab.count }

    @inline(__always)
    subscript(slot: UInt32) -> BufferObject {
        get { slab[slot] }
        // Through an address, and mutating: anything else ends the compiler under the thread sanitizer, as in LRU.
        _modify { yield &slab.address(slot).pointee }
    }

    /// Fibonacci hashing: consecutive ids spread over the whole table.
    @inline(__always)
    private func home(_ id: UInt32) -> Int {
        Int((UInt64(id) &* 0x9E37_79B9_7F4A_7C15) >> 32) & (entryCount - 1)
    }

    func slot(of id: ObjectID) -> UInt32? {
        var i = home(id.rawValue)
        while entries[i] != Self.none {
            if slab[entries[i]].id == id.rawValue { return entries[i] }
            i = (i + 1) & (entryCount - 1)
        }
        return nil
    }

    mutating func insert(_ object: BufferObject) -> UInt32 {
        precondition(object.id != 0 && slot(of: ObjectID(rawValue: object.id)) == nil, "an id is used twice")
        let slot: UInt32
        if firstFree != Self.none {
            slot = firstFree
            firstFree = slab[slot].record
        } else {
            slot = UInt32(slab.count)
            slab.grow(to: slab.count + 1)
        }
        slab[slot] = object
        count += 1
        if count * 4 > entryCount * 3 { rehash(entryCount * 2) } else { enter(slot) }
        return slot
    }

    mutating func remove(_ slot: UInt32) {
        let id = slab[slot].id
        var hole = home(id)
        while entries[hole] != slot { hole = (hole + 1) & (entryCount - 1) }
        // Entries behind the hole move up if their home lies at or before it, so that no search ends early.
        var next = (hole + 1) & (entryCount - 1)
        while entries[next] != Self.none {
            let distance = (next - home(slab[entries[next]].id)) & (entryCount - 1)
            if distance >= (next - hole) & (entryCount - 1) {
                entries[hole] = entries[next]
                hole = next
            }
            next = (next + 1) & (entryCount - 1)
        }
        entries[hole] = Self.none
        slab[slot] = BufferObject()
        slab[slot].record = firstFree
        firstFree = slot
        count -= 1
    }

    private func enter(_ slot: UInt32) {
        var i = home(slab[slot].id)
        while entries[i] != Self.none { i = (i + 1) & (entryCount - 1) }
        entries[i] = slot
    }

    private mutating func rehash(_ newCount: Int) {
        entries.deallocate()
        entries = .allocate(capacity: newCount)
        entries.initialize(repeating: Self.none, count: newCount)
        entryCount = newCount
        for slot in 0..<UInt32(slab.count) where slab[slot].id != 0 { enter(slot) }
    }

    /// Bytes of memory in use.
    var memoryBytes: Int { slab.memoryBytes + entryCount * 4 }
}

/// Ids of one pool in ascending order, for listing from any place: 4 bytes an object, a search is binary.
///
/// A removed id stays until half of them are dead; ids are never used again, so a dead one finds no object.
struct OrderedIDs {
    private(set) var ids: ContiguousArray<UInt32> = []
    private var dead = 0

    /// Mostly at the end: ids grow, and only makers at the same time can pass each other.
    mutating func insert(_ id: UInt32) {
        var place = ids.count
        while place > 0, ids[place - 1] > id { place -= 1 }
        ids.insert(id, at: place)
    }

    mutating func remove(_ id: UInt32, isAlive: (UInt32) -> Bool) {
        dead += 1
        if dead * 2 > ids.count {
            ids.removeAll { $0 == id || !isAlive($0) }
            dead = 0
        }
    }

    /// The first place whose id is above `id`.
    func place(after id: UInt32) -> Int {
        var low = 0
        var high = ids.count
        while low < high {
            let middle = low + (high - low) / 2
            if ids[middle] > id { high = middle } else { low = middle + 1 }
        }
        return low
    }
}
