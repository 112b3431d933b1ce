import CShrinkLinux

/// Compare-and-swap of a word in memory that outlives the call. Each returns true if the word held `expected` and holds `desired` now;
/// otherwise `expected` becomes what it holds. None fails without a different value being there.
extension AtomicMemory {
    /// What others released before is seen after success.
    @inline(__always)
    public static func replaceAcquiring(_ word: UnsafeMutablePointer<UInt64>, _ expected: inout UInt64, with desired: UInt64) -> Bool {
        shl_replace_acquire(word, &expected, desired) != 0
    }

    /// What this thread wrote before is seen by who acquires after success.
    @inline(__always)
    public static func replaceReleasing(_ word: UnsafeMutablePointer<UInt64>, _ expected: inout UInt64, with desired: UInt64) -> Bool {
        shl_replace_release(word, &expected, desired) != 0
    }

    /// Both.
    @inline(__always)
    public static func replace(_ word: UnsafeMutablePointer<UInt64>, _ expected: inout UInt64, with desired: UInt64) -> Bool {
        shl_replace_both(word, &expected, desired) != 0
    }

    /// Without any order; for a look before a compare-and-swap.
    @inline(__always)
    public static func loadRelaxed(_ word: UnsafeMutablePointer<UInt64>) -> UInt64 { shl_load_relaxed(word) }
}
