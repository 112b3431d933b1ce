import ShrinkLinux
import SystemPackage

// The pool's own shrinker: freed ranges that still take memory go before any object, for nothing has to be kept of them. The kernel's counterpart is
// `ttm_pool_shrink`.

extension ReclaimWalk {
    /// Drops ready blocks of the walk's pools, up to its goal.
    func dropReadyBlocks() {
        let pools = engine.state.withLock { state in state.pools.values.filter { isOfTarget($0) && $0.readyPages > 0 } }
        for pool in pools {
            var position = BlockAllocator.Position()
            while case let open = progress.withLock({ goalPages - $0.freedPages }), open > 0 {
                let unit = pool.unitPages
                let limit = open / unit + (open % unit == 0 ? 0 : 1)
                let (units, looked, failure) = engine.dropReadyBlocks(of: pool, limit: limit, &position)
                let (freed, bytes) = (units * unit, ByteCount(units * pool.unitBytes))
                progress.withLock { progress in
                    progress.freedPages += freed
                    progress.result.freedBytes = ByteCount(progress.freedPages * basePageSize)
                    if unit > 1 {
                        progress.result.hugePageBytes = progress.result.hugePageBytes + bytes
                    } else {
                        progress.result.netFreedBytes = progress.result.netFreedBytes + bytes
                    }
                    progress.result.scannedPages += freed
                    if let failure { progress.result.failure = progress.result.failure ?? failure }
                }
                if looked == 0 || failure != nil { break }
            }
        }
    }
}

extension Engine {
    /// Blocks that are out of the allocator at once.
    private static let batchBlocks = 64

    /// A batch of a pool's free blocks, those behind the position, loses its memory, at most `limit` pages. `looked`: blocks in the batch; 0 when there are no
    /// more.
    func dropReadyBlocks(
        of pool: Pool, limit: Int, _ position: inout BlockAllocator.Position
    ) -> (freed: Int, looked: Int, failure: EngineError?) {
        // The batch is taken out of the allocator, so that nobody gets one in the middle of the punch; who finds the pool full waits for it.
        var batch = InlineArray<64, (first: Int, count: Int)>(repeating: (0, 0))
        let looked = state.withLock { state in
            guard pool.readyPages > 0 else { return 0 }
            var looked = 0
            while looked < Self.batchBlocks, let block = pool.allocator.nextFreeBlock(&position) {
                _ = pool.allocator.reserve(first: block.first, count: block.count)
                batch[looked] = block
                looked += 1
            }
            pool.blocksOut += looked
            return looked
        }
        guard looked > 0 else { return (0, 0, nil) }
        var freed = 0
        var failure: EngineError?
        // A block whose call is stuck comes back when that ends.
        var stuck: Int?
        for i in 0..<looked where freed < limit && stuck == nil {
            let block = batch[i]
            do throws(Errno) {
                freed += try pool.file.freePages(
                    first: block.first, count: block.count, limit: limit - freed,
                    .giveBack(self, pool, first: block.first, count: block.count))
            } catch {
                failure = .poolFile("freeing ready blocks of \(pool.id) failed", error)
                if error == .timedOut { stuck = i }
            }
        }
        state.withLock { [freed, stuck] state in
            for i in 0..<looked where i != stuck { pool.allocator.release(first: batch[i].first, count: batch[i].count) }
            pool.blocksOut -= looked - (stuck == nil ? 0 : 1)
            state.addReady(-freed, to: pool)
        }
        state.notifyAll()
        return (freed, looked, failure)
    }
}
