/// What the engine's lock guards.
///
/// Objects change through `change` only, so that the counters and the lists always agree with them: subtract the old class, set, add the new one.
struct EngineState: ~Copyable {
    var pools: [PoolID: Pool] = [:]
    /// The same, for who goes through all of them without the lock.
    var poolList: [Pool] = []
    var objects = ObjectTable()
    var lru = LRU()
    var tickets = Tickets()
    var gates = GateTable()
    /// Leased objects.
    var leased: Set<UInt32> = []
    var tally = Tally()
    /// The same of pools of huge pages. What they free gives the machine no memory back, so whoever wants some does not count it.
    var hugeTally = Tally()
    /// Where pages go, by `Pool.backend`.
    var backends: [BackendSpace] = []
    var nextPool: UInt32 = 1
    var strayPages = 0
    var damagedPages = 0
    var isShuttingDown = false

    /// Sums over all objects, in base pages, so that counting costs the same for one and for a million.
    struct Tally: Equatable {
        /// Pages on the lists that have to be kept when they go, and objects they belong to.
        var shrinkablePages = 0
        var shrinkableObjects = 0
        /// Pages on the lists that are freed without a copy.
        var expendablePages = 0
        /// Pages of freed ranges that still take memory.
        var readyPages = 0
    }

    /// Changes an object, and what is counted and listed because of it. The place in the list stays where it is if it was listed before and is after.
    @discardableResult
    mutating func change<R>(_ slot: UInt32, _ body: (inout BufferObject) -> R) -> R {
        enter(slot, sign: -1)
        let result = body(&objects[slot])
        settle(slot)
        return result
    }

    /// Counts and lists an object as it is now.
    private mutating func settle(_ slot: UInt32) {
        enter(slot, sign: 1)
        let object = objects[slot]
        assert(object.backedUpPages + object.zeroPages + object.purgedPages <= object.pageCount, "more pages are gone than there are")
        if object.isShrinkable != lru.contains(slot) {
            if object.isShrinkable { lru.touch(slot, object.priority) } else { lru.remove(slot) }
        }
    }

    /// Puts an object that is used now at the recently used end.
    mutating func bump(_ slot: UInt32) {
        if objects[slot].isShrinkable { lru.touch(slot, objects[slot].priority) }
    }

    private mutating func enter(_ slot: UInt32, sign: Int) {
        let object = objects[slot]
        guard object.isShrinkable else { return }
        if object.isHuge {
            if object.isExpendable {
                hugeTally.expendablePages += sign * object.reclaimablePages
            } else {
                hugeTally.shrinkablePages += sign * object.reclaimablePages
                hugeTally.shrinkableObjects += sign
            }
        } else if object.isExpendable {
            tally.expendablePages += sign * object.reclaimablePages
        } else {
            tally.shrinkablePages += sign * object.reclaimablePages
            backends[Int(object.backend)].shrinkablePages += sign * object.reclaimablePages
            tally.shrinkableObjects += sign
        }
        assert(tally.expendablePages >= 0 && tally.shrinkablePages >= 0 && tally.shrinkableObjects >= 0, "a counter went below zero")
    }

    /// Enters a new object; its pages are not on any list before the first unpin.
    mutating func insert(_ object: BufferObject, in pool: Pool) -> UInt32 {
        var object = object
        object.backend = UInt16(pool.backend)
        object.isHuge = pool.isHuge
        let slot = objects.insert(object)
        lru.reserveSlots(objects.capacity)
        lru.setBulk(slot, nil)
        if object.isLeased { leased.insert(slot) }
        pool.ids.insert(object.id)
        pool.places?.insert(object.id, first: object.firstPage)
        pool.objectCount += 1
        pool.objectPages += Int(object.pageCount)
        pool.pinnedObjects += object.pinCount > 0 ? 1 : 0
        pool.backedUpPages += Int(object.backedUpPages)
        pool.zeroPages += Int(object.zeroPages)
        settle(slot)
        return slot
    }

    /// Forgets an object that is `gone`.
    mutating func remove(_ slot: UInt32, from pool: Pool) {
        let object = objects[slot]
        assert(object.life == .gone && !lru.contains(slot), "an object goes that is still listed")
        lru.setBulk(slot, nil)
        pool.places?.remove(first: object.firstPage)
        dropGates(slot)
        leased.remove(slot)
        objects.remove(slot)
        pool.ids.remove(object.id) { objects.slot(of: ObjectID(rawValue: $0)) != nil }
        pool.objectCount -= 1
        pool.objectPages -= Int(object.pageCount)
        pool.pinnedObjects -= object.pinCount > 0 ? 1 : 0
        addBackedUp(-Int(object.backedUpPages), to: pool)
        pool.zeroPages -= Int(object.zeroPages)
    }

    mutating func addReady(_ pages: Int, to pool: Pool) {
        let new = max(0, pool.readyPages + pages)
        if pool.isHuge {
            hugeTally.readyPages += (new - pool.readyPages) * pool.unitPages
        } else {
            tally.readyPages += new - pool.readyPages
        }
        pool.readyPages = new
    }

    // MARK: Looking

    func checkRunning() throws(EngineError) {
        if isShuttingDown { throw EngineError(.shuttingDown, "the daemon is stopping; try again when it is back") }
    }

    func checkPoolLimit() throws(EngineError) {
        guard pools.count < EngineLimits.pools else {
            throw EngineError(.limitReached, "there are \(EngineLimits.pools) pools already; destroy one first")
        }
    }

    func checkFree(_ name: String, _ owner: UInt32) throws(EngineError) {
        if pools.values.contains(where: { $0.name == name && $0.owner == owner }) {
            throw EngineError(.nameTaken, "uid \(owner) has a pool named \(name) already; choose another name or destroy it")
        }
    }

    func pool(_ id: PoolID) throws(EngineError) -> Pool {
        guard let pool = pools[id], !pool.isDying else { throw EngineError(.noSuchPool, "there is no \(id)") }
        return pool
    }

    /// The pool of an object that is there.
    func pool(of slot: UInt32) -> Pool {
        guard let pool = pools[PoolID(rawValue: objects[slot].pool)] else { fatalError("an object without a pool") }
        return pool
    }

    /// An object that is not being destroyed.
    func slot(_ id: ObjectID) throws(EngineError) -> UInt32 {
        guard let slot = objects.slot(of: id), objects[slot].life == .live else { throw EngineError(.noSuchObject, "there is no \(id)") }
        return slot
    }

    /// Ids of one pool's objects or of all, ascending, those after `after`, at most `limit`.
    func objectIDs(in pool: PoolID?, after: UInt32 = 0, limit: Int = .max) -> [ObjectID] {
        var result: [ObjectID] = []
        guard limit > 0 else { return [] }
        if let pool {
            guard let ids = pools[pool]?.ids else { return [] }
            for i in ids.place(after: after)..<ids.ids.count where objects.slot(of: ObjectID(rawValue: ids.ids[i])) != nil {
                result.append(ObjectID(rawValue: ids.ids[i]))
                if result.count == limit { break }
            }
            return result
        }
        // The pools' orders are merged, each from its place; dead ids fall out on the way.
        var heads = pools.values.map { (ids: $0.ids.ids, place: $0.ids.place(after: after)) }.filter { $0.place < $0.ids.count }
        if heads.count == 1 || limit == .max {
            for head in heads {
                for id in head.ids[head.place...] where objects.slot(of: ObjectID(rawValue: id)) != nil {
                    result.append(ObjectID(rawValue: id))
                    if heads.count == 1, result.count == limit { return result }
                }
            }
            return heads.count == 1 ? result : result.sorted()
        }
        while result.count < limit, let lowest = heads.indices.min(by: { heads[$0].ids[heads[$0].place] < heads[$1].ids[heads[$1].place] })
        {
            let id = ObjectID(rawValue: heads[lowest].ids[heads[lowest].place])
            if objects.slot(of: id) != nil { result.append(id) }
            heads[lowest].place += 1
            if heads[lowest].place == heads[lowest].ids.count { heads.remove(at: lowest) }
        }
        return result
    }

    /// Bytes this engine takes for its objects, the ledger apart.
    var memoryBytes: Int {
        objects.memoryBytes + lru.memoryBytes + pools.values.reduce(0) { $0 + $1.ids.ids.capacity * 4 }
    }
}
