public import CShrinkLinux

// Words in mapped memory. The standard library's atomics own their storage; these work on memory that a file or an arena owns.

/// Two words that are read and replaced together. The address is 16-aligned.
public struct PairedWords: Equatable, Sendable {
    public var low: UInt64
    public var high: UInt64

    @inlinable public init(low: UInt64, high: UInt64) {
        self.low = low
        self.high = high
    }

    /// The memory is written in the course of a load on old processors: it must be writable.
    @inlinable @inline(__always)
    public static func load(_ address: UnsafeMutableRawPointer) -> PairedWords {
        let pair = shl_pair_load(address)
        return PairedWords(low: pair.low, high: pair.high)
    }

    /// Stores `desired` if the memory holds `expected`; otherwise `expected` becomes what it holds.
    @inlinable @inline(__always)
    public static func replace(_ address: UnsafeMutableRawPointer, _ expected: inout PairedWords, with desired: PairedWords) -> Bool {
        var seen = shl_pair(low: expected.low, high: expected.high)
        if shl_pair_replace(address, &seen, shl_pair(low: desired.low, high: desired.high)) != 0 { return true }
        expected = PairedWords(low: seen.low, high: seen.high)
        return false
    }

    /// Stores `desired` and returns what was there.
    @inlinable @inline(__always)
    public static func exchange(_ address: UnsafeMutableRawPointer, with desired: PairedWords) -> PairedWords {
        var seen = load(address)
        while !replace(address, &seen, with: desired) {}
        return seen
    }
}

/// Atomic access to one word of memory that outlives the call.
public enum AtomicMemory {
    @inlinable @inline(__always) public static func load(_ word: UnsafeMutablePointer<UInt64>) -> UInt64 { shl_load_acquire(word) }
    @inlinable @inline(__always) public static func store(_ word: UnsafeMutablePointer<UInt64>, _ value: UInt64) {
        shl_store_release(word, value)
    }
    @inlinable @inline(__always) public static func exchange(_ word: UnsafeMutablePointer<UInt64>, _ value: UInt64) -> UInt64 {
        shl_exchange(word, value)
    }
    /// Returns the value before.
    @inlinable @inline(__always) @discardableResult
    public static func add(_ word: UnsafeMutablePointer<UInt64>, _ value: UInt64) -> UInt64 { shl_fetch_add(word, value) }
    /// Returns the value before.
    @inlinable @inline(__always) @discardableResult
    public static func subtract(_ word: UnsafeMutablePointer<UInt64>, _ value: UInt64) -> UInt64 { shl_fetch_sub(word, value) }

    @inlinable @inline(__always) public static func replace(_ word: UnsafeMutablePointer<UInt64>, _ expected: UInt64, with desired: UInt64)
        -> Bool
    {
        shl_replace(word, expected, desired) != 0
    }

    @inlinable @inline(__always) public static func load(_ word: UnsafeMutablePointer<UInt32>) -> UInt32 { shl_load_acquire32(word) }
    @inlinable @inline(__always) public static func store(_ word: UnsafeMutablePointer<UInt32>, _ value: UInt32) {
        shl_store_release32(word, value)
    }
    @inlinable @inline(__always) public static func exchange(_ word: UnsafeMutablePointer<UInt32>, _ value: UInt32) -> UInt32 {
        shl_exchange32(word, value)
    }
    @inlinable @inline(__always) public static func replace(_ word: UnsafeMutablePointer<UInt32>, _ expected: UInt32, with desired: UInt32)
        -> Bool
    {
        shl_replace32(word, expected, desired) != 0
    }
    @inlinable @inline(__always) public static func setBits(_ word: UnsafeMutablePointer<UInt32>, _ bits: UInt32) {
        _ = shl_fetch_or32(word, bits)
    }
    @inlinable @inline(__always) public static func clearBits(_ word: UnsafeMutablePointer<UInt32>, _ bits: UInt32) {
        _ = shl_fetch_and32(word, ~bits)
    }
}
