import ShrinkLinux
import SystemPackage

/// Work that no client waits for: pages ahead of a thread that goes through its memory in order, and copies in the backup of pages that are back.
final class TouchAhead: Sendable {
    /// A thread that goes through a mapping in order, and what of it is not begun yet.
    private struct Wish {
        let pool: Pool
        let mapping: MappingID
        /// Where the thread faulted last.
        var position: Int
        var pages: Range<Int>

        /// It is the same thread that wishes for more.
        func isContinued(by more: Range<Int>) -> Bool {
            more.lowerBound <= pages.upperBound && more.upperBound >= pages.lowerBound
        }
    }

    /// Pages that one thread brings together.
    struct Chunk {
        fileprivate let pool: Pool
        fileprivate let mapping: MappingID
        fileprivate let pages: Range<Int>
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

    /// Threads of clients for which pages are brought ahead at a time; they take turns.
    private static let wishLimit = 16
    /// The first pages ahead are few, so that who waits for them goes on soon.
    private static let shortest = 32
    static let dropLimit = 8192
    /// Copies are dropped when so many pages have come together, or nothing happened for a while.
    private static let dropBatchPages = 2048
    /// So many are dropped whatever else is to be done: they take room in the backup.
    private static let dropFirstPages = 4 * dropBatchPages
    private static let quietMilliseconds: UInt64 = 20
    /// Holes of the backup up to this length are dropped over.
    private static let gapPages = 16

    private let queue = Monitor(Queue())

    /// A thread that faulted at `position` comes through these pages soon. What is on the list for it already is lengthened. Where too many threads go through their
    /// memory the wish is forgotten.
    func wish(_ pool: Pool, _ mapping: MappingID, _ pages: Range<Int>, after position: Int) {
        let isNew = queue.withLock { queue -> Bool in
            if let i = queue.wishes.firstIndex(where: { $0.mapping == mapping && $0.isContinued(by: pages) }) {
                queue.wishes[i].position = position
                queue.wishes[i].pages = queue.wishes[i].pages.lowerBound..<max(queue.wishes[i].pages.upperBound, pages.upperBound)
                return true
            }
            guard queue.wishes.count < Self.wishLimit else { return false }
            queue.wishes.append(Wish(pool: pool, mapping: mapping, position: position, pages: pages))
            return true
        }
        if isNew { queue.notifyAll() }
    }

    /// There is no sense in bringing more of a mapping now.
    private func forget(_ mapping: MappingID) { queue.withLock { $0.wishes.removeAll { $0.mapping == mapping } } }

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
        case bring(Chunk)
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
            case .bring(let chunk): if !engine.bringAhead(chunk, server, staging) { forget(chunk.mapping) }
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
                if queue.dropPages >= Self.dropFirstPages { return takeDrops(&queue) }
                if let chunk = takeChunk(&queue) { return .bring(chunk) }
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

    private func takeChunk(_ queue: inout Queue) -> Chunk? {
        guard !queue.wishes.isEmpty else { return nil }
        var wish = queue.wishes.removeFirst()
        let start = wish.pages.lowerBound
        let length = min(max(Self.shortest, start - wish.position), FaultAround.longest)
        let end = min(start + length, wish.pages.upperBound)
        wish.pages = end..<wish.pages.upperBound
        // Behind those of others.
        if !wish.pages.isEmpty { queue.wishes.append(wish) }
        queue.busy += 1
        return Chunk(pool: wish.pool, mapping: wish.mapping, pages: start..<end)
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
    /// Brings pages that no thread asked for yet, where nobody works on them. False if it makes no sense to go on: memory is short, the backup is away or damaged, or the
    /// mapping is gone.
    fileprivate func bringAhead(_ chunk: TouchAhead.Chunk, _ server: FaultServer, _ staging: Staging) -> Bool {
        let (pool, mapping) = (chunk.pool, chunk.mapping)
        let end = min(chunk.pages.upperBound, pool.ledger.geometry.pageCount)
        var page = chunk.pages.lowerBound
        var mayMark = true
        while let wanted = pool.words.nextToBring(from: page, below: end) {
            let step = pool.touch.state.withLock { state -> AheadStep in
                guard let i = state.mappings.firstIndex(where: { $0.id == mapping }),
                    let segment = state.mappings[i].segments.segments.first(where: { $0.pages.contains(wanted) })
                else { return .stop }
                if let claim = state.claim(at: wanted) { return .pass(to: state.claims[claim].pages.upperBound) }
                let limit = state.firstClaimed(after: wanted, below: min(segment.pages.upperBound, end))
                if mayMark, pool.words.isBackedUp(wanted), state.mappings[i].around.takesMarker(wanted..<limit) {
                    return .pass(to: wanted + 1)
                }
                state.mappings[i].around.reserved(wanted..<limit)
                return .bring(state.add(wanted..<limit, .serving), wanted..<limit)
            }
            mayMark = false
            switch step {
            case .stop: return false
            case .pass(let to): page = to
            case .bring(let claim, let pages):
                guard case .served(let end) = bring(pool, mapping, pages, claim, isInOrder: true, server, staging, nil) else {
                    return false
                }
                page = end
            }
        }
        return true
    }

    private enum AheadStep {
        case stop
        case pass(to: Int)
        case bring(UInt64, Range<Int>)
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

extension PageTable {
    /// Pages of zeros up to so many come along with their neighbours: one call costs more than placing them.
    static let gapPages = 16

    /// The first page from `page` on that is out, or one of a few zeros before it.
    func nextToBring(from page: Int, below end: Int) -> Int? {
        var next = page
        while next < end, !isBackedUp(next) { next += 1 }
        guard next < end else { return nil }
        let first = max(page, next - Self.gapPages)
        while next > first, isZero(next - 1) { next -= 1 }
        return next
    }
}
