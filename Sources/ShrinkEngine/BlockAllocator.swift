/// Ranges of a pool's pages: a buddy allocator by order whose blocks are trimmed to the exact length asked for.
///
/// A request takes the smallest free block of a power of two that holds it and gives the tail back at once, so address space is lost
/// to fragmentation only, never to rounding. Memory: two bits a page. No allocation after `init`.
struct BlockAllocator {
    private static let bits = UInt64.bitWidth

    /// One bitmap an order; bit i set: the block of 2^order pages at i << order is free.
    private var free: [[UInt64]]
    private var freeBlocks: [Int]
    /// No free block of the order lies in a word below this one.
    private var lowest: [Int]
    let pageCount: Int
    private(set) var freePages: Int

    init(pageCount: Int) {
        precondition(pageCount > 0)
        self.pageCount = pageCount
        let orders = Self.order(holding: pageCount) + 1
        free = (0..<orders).map { [UInt64](repeating: 0, count: ((pageCount >> $0) + Self.bits) / Self.bits) }
        freeBlocks = [Int](repeating: 0, count: orders)
        lowest = [Int](repeating: 0, count: orders)
        freePages = 0
        release(first: 0, count: pageCount)
    }

    /// The smallest order whose block holds `count` pages.
    private static func order(holding count: Int) -> Int { count <= 1 ? 0 : Int.bitWidth - (count - 1).leadingZeroBitCount }

    /// The first page of a free range of exactly `count` pages, or nil if no block is long enough.
    mutating func allocate(count: Int) -> Int? {
        precondition(count > 0)
        guard count <= freePages else { return nil }
        var order = Self.order(holding: count)
        while order < free.count, freeBlocks[order] == 0 { order += 1 }
        guard order < free.count, let block = takeFirst(order) else { return nil }
        let first = block << order
        freePages -= 1 << order
        release(first: first + count, count: (1 << order) - count)
        return first
    }

    /// Takes a certain range, as a ledger that is reopened names it. False if part of it is taken already.
    mutating func reserve(first: Int, count: Int) -> Bool {
        guard first >= 0, count > 0, first + count <= pageCount else { return false }
        var page = first
        while page < first + count {
            guard let (block, order) = freeBlock(containing: page) else {
                release(first: first, count: page - first)
                return false
            }
            let start = block << order
            clear(order, block)
            freePages -= 1 << order
            let end = min(start + (1 << order), first + count)
            release(first: start, count: page - start)
            release(first: end, count: start + (1 << order) - end)
            page = end
        }
        return true
    }

    /// Gives a range back. It must be allocated whole.
    mutating func release(first: Int, count: Int) {
        var page = first
        let end = first + count
        precondition(first >= 0 && count >= 0 && end <= pageCount)
        while page < end {
            // The largest aligned block that starts here and does not pass the end.
            var order = min(page == 0 ? free.count - 1 : page.trailingZeroBitCount, free.count - 1)
            while 1 << order > end - page { order -= 1 }
            releaseBlock(page >> order, order)
            page += 1 << order
        }
        freePages += count
    }

    /// How far a look at the free blocks has come.
    struct Position {
        fileprivate var order = 0
        fileprivate var block = 0
        /// Words of the bitmaps that were looked at: the cost of the whole look.
        private(set) var steps = 0

        init() {}

        fileprivate mutating func nextOrder() { (order, block) = (order + 1, 0) }
        fileprivate mutating func step() { steps += 1 }
    }

    /// The next free range, as a block, for the pool's own shrinker: by order, ascending. A look at all of them costs as many steps as there are blocks and
    /// words, whatever happens to the blocks meanwhile; one that merges into a larger one may be met again.
    func nextFreeBlock(_ position: inout Position) -> (first: Int, count: Int)? {
        while position.order < free.count {
            let order = position.order
            var word = position.block / Self.bits
            guard freeBlocks[order] > 0, word < free[order].count else {
                position.nextOrder()
                continue
            }
            position.step()
            // Bits below the position were seen.
            var rest = free[order][word] & (UInt64.max << UInt64(position.block % Self.bits))
            while rest == 0, word + 1 < free[order].count {
                position.step()
                word += 1
                rest = free[order][word]
            }
            guard rest != 0 else {
                position.nextOrder()
                continue
            }
            let block = word * Self.bits + rest.trailingZeroBitCount
            position.block = block + 1
            return (block << order, 1 << order)
        }
        return nil
    }

    private mutating func releaseBlock(_ block: Int, _ order: Int) {
        var (block, order) = (block, order)
        while order + 1 < free.count, isFree(order, block ^ 1) {
            clear(order, block ^ 1)
            block >>= 1
            order += 1
        }
        precondition(!isFree(order, block), "a range is released twice")
        free[order][block / Self.bits] |= 1 << (UInt64(block) % 64)
        freeBlocks[order] += 1
        lowest[order] = min(lowest[order], block / Self.bits)
    }

    private func isFree(_ order: Int, _ block: Int) -> Bool {
        let word = block / Self.bits
        return word < free[order].count && free[order][word] & (1 << (UInt64(block) % 64)) != 0
    }

    private mutating func clear(_ order: Int, _ block: Int) {
        free[order][block / Self.bits] &= ~(1 << (UInt64(block) % 64))
        freeBlocks[order] -= 1
    }

    private mutating func takeFirst(_ order: Int) -> Int? {
        var word = lowest[order]
        while word < free[order].count {
            if free[order][word] != 0 {
                let block = word * Self.bits + free[order][word].trailingZeroBitCount
                clear(order, block)
                lowest[order] = word
                return block
            }
            word += 1
        }
        return nil
    }

    private func freeBlock(containing page: Int) -> (block: Int, order: Int)? {
        for order in free.indices where isFree(order, page >> order) { return (page >> order, order) }
        return nil
    }
}
