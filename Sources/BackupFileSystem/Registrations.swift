import ShrinkLinux

/// Which node is registered at the kernel under which backing id, and how many open files use it. Lives in the session's state, so that it
/// outlives the server; the index over it is rebuilt.
struct Registrations: ~Copyable {
    private let state: SessionState
    private let words: UnsafeMutablePointer<UInt64>
    /// Node number to place.
    private var places: [UInt64: Int] = [:]
    private var free: [Int] = []
    private var top = 0

    init(in state: SessionState) {
        self.state = state
        words = state.registrationWords
        for place in 0..<SessionState.registrationCapacity {
            let node = words[place * 2]
            guard node != 0 else { continue }
            while top < place {
                free.append(top)
                top += 1
            }
            places[node] = place
            top = place + 1
        }
    }

    /// Open files over all nodes.
    var openCount: Int { places.values.reduce(0) { $0 + Int(words[$1 * 2 + 1] >> 32) } }

    var hasRoom: Bool { !free.isEmpty || top < SessionState.registrationCapacity }

    func isOpen(_ node: UInt64) -> Bool { places[node] != nil }

    /// Counts one more open of a registered node and returns its id.
    mutating func addOpen(_ node: UInt64) -> UInt32? {
        guard let place = places[node] else { return nil }
        store(place, words[place * 2 + 1] + 1 << 32)
        return UInt32(truncatingIfNeeded: words[place * 2 + 1])
    }

    /// A node with its first open.
    mutating func insert(_ node: UInt64, backing: UInt32) {
        precondition(hasRoom && places[node] == nil, "room was asked for, and a node is registered once")
        let place = free.popLast() ?? top
        top = max(top, place + 1)
        store(place, 1 << 32 | UInt64(backing))
        // The node's number makes the entry count: last.
        SharedWord(words + place * 2).store(node)
        places[node] = place
    }

    /// Counts one open less; the id if it was the last, which is then forgotten.
    mutating func removeOpen(_ node: UInt64) -> UInt32? {
        guard let place = places[node] else { return nil }
        let value = words[place * 2 + 1]
        if value >> 32 > 1 {
            store(place, value - 1 << 32)
            return nil
        }
        SharedWord(words + place * 2).store(0)
        places[node] = nil
        free.append(place)
        return UInt32(truncatingIfNeeded: value)
    }

    private func store(_ place: Int, _ value: UInt64) { SharedWord(words + place * 2 + 1).store(value) }
}
