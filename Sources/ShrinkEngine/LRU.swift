/// Objects that can be shrunk, per priority, the longest unused first; and cursors whose hitch lives in the list.
///
/// The kernel's counterparts are `ttm_resource_manager.lru[]` and `ttm_resource_cursor`. A node is an index, so nothing is retained and a
/// move is a few stores. The lock around it is the caller's; it is never held across I/O. Between two steps of a cursor the lock may be
/// dropped: the hitch keeps the place, nothing added behind it is missed, and only the cursor's owner moves or removes it. However objects move
/// meanwhile, a walk ends.
struct LRU: ~Copyable {
    /// An object's slot, or a head or hitch.
    struct Node: BitwiseCopyable {
        var next: UInt32
        var previous: UInt32
        /// The bulk move an object belongs to, also while it is on no list; for a hitch, the bulk it stands in.
        var bulk: UInt32
        var priority: UInt8
    }

    static let none = UInt32.max
    private static let hitchBit: UInt32 = 1 << 31
    static let maxCursors = 64

    /// A place in the walk. Made by `makeCursor`, ended by `end`; both under the lock.
    struct Cursor {
        fileprivate let hitch: UInt32
        fileprivate var priority: Int
        /// Visits left in this priority.
        fileprivate var visits: Int
    }

    /// Slots 0…3 are the list heads, 4… the hitches.
    private var anchors: Slab<Node>
    private var freeHitches: [UInt32]
    private var nodes: Slab<Node>
    private(set) var bulks = BulkRanges()
    private(set) var count = 0

    init() {
        let heads = UInt32(Priority.allCases.count)
        anchors = Slab(repeating: Node(next: Self.none, previous: Self.none, bulk: BulkRanges.none, priority: 0))
        nodes = Slab(repeating: Node(next: Self.none, previous: Self.none, bulk: BulkRanges.none, priority: 0))
        anchors.grow(to: Int(heads) + Self.maxCursors)
        for i in 0..<heads { (anchors[i].next, anchors[i].previous) = (i | Self.hitchBit, i | Self.hitchBit) }
        freeHitches = (heads..<heads + UInt32(Self.maxCursors)).map { $0 | Self.hitchBit }
    }

    /// Room for `count` objects, so that later calls do not allocate.
    mutating func reserveSlots(_ count: Int) { nodes.grow(to: count) }

    @inline(__always)
    private static func head(_ priority: Int) -> UInt32 { UInt32(priority) | hitchBit }

    @inline(__always)
    private static func isAnchor(_ index: UInt32) -> Bool { index & hitchBit != 0 }

    @inline(__always)
    private subscript(index: UInt32) -> Node {
        get { address(index).pointee }
        // Through an address: yielding an element of a slab from here ends Swift 6.3's compiler under the thread sanitizer.
        nonmutating _modify { yield &address(index).pointee }
    }

    @inline(__always)
    private func address(_ index: UInt32) -> UnsafeMutablePointer<Node> {
        Self.isAnchor(index) ? anchors.address(index & ~Self.hitchBit) : nodes.address(index)
    }

    @inline(__always)
    private func link(_ index: UInt32, after place: UInt32) {
        let next = self[place].next
        self[place].next = index
        self[index].previous = place
        self[index].next = next
        self[next].previous = index
    }

    @inline(__always)
    private func unlink(_ index: UInt32) {
        let (next, previous) = (self[index].next, self[index].previous)
        self[previous].next = next
        self[next].previous = previous
        self[index].next = Self.none
        self[index].previous = Self.none
    }

    @inline(__always)
    func contains(_ slot: UInt32) -> Bool { nodes[slot].next != Self.none }

    // MARK: Objects

    /// Puts an object at the recently used end, or at the end of its bulk's range. One that is in the list moves there.
    mutating func touch(_ slot: UInt32, _ priority: Priority) {
        if contains(slot) { takeOut(slot) } else { count += 1 }
        nodes[slot].priority = priority.rawValue
        if nodes[slot].bulk != BulkRanges.none, let last = bulks[nodes[slot].bulk, Int(priority.rawValue)]?.last {
            // Behind the hitches that stand right behind the range: their cursors have not seen this object. They then stand in the
            // range, so they are registered with it.
            var place = last
            while Self.isAnchor(self[place].next), self[place].next & ~Self.hitchBit >= UInt32(Priority.allCases.count) {
                place = self[place].next
                self[place].bulk = nodes[slot].bulk
            }
            link(slot, after: place)
            bulks.extend(nodes[slot].bulk, Int(priority.rawValue), to: slot)
        } else {
            link(slot, after: self[Self.head(Int(priority.rawValue))].previous)
            if nodes[slot].bulk != BulkRanges.none { bulks.begin(nodes[slot].bulk, Int(priority.rawValue), with: slot) }
        }
    }

    /// Takes an object off: it is pinned, fully backed up, or gone. It stays a member of its bulk and comes back to it.
    mutating func remove(_ slot: UInt32) {
        guard contains(slot) else { return }
        takeOut(slot)
        count -= 1
    }

    private mutating func takeOut(_ slot: UInt32) {
        let node = nodes[slot]
        if node.bulk != BulkRanges.none, let range = bulks[node.bulk, Int(node.priority)] {
            if range.first == slot, range.last == slot {
                bulks.clear(node.bulk, Int(node.priority))
                // The next range of this bulk begins elsewhere: who stands here does not stand there.
                detachCursors(node.bulk, node.priority)
            } else if range.first == slot {
                bulks.shorten(node.bulk, Int(node.priority), first: objectAfter(slot))
            } else if range.last == slot {
                bulks.shorten(node.bulk, Int(node.priority), last: objectBefore(slot))
            }
        }
        unlink(slot)
    }

    private func objectAfter(_ slot: UInt32) -> UInt32 {
        var index = nodes[slot].next
        while Self.isAnchor(index) { index = self[index].next }
        return index
    }

    private func objectBefore(_ slot: UInt32) -> UInt32 {
        var index = nodes[slot].previous
        while Self.isAnchor(index) { index = self[index].previous }
        return index
    }

    // MARK: Bulk moves

    mutating func makeBulk() -> UInt32? { bulks.make() }

    /// The bulk must have no members left in a list; they are told apart by the caller.
    mutating func removeBulk(_ bulk: UInt32) {
        for priority in Priority.allCases { detachCursors(bulk, priority.rawValue) }
        bulks.remove(bulk)
    }

    /// Enters an object into a bulk move, or takes it out of one (nil). On a list it moves as if it were used now.
    mutating func setBulk(_ slot: UInt32, _ bulk: UInt32?) {
        let isListed = contains(slot)
        if isListed { takeOut(slot) }
        nodes[slot].bulk = bulk ?? BulkRanges.none
        guard isListed else { return }
        count -= 1
        guard let priority = Priority(rawValue: nodes[slot].priority) else { return }
        touch(slot, priority)
    }

    func bulk(of slot: UInt32) -> UInt32? { nodes[slot].bulk == BulkRanges.none ? nil : nodes[slot].bulk }

    /// Moves the range of each priority to the recently used end, whatever its length. Cursors that stand in a range go to just behind its old
    /// place first, or they would travel along and pass over the rest.
    mutating func bump(bulk: UInt32) {
        for priority in 0..<Priority.allCases.count {
            guard let range = bulks[bulk, priority] else { continue }
            for hitch in UInt32(Priority.allCases.count)..<UInt32(Priority.allCases.count + Self.maxCursors) {
                let index = hitch | Self.hitchBit
                guard self[index].next != Self.none, self[index].bulk == bulk, Int(self[index].priority) == priority else { continue }
                unlink(index)
                link(index, after: range.last)
                self[index].bulk = BulkRanges.none
            }
            let (before, after) = (self[range.first].previous, self[range.last].next)
            self[before].next = after
            self[after].previous = before
            let head = Self.head(priority)
            let tail = self[head].previous
            self[tail].next = range.first
            self[range.first].previous = tail
            self[range.last].next = head
            self[head].previous = range.last
        }
    }

    private func detachCursors(_ bulk: UInt32, _ priority: UInt8) {
        for hitch in UInt32(Priority.allCases.count)..<UInt32(anchors.count)
        where anchors[hitch].bulk == bulk && anchors[hitch].priority == priority {
            anchors.address(hitch).pointee.bulk = BulkRanges.none
        }
    }

    // MARK: Cursors

    /// Objects that stay in their place are met once. Who moves them on and on in front of a walk would keep it busy for ever: then it ends, all the
    /// same, after some rounds.
    private var visitsPerPriority: Int { 4 * count + 64 }

    /// Nil if all cursors are in use.
    mutating func makeCursor() -> Cursor? {
        guard let hitch = freeHitches.popLast() else { return nil }
        link(hitch, after: Self.head(0))
        self[hitch].priority = 0
        self[hitch].bulk = BulkRanges.none
        return Cursor(hitch: hitch, priority: 0, visits: visitsPerPriority)
    }

    /// The next object behind the hitch, which moves right behind it; nil after the last priority.
    mutating func next(_ cursor: inout Cursor) -> UInt32? {
        while true {
            let following = self[cursor.hitch].next
            if following == Self.head(cursor.priority) || cursor.visits <= 0 {
                guard cursor.priority + 1 < Priority.allCases.count else { return nil }
                cursor.priority += 1
                cursor.visits = visitsPerPriority
                unlink(cursor.hitch)
                link(cursor.hitch, after: Self.head(cursor.priority))
                self[cursor.hitch].priority = UInt8(cursor.priority)
                self[cursor.hitch].bulk = BulkRanges.none
                continue
            }
            unlink(cursor.hitch)
            link(cursor.hitch, after: following)
            // Another cursor's hitch is passed over; where it is registered, so is this one now.
            self[cursor.hitch].bulk = self[following].bulk
            guard !Self.isAnchor(following) else { continue }
            cursor.visits -= 1
            return following
        }
    }

    /// Back to the beginning of the lowest priority, for another pass.
    mutating func rewind(_ cursor: inout Cursor) {
        unlink(cursor.hitch)
        cursor.priority = 0
        cursor.visits = visitsPerPriority
        link(cursor.hitch, after: Self.head(0))
        self[cursor.hitch].priority = 0
        self[cursor.hitch].bulk = BulkRanges.none
    }

    /// Takes the hitch out of the list.
    mutating func end(_ cursor: consuming Cursor) {
        unlink(cursor.hitch)
        freeHitches.append(cursor.hitch)
    }

    /// Bytes of memory in use.
    var memoryBytes: Int { nodes.memoryBytes + anchors.memoryBytes }
}
