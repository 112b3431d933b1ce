import ShrinkLinux
import Synchronization

/// Small facts that a part of the daemon leaves for the same part of the next engine, beside descriptors that it parks under names of its own.
///
/// A note is found by its kind, which names the part that writes it, and a number that part chooses. Its content is up to `ParkedNotes.limit`
/// bytes and begins with whatever version that part needs. A note is replaced whole: an engine killed meanwhile leaves the old or the new one.
///
///     0   sequence, its lower half (4 bytes, 0: free)    4  kind    8  number    16  length    20  sequence, its upper half    24  content
public final class ParkedNotes: Sendable {
    /// Who writes a note.
    public struct Kind: RawRepresentable, Hashable, Sendable {
        public let rawValue: UInt32
        public init(rawValue: UInt32) { self.rawValue = rawValue }
    }

    /// The most bytes of one note.
    public static let limit = ParkedState.noteStride - 24

    private struct Key: Hashable {
        var kind: Kind
        var number: UInt64
    }

    private struct Places {
        var byKey: [Key: Int] = [:]
        var free: [Int] = []
        var next = 0
        /// Of the next note. Its lower half is never 0.
        var sequence: UInt64 = 1

        mutating func advance(beyond used: UInt64) {
            guard sequence <= used else { return }
            sequence = used &+ 1
            if UInt32(truncatingIfNeeded: sequence) == 0 { sequence += 1 }
        }
    }

    private let state: ParkedState
    private let places: Mutex<Places>

    /// Reads what is there. Of two notes of one key the later one counts: the earlier was about to be removed.
    init(_ state: ParkedState) {
        self.state = state
        var places = Places()
        let used = state.notesInUse()
        for index in used {
            guard let base = state.note(index) else { continue }
            let key = Key(kind: Kind(rawValue: (base + 4).load(as: UInt32.self)), number: (base + 8).load(as: UInt64.self))
            let sequence = Self.sequence(base)
            places.advance(beyond: sequence)
            guard let other = places.byKey[key], let otherBase = state.note(other) else {
                places.byKey[key] = index
                continue
            }
            let older = Self.sequence(otherBase) < sequence ? other : index
            places.byKey[key] = older == other ? index : other
            Self.publish(older, 0, state)
            places.free.append(older)
        }
        places.next = (used.last ?? -1) + 1
        let isUsed = Set(used)
        places.free += (0..<places.next).filter { !isUsed.contains($0) }
        self.places = Mutex(places)
    }

    private static func sequence(_ base: UnsafeMutableRawPointer) -> UInt64 {
        UInt64((base + 20).load(as: UInt32.self)) << 32 | UInt64(base.load(as: UInt32.self))
    }

    private static func publish(_ index: Int, _ sequence: UInt32, _ state: ParkedState) {
        guard let base = state.note(index) else { return }
        SharedWord32(base.assumingMemoryBound(to: UInt32.self)).store(sequence)
    }

    /// Keeps a note, in place of the one with the same kind and number. False if `ParkedState` has no room for another.
    public func keep(_ kind: Kind, _ number: UInt64, _ content: [UInt8]) -> Bool {
        precondition(content.count <= Self.limit, "a note is too long")
        return places.withLock { places in
            var index = places.free.popLast()
            if index == nil, places.next < ParkedState.noteCapacity {
                index = places.next
                places.next += 1
            }
            guard let index, let base = state.note(index) else { return false }
            (base + 4).storeBytes(of: kind.rawValue, as: UInt32.self)
            (base + 8).storeBytes(of: number, as: UInt64.self)
            (base + 16).storeBytes(of: UInt32(content.count), as: UInt32.self)
            UnsafeMutableRawBufferPointer(start: base + 24, count: Self.limit).copyBytes(from: content)
            (base + 20).storeBytes(of: UInt32(places.sequence >> 32), as: UInt32.self)
            Self.publish(index, UInt32(truncatingIfNeeded: places.sequence), state)
            places.advance(beyond: places.sequence)
            if let old = places.byKey.updateValue(index, forKey: Key(kind: kind, number: number)) {
                Self.publish(old, 0, state)
                places.free.append(old)
            }
            return true
        }
    }

    public func remove(_ kind: Kind, _ number: UInt64) {
        places.withLock { places in
            guard let index = places.byKey.removeValue(forKey: Key(kind: kind, number: number)) else { return }
            Self.publish(index, 0, state)
            places.free.append(index)
        }
    }

    /// One note's content.
    public func content(_ kind: Kind, _ number: UInt64) -> [UInt8]? {
        places.withLock { places in
            guard let index = places.byKey[Key(kind: kind, number: number)], let base = state.note(index) else { return nil }
            let count = min(Int((base + 16).load(as: UInt32.self)), Self.limit)
            return Array(UnsafeRawBufferPointer(start: base + 24, count: count))
        }
    }

    /// All notes of a kind, by number.
    public func all(_ kind: Kind) -> [UInt64: [UInt8]] {
        places.withLock { places in
            var found: [UInt64: [UInt8]] = [:]
            for (key, index) in places.byKey where key.kind == kind {
                guard let base = state.note(index) else { continue }
                let count = min(Int((base + 16).load(as: UInt32.self)), Self.limit)
                found[key.number] = Array(UnsafeRawBufferPointer(start: base + 24, count: count))
            }
            return found
        }
    }
}
