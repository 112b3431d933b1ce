/// Numbered elements in chunks of fixed size: growing moves and copies nothing, so a pointer-free index stays valid and no step pays for others.
///
/// Plain data only: nothing in it is retained. Indices below `count` may be used.
struct Slab<Element: BitwiseCopyable>: ~Copyable {
    private static var chunkShift: Int { 12 }
    private static var chunkLength: Int { 1 << chunkShift }

    private let initial: Element
    private var chunks: UnsafeMutablePointer<UnsafeMutablePointer<Element>>
    private var chunkCapacity = 16
    private var chunkCount = 0
    private(set) var count = 0

    init(repeating initial: Element) {
        self.initial = initial
        chunks = .allocate(capacity: 16)
    }

    deinit {
        for i in 0..<chunkCount { chunks[i].deallocate() }
        chunks.deallocate()
    }

    /// Room for `newCount` elements; the new ones hold the initial value.
    mutating func grow(to newCount: Int) {
        while chunkCount * Self.chunkLength < newCount {
            if chunkCount == chunkCapacity {
                let larger = UnsafeMutablePointer<UnsafeMutablePointer<Element>>.allocate(capacity: chunkCapacity * 2)
                larger.update(from: chunks, count: chunkCount)
                chunks.deallocate()
                chunks = larger
                chunkCapacity *= 2
            }
            let chunk = UnsafeMutablePointer<Element>.allocate(capacity: Self.chunkLength)
            chunk.initialize(repeating: initial, count: Self.chunkLength)
            chunks[chunkCount] = chunk
            chunkCount += 1
        }
        count = max(count, newCount)
    }

    @inline(__always)
    func address(_ index: UInt32) -> UnsafeMutablePointer<Element> {
        precondition(Int(index) < count, "no such element")
        return chunks[Int(index) >> Self.chunkShift] + (Int(index) & (Self.chunkLength - 1))
    }

    @inline(__always)
    subscript(index: UInt32) -> Element {
        get { address(index).pointee }
        // Mutating, though it changes only what is pointed to: Swift 6.3 ends with an error on the other kind under the thread sanitizer.
        set { address(index).pointee = newValue }
    }

    /// Bytes of memory in use.
    var memoryBytes: Int { chunkCount * Self.chunkLength * MemoryLayout<Element>.stride + chunkCapacity * MemoryLayout<Int>.stride }
}
