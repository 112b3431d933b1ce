import Glibc

/// A seeded generator (SplitMix64): a failing test prints its seed and runs again the same.
public struct SeededGenerator: RandomNumberGenerator, Sendable {
    private var state: UInt64

    public init(seed: UInt64) { state = seed }

    public mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}

/// Content that can be told apart page by page: page `index` of version `version` is a function of the seed alone.
public struct PagePattern: Sendable {
    public let seed: UInt64

    public init(seed: UInt64) { self.seed = seed }

    /// About one page in `zeroEvery` is all zeros; 0 means none.
    public func fill(_ page: UnsafeMutableRawBufferPointer, index: Int, version: UInt64 = 0, zeroEvery: UInt64 = 5) {
        var generator = SeededGenerator(seed: seed ^ (UInt64(index) &* 0x1000_0001_0000_01B3) ^ (version << 48))
        if zeroEvery > 0, generator.next() % zeroEvery == 0 {
            page.initializeMemory(as: UInt8.self, repeating: 0)
            return
        }
        page.withMemoryRebound(to: UInt64.self) { words in
            for i in words.indices { words[i] = generator.next() }
        }
    }

    public func page(_ index: Int, version: UInt64 = 0, zeroEvery: UInt64 = 5, size: Int = 4096) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: size)
        bytes.withUnsafeMutableBytes { fill($0, index: index, version: version, zeroEvery: zeroEvery) }
        return bytes
    }

    /// Whether these bytes are that page. At once, not byte by byte: tests are built without optimisation, and compare hundreds of thousands.
    public func isPage(_ index: Int, _ bytes: UnsafeRawBufferPointer, version: UInt64 = 0, zeroEvery: UInt64 = 5) -> Bool {
        guard let base = bytes.baseAddress else { return false }
        return page(index, version: version, zeroEvery: zeroEvery, size: bytes.count).withUnsafeBytes {
            $0.baseAddress.map { memcmp($0, base, bytes.count) == 0 } ?? false
        }
    }
}

/// A run's seed: `$SHRINKD_TEST_SEED` to repeat one, otherwise fresh and printed.
public func testSeed(_ test: String) -> UInt64 {
    let seed = environmentValue("SHRINKD_TEST_SEED").flatMap { UInt64($0) } ?? UInt64.random(in: 0...UInt64.max)
    print("\(test): seed \(seed)")
    return seed
}
