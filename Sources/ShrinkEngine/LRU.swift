/// Objects that can be shrunk, per priority, the longest unused first; and cursors whose hitch lives in the list.
///
/// The kernel's counterparts are `ttm_resource_manager.lru[]` and `ttm_resource_cursor`. A node is an index, so nothing is retained and a
/// move is a few stores. The lock around it is the caller's; it is never held across I/O. Between two steps of a cursor the lock may be
/// dropped: the hitch keeps the place, nothing added behind it is missed, and only the cursor's owner moves or removes it.
struct LRU {
    /// An object's slot, or a hitch.
    struct Node {
        var next: UInt32
        var previous: UInt32
    }

    static let none = UInt32.max
    private static let hitchBit: UInt32 = 1 << 31
    static let maxCursors = 64

    /// A place in the walk. Made by `makeCursor`, ended by `end`; both under the lock.
    struct Cursor {
        fileprivate let hitch: UInt32
        fileprivate var priority: Int
    }

    /// Slots 0…3 are the list heads, 4… the hitches.
    private var anchors: [Node]
    private var freeHitches: [UInt32]
    private var nodes: ContiguousArray<Node> = []
    private(set) var count = 0

    init() {
        let heads = Priority.allCases.count
        anchors = (0..<UInt32(heads + Self.maxCursors)).map { Node(next: $0 | Self.hitchBit, previous: $0 | Self.hitchBit) }
        freeHitches = (UInt32(heads)..<UInt32(heads + Self.maxCursors)).map { $0 | Self.hitchBit }
    }

    /// Room for `count` objects, so that later calls do not allocate.
    mutating func reserveSlots(_ count: Int) {
        while nodes.count < count { nodes.append(Node(next: Self.none, previous: Self.none)) }
    }

    private static func head(_ priority: Int) -> UInt32 { UInt32(priority) | hitchBit }

    private func node(_ index: UInt32) -> Node {
        index & Self.hitchBit != 0 ? anchors[Int(index & ~Self.hitchBit)] : nodes[Int(index)]
    }

    private mutating func setNext(_ index: UInt32, _ value: UInt32) {
        if index & Self.hitchBit != 0 { anchors[Int(index & ~Self.hitchBit)].next = value } else { nodes[Int(index)].next = value }
    }

    private mutating func setPrevious(_ index: UInt32, _ value: UInt32) {
        if index & Self.hitchBit != 0 { anchors[Int(index & ~Self.hitchBit)].previous = value } else { nodes[Int(index)].previous = value }
    }

    private mutating func link(_ index: UInt32, after place: UInt32) {
        let next = node(place).next
        setNext(place, index)
        setPrevious(index, place)
        setNext(index, next)
        setPrevious(next, index)
    }

    private mutating func unlink(_ index: UInt32) {
        let n = node(index)
        setNext(n.previous, n.next)
        setPrevious(n.next, n.previous)
        setNext(index, Self.none)
        setPrevious(index, Self.none)
    }

    func contains(_ slot: UInt32) -> Bool { nodes[Int(slot)].next != Self.none }

    /// Puts an object at the recently used end. One that is in the list moves there.
    mutating func touch(_ slot: UInt32, _ priority: Priority) {
        if contains(slot) { unlink(slot) } else { count += 1 }
        link(slot, after: node(Self.head(Int(priority.rawValue))).previous)
    }

    /// Takes an object off: it is pinned, fully backed up, or gone.
    mutating func remove(_ slot: UInt32) {
        guard contains(slot) else { return }
        unlink(slot)
        count -= 1
    }

    /// Nil if all cursors are in use.
    mutating func makeCursor() -> Cursor? {
        guard let hitch = freeHitches.popLast() else { return nil }
        link(hitch, after: Self.head(0))
        return Cursor(hitch: hitch, priority: 0)
    }

    /// The next object behind the hitch, which moves right behind it; nil after the last priority.
    mutating func next(_ cursor: inout Cursor) -> UInt32? {
        while true {
            let following = node(cursor.hitch).next
            if following == Self.head(cursor.priority) {
                guard cursor.priority + 1 < Priority.allCases.count else { return nil }
                cursor.priority += 1
                unlink(cursor.hitch)
                link(cursor.hitch, after: Self.head(cursor.priority))
                continue
            }
            unlink(cursor.hitch)
            link(cursor.hitch, after: following)
            // Another cursor's hitch is passed over.
            if following & Self.hitchBit == 0 { return following }
        }
    }

    /// Takes the hitch out of the list.
    mutating func end(_ cursor: consuming Cursor) {
        unlink(cursor.hitch)
        freeHitches.append(cursor.hitch)
    }
}
