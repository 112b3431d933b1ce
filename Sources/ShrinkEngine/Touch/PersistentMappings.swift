public import ShrinkLinux
import SystemPackage

// Registered mappings that outlive their engine. As long as somebody has the userfaultfd open, threads that touch a missing page wait; the next
// engine takes it over, wakes its ranges, and serves what comes again.

/// A registered mapping as the next engine needs it.
public struct PersistentMapping: Sendable {
    public var id: MappingID
    /// Whose end is its end: its own, or that of the mapping of the process that forked.
    public var registration: MappingID
    public var pool: PoolID
    public var userfaults: SharedDescriptor
    /// What of the pool shows at which addresses now.
    public var pieces: [MappingPlace]
    /// Pages of it were made SIGBUS; which ones, the next engine does not know.
    public var isPoisoned: Bool

    public init(
        id: MappingID, registration: MappingID, pool: PoolID, userfaults: SharedDescriptor, pieces: [MappingPlace], isPoisoned: Bool
    ) {
        self.id = id
        self.registration = registration
        self.pool = pool
        self.userfaults = userfaults
        self.pieces = pieces
        self.isPoisoned = isPoisoned
    }
}

/// What whoever keeps registered mappings over the engine's death must hear of.
public enum MappingChange: Sendable {
    /// A process forked, and its child's memory shows the same. Kept or refused (`refuseForkedMapping`) before the engine dies, it loses nothing.
    case forked(PersistentMapping)
    /// It shows something else, or pages of it were made SIGBUS.
    case changed(PersistentMapping)
    case ended(MappingID)
}

extension Engine {
    /// Has `body` called with what becomes of mappings. It runs on threads that serve faults, so it only notes what it hears.
    public func watchMappings(_ body: @escaping @Sendable (MappingChange) -> Void) { faultServer.watch(body) }

    /// What has to be kept of a mapping; nil if it ended.
    public func persistentMapping(_ id: MappingID) -> PersistentMapping? {
        faultServer.pool(of: id)?.touch.persistent(id, of: faultServer)
    }

    /// Takes over a mapping of an engine that is gone, after its pools: threads that wait in it fault again and are served.
    public func adoptMapping(_ left: PersistentMapping) throws(EngineError) {
        let pool = try state.withLock { state throws(EngineError) in try state.pool(left.pool) }
        var segments: [MappedSegments.Segment] = []
        for piece in left.pieces {
            let (first, count) = try Self.check(piece, in: pool)
            segments.append(MappedSegments.Segment(address: piece.address, firstPage: first, count: count, unitBytes: pool.unitBytes))
        }
        try Self.begin(left.userfaults.number, pool)
        faultServer.skipIDs(through: left.id)
        let isPoisoned = left.isPoisoned
        try enter(
            PoolTouch.Mapping(
                id: left.id, userfaults: left.userfaults, segments: MappedSegments(segments), hasUnknownPoison: isPoisoned,
                registration: left.registration), of: pool)
        for segment in segments {
            if isPoisoned { pool.touch.showPresent(left.userfaults.number, segment.address..<segment.end) }
            try? Userfaults.wake(left.userfaults.number, segment.address..<segment.end)
        }
    }

    /// A forked process can't be kept over the engine's death, so it is not served either: its touches of missing pages are SIGBUS, never zeros.
    public func refuseForkedMapping(_ id: MappingID) {
        guard let pool = faultServer.pool(of: id) else { return }
        pool.touch.poisonAll(id)
        endMapping(id)
    }

    /// The engine ends for good. What is still in the backup becomes SIGBUS in every registered mapping, and then all mappings are let go: what is in
    /// memory stays usable, a hole reads as the zeros that it stands for, and nobody waits for an engine that does not come.
    ///
    /// Returns the number of pages that were made SIGBUS. Call it when nothing moves pages any more; a worker that hangs does no harm.
    public func endMappings() -> Int {
        var poisoned = 0
        for pool in state.withLock({ Array($0.pools.values) }) {
            for mapping in pool.touch.state.withLock({ $0.mappings }) {
                for segment in mapping.segments.segments {
                    poisoned += pool.touch.poisonMissing(segment, mapping.userfaults.number, pool.words)
                }
                for segment in mapping.segments.segments {
                    // Whoever waits there goes on.
                    try? Userfaults.unregister(mapping.userfaults.number, segment.address..<segment.end)
                }
            }
            for mapping in faultServer.ids(of: pool.id) { endMapping(mapping) }
        }
        return poisoned
    }
}

extension PoolTouch {
    func persistent(_ id: MappingID, of server: FaultServer) -> PersistentMapping? {
        guard let mapping = state.withLock({ state in state.mappings.first { $0.id == id } }), let pool = server.pool(of: id)?.id else {
            return nil
        }
        return PersistentMapping(
            id: id, registration: mapping.registration, pool: pool, userfaults: mapping.userfaults,
            pieces: mapping.segments.segments.map { segment in
                MappingPlace(
                    address: segment.address, offset: ByteCount(segment.firstPage * unitBytes),
                    length: ByteCount(segment.count * unitBytes))
            }, isPoisoned: mapping.hasUnknownPoison || !mapping.poisoned.isEmpty)
    }

    /// Makes pages of a segment whose only copy is in the backup SIGBUS; those that are there stay.
    fileprivate func poisonMissing(_ segment: MappedSegments.Segment, _ userfaults: CInt, _ words: PageTable) -> Int {
        var poisoned = 0
        var page = segment.firstPage
        while page < segment.pages.upperBound {
            guard words.isBackedUp(page) || words.state(page) == .purged else {
                page += 1
                continue
            }
            var end = page + 1
            while end < segment.pages.upperBound, words.isBackedUp(end) || words.state(end) == .purged { end += 1 }
            let start = segment.address + UInt((page - segment.firstPage) * unitBytes)
            poisoned += poison(userfaults, start..<start + UInt((end - page) * unitBytes))
            page = end
        }
        return poisoned
    }

    /// Makes missing pages of a range SIGBUS, and wakes who waits for them; returns how many.
    func poison(_ userfaults: CInt, _ range: Range<UInt>) -> Int {
        // A mark is refused where another one is: a protected page has one.
        try? Userfaults.unprotect(userfaults, range)
        var (address, poisoned, attempts) = (range.lowerBound, 0, 0)
        while address < range.upperBound {
            let placed = Userfaults.poison(userfaults, address..<range.upperBound)
            address += UInt(placed.bytes)
            poisoned += placed.bytes / unitBytes
            if placed.error == nil { break }
            if placed.error == .fileExists {
                // A page that is there is passed over.
                address += UInt(unitBytes)
            } else if placed.error == .resourceTemporarilyUnavailable, attempts < 1000 {
                // The process changes its mappings; whoever reads its events goes on meanwhile.
                attempts += 1
                DedicatedThread.pause(milliseconds: 1)
            } else if placed.bytes == 0 {
                break
            }
        }
        try? Userfaults.wake(userfaults, range)
        return poisoned
    }

    /// Pages that are in the pool's file take the place of marks that an earlier failure left.
    func showPresent(_ userfaults: CInt, _ range: Range<UInt>) {
        var address = range.lowerBound
        while address < range.upperBound {
            let placed = Userfaults.show(userfaults, address..<range.upperBound)
            address += UInt(placed.bytes)
            if placed.error == nil { break }
            // Shown already (EEXIST), or nothing there (EFAULT).
            if placed.error == .fileExists || placed.error == .badAddress {
                address += UInt(unitBytes)
            } else if placed.bytes == 0 {
                break
            }
        }
    }

    /// An explicit recover brought pages that may be SIGBUS in some mapping: they are seen again. Their claim still stands.
    func showRecovered(_ pages: Range<Int>) {
        let marked = state.withLock { state -> [(SharedDescriptor, Range<UInt>)] in
            var marked: [(SharedDescriptor, Range<UInt>)] = []
            for i in state.mappings.indices {
                let mapping = state.mappings[i]
                if mapping.hasUnknownPoison {
                    mapping.segments.forEachSpan(of: pages) { (addresses, _) in marked.append((mapping.userfaults, addresses)) }
                }
                if mapping.poisoned.isEmpty { continue }
                for page in mapping.poisoned where pages.contains(page) {
                    mapping.segments.forEachSpan(of: page..<page + 1) { (addresses, _) in marked.append((mapping.userfaults, addresses)) }
                }
                state.mappings[i].poisoned.removeAll { pages.contains($0) }
            }
            return marked
        }
        for (userfaults, addresses) in marked { showPresent(userfaults.number, addresses) }
    }
}
