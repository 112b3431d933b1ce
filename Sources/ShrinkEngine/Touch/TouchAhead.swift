import ShrinkLinux
import SystemPackage

/// Work that no client waits for: pages ahead of a thread that goes through its memory in order, and copies in the backup of pages that are back.
final class TouchAhead: Sendable {
    private struct Wish {
        let pool: Pool
        let mapping: MappingID
        let from: Int
        let count: Int
    }

    private struct Drop {
        let pool: Pool
        let object: Engine.TouchedObject
        var pages: Range<Int>
    }

    private struct Queue {
        var wishes: [Wish] = []
        var drops: [Drop] = []
        var dropPages = 0
        var busy = 0
        var isEnding = false
        /// Somebody waits for everything to be done.
        var isDraining = false
        var forgottenDrops = 0
    }

    private static let wishLimit = 4
    static let dropLimit = 8192
    /// Copies are dropped when so many pages have come together, or nothing happened for a while.
    private static let dropBatchPages = 2048
    private static let quietMilliseconds: UInt64 = 20
    /// Holes of the backup up to this length are dropped over.
    private static let gapPages = 16

    private let queue = Monitor(Queue())

    /// A thread comes through here soon. A full queue forgets the wish.
    func wish(_ pool: Pool, _ mapping: MappingID, from page: Int, count: Int) {
        let isNew = queue.withLock { queue -> Bool in
            guard queue.wishes.count < Self.wishLimit, !queue.wishes.contains(where: { $0.mapping == mapping && $0.from == page }) else {
                return false
            }
            queue.wishes.append(Wish(pool: pool, mapping: mapping, from: page, count: count))
            return true
        }
        if isNew { queue.notifyAll() }
    }

    /// Copies of pages that are back. What a full queue forgets stays in the backup until it is overwritten or removed.
    func drop(_ pool: Pool, _ object: Engine.TouchedObject, _ pages: Range<Int>) {
        let isBatch = queue.withLock { queue -> Bool in
            if let last = queue.drops.last, last.object.id == object.id, last.pages.upperBound == pages.lowerBound {
                queue.drops[queue.drops.count - 1].pages = last.pages.lowerBound..<pages.upperBound
            } else if queue.drops.count < Self.dropLimit {
                queue.drops.append(Drop(pool: pool, object: object, pages: pages))
            } else {
                queue.forgottenDrops += 1
                return true
            }
            queue.dropPages += pages.count
            return queue.drops.count == 1 || queue.dropPages >= Self.dropBatchPages
        }
        if isBatch { queue.notifyAll() }
    }

    func end() {
        queue.withLock { $0.isEnding = true }
        queue.notifyAll()
    }

    /// Returns when all wishes and drops are done.
    func drain() {
        queue.withLock { $0.isDraining = true }
        queue.notifyAll()
        queue.wait { $0.isEnding || $0.wishes.isEmpty && $0.drops.isEmpty && $0.busy == 0 ? () : nil }
        queue.withLock { $0.isDraining = false }
    }

    private enum Job {
        case wish(Wish)
        case drops([Drop])
        case end
    }

    func serve(_ server: FaultServer, _ staging: Staging, _ engine: () -> Engine?) {
        var kept: [Drop] = []
        while true {
            let job = next()
            if case .end = job { return }
            guard let engine = engine() else { return }
            switch job {
            case .end: return
            case .wish(let wish): engine.bringAhead(wish.pool, wish.mapping, from: wish.from, count: wish.count, server, staging)
            case .drops(let drops):
                kept = merged(drops).filter { !engine.dropTouched($0.pool, $0.object, $0.pages, server) }
            }
            queue.withLock { queue in
                queue.busy -= 1
                // Pages that somebody worked on just then.
                for drop in kept where queue.drops.count < Self.dropLimit { queue.drops.append(drop) }
            }
            kept = []
            queue.notifyAll()
        }
    }

    /// A wish at once; drops when they are many, or after a quiet moment.
    private func next() -> Job {
        var seenDrops = -1
        while true {
            let deadline = MonotonicTime.now().advanced(milliseconds: seenDrops < 0 ? 3_600_000 : Self.quietMilliseconds)
            let job: Job? = queue.wait(deadline: deadline) { queue in
                if queue.isEnding { return .end }
                if !queue.wishes.isEmpty {
                    queue.busy += 1
                    return .wish(queue.wishes.removeFirst())
                }
                if queue.dropPages >= Self.dropBatchPages || queue.isDraining && !queue.drops.isEmpty {
                    return takeDrops(&queue)
                }
                // Begin to watch for a quiet moment.
                if seenDrops < 0, !queue.drops.isEmpty { return .drops([]) }
                return nil
            }
            switch job {
            case .drops(let drops)? where drops.isEmpty: seenDrops = queue.withLock { $0.dropPages }
            case let job?: return job
            case nil:
                let job = queue.withLock { queue -> Job? in
                    if queue.drops.isEmpty || queue.dropPages != seenDrops {
                        seenDrops = queue.drops.isEmpty ? -1 : queue.dropPages
                        return nil
                    }
                    return takeDrops(&queue)
                }
                if let job { return job }
            }
        }
    }

    private func takeDrops(_ queue: inout Queue) -> Job {
        queue.busy += 1
        queue.dropPages = 0
        defer { queue.drops.removeAll(keepingCapacity: true) }
        return .drops(queue.drops)
    }

    /// Neighbours become one.
    private func merged(_ drops: [Drop]) -> [Drop] {
        let sorted = drops.sorted {
            $0.object.id == $1.object.id ? $0.pages.lowerBound < $1.pages.lowerBound : $0.object.id < $1.object.id
        }
        var merged: [Drop] = []
        for drop in sorted {
            if let last = merged.last, last.object.id == drop.object.id, drop.pages.lowerBound <= last.pages.upperBound + Self.gapPages {
                merged[merged.count - 1].pages = last.pages.lowerBound..<max(last.pages.upperBound, drop.pages.upperBound)
            } else {
                merged.append(drop)
            }
        }
        return merged
    }
}

extension Engine {
    /// Brings pages that no thread asked for yet, if nobody works on them.
    fileprivate func bringAhead(
        _ pool: Pool, _ mapping: MappingID, from page: Int, count: Int, _ server: FaultServer, _ staging: Staging
    ) {
        guard !pool.isHuge, page < pool.ledger.geometry.pageCount, pool.words.isBackedUp(page) || pool.words.isZero(page) else { return }
        let claimed = pool.touch.state.withLock { state -> (claim: UInt64, pages: Range<Int>)? in
            guard state.claim(at: page) == nil, let mapping = state.mappings.first(where: { $0.id == mapping }) else { return nil }
            guard let segment = mapping.segments.segments.first(where: { $0.pages.contains(page) }) else { return nil }
            let end = state.firstClaimed(after: page, below: min(segment.pages.upperBound, page + count))
            return (state.add(page..<end, .serving), page..<end)
        }
        guard let claimed else { return }
        _ = bring(pool, mapping, claimed.pages, claimed.claim, isSequential: false, server, staging, nil)
    }

    /// Frees the backup's copies of those pages of a range that are back. False if somebody works on one of them now.
    fileprivate func dropTouched(_ pool: Pool, _ object: TouchedObject, _ pages: Range<Int>, _ server: FaultServer) -> Bool {
        guard let claim = pool.touch.tryClaim(pages, .dropping) else { return false }
        defer { pool.touch.end(claim) }
        // Ids are never used again: an object that is gone took its copies along.
        guard let now = touchedObject(pages.lowerBound, of: pool), now.id == object.id else { return true }
        do throws(EngineError) {
            try server.at(.touchBeforeDrop, object.id, pages.lowerBound - object.firstPage)
            let file = try pool.backup.open(object.id)
            var page = pages.lowerBound
            while page < pages.upperBound {
                guard !pool.words.isBackedUp(page) else {
                    page += 1
                    continue
                }
                var end = page + 1
                while end < pages.upperBound, !pool.words.isBackedUp(end) { end += 1 }
                // One that can't be dropped is overwritten or removed later.
                try? file.drop(at: (page - object.firstPage) * pool.unitBytes, length: (end - page) * pool.unitBytes)
                page = end
            }
            try server.at(.touchAfterDrop, object.id, pages.lowerBound - object.firstPage)
        } catch {}
        return true
    }

    /// Waits until copies of pages that faults brought back are dropped; for tests, and before the backup is counted.
    public func waitForTouchDrops() { faultServer.ahead.drain() }
}
