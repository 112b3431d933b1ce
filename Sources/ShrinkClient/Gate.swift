import ShrinkLinux
public import ShrinkProtocol

/// One word of this client's gate memory: pins an object that is whole in memory without a system call.
///
/// A pin is one atomic operation, an unpin another. The orders they have, and why they suffice, are written down at `GateWord`.
public struct Gate: Sendable {
    @usableFromInline let word: SharedGateWord
    @usableFromInline let generation: UInt32

    /// `word` stays mapped as long as the gate is used.
    public init(word: UnsafeMutablePointer<UInt64>, generation: UInt32) {
        self.word = SharedGateWord(address: word)
        self.generation = generation
    }

    /// Pins. Nil if the gate is closed, or is another object's by now: ask through the socket. Otherwise the word as it is now, which tells the
    /// generation of the content.
    @inline(__always)
    public func pin() -> GateWord? {
        var seen = AtomicMemory.loadRelaxed(word.address)
        while let pinned = GateWord(rawValue: seen).pinned(by: generation) {
            if AtomicMemory.replaceAcquiring(word.address, &seen, with: pinned.rawValue) { return pinned }
        }
        return nil
    }

    /// Undoes one pin. False, and nothing changed, if there is none.
    @inline(__always)
    public func unpin() -> Bool {
        var seen = AtomicMemory.loadRelaxed(word.address)
        while let unpinned = GateWord(rawValue: seen).unpinned(by: generation) {
            if AtomicMemory.replaceReleasing(word.address, &seen, with: unpinned.rawValue) { return true }
        }
        return false
    }

    /// The daemon was stopped: nothing can be pinned any more.
    public var isEnded: Bool { GateWord(rawValue: AtomicMemory.loadRelaxed(word.address)).isEnded }

    /// Pins of this client now.
    public var pins: Int {
        let now = GateWord(rawValue: AtomicMemory.loadRelaxed(word.address))
        return now.gateGeneration == generation ? now.pins : 0
    }
}

/// A word in shared memory, touched by atomic access only.
@usableFromInline
struct SharedGateWord: @unchecked Sendable {
    @usableFromInline let address: UnsafeMutablePointer<UInt64>
    @usableFromInline init(address: UnsafeMutablePointer<UInt64>) { self.address = address }
}
