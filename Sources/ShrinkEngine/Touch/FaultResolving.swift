import Logging
import ShrinkLinux
import Synchronization
import SystemPackage

// One fault, from the address to the page. With the page claimed: copy in, write-protected → words → un-protect and wake; the copy in the
// backup is dropped later. A process killed between any two of these leaves each page with one valid home (Healing.swift).

extension Engine {
    /// What a fault meets at its page.
    private enum Meeting {
        /// Somebody's claim: its end wakes the page.
        case wait
        /// An explicit recover that may wait for a lock; the page is brought for reading meanwhile.
        case guest(claim: UInt64, page: Int)
        /// A write to what is being copied out: the page stays.
        case hot(claim: UInt64)
        case zeros
        case poison(page: Int?)
        case mine(claim: UInt64, page: Int, limit: Int)
    }

    /// How a fault ended.
    enum Resolution {
        case done
        /// The thread goes through its memory in order: what it wants next is on its way, or comes after a while.
        case doneInOrder
        /// The fault must be tried again later: nobody was woken.
        case later
    }

    func resolve(_ fault: FaultServer.Fault, _ server: FaultServer, _ staging: Staging) -> Resolution {
        let touch = fault.pool.touch
        var isInOrder = false
        let meeting = touch.state.withLock { state -> Meeting in
            guard let index = state.mappings.firstIndex(where: { $0.id == fault.mapping }) else { return .wait }
            guard let (page, end) = state.mappings[index].segments.page(at: fault.address) else { return .poison(page: nil) }
            if let i = state.claim(at: page) {
                switch state.claims[i].work {
                case .copyingOut where fault.isWrite:
                    state.claims[i].hot.insert(page - state.claims[i].pages.lowerBound)
                    state.claims[i].guests += 1
                    return .hot(claim: state.claims[i].id)
                // Units of huge pages are brought without a lock that a client can hold: the worker's end is waited for.
                case .copyingIn where !fault.isWrite && fault.pool.file.huge == nil:
                    state.claims[i].guests += 1
                    return .guest(claim: state.claims[i].id, page: page)
                case .ending where !fault.isWrite: return .zeros
                case .purging where !fault.isWrite: return .poison(page: page)
                case .serving:
                    if let ahead = state.mappings[index].around.met(page) {
                        server.ahead.wish(fault.pool, fault.mapping, ahead.clamped(to: 0..<end), after: page)
                    }
                    isInOrder = true
                default: break
                }
                state.claims[i].wasMet = true
                return .wait
            }
            if fault.isWrite || fault.pool.file.huge != nil {
                return .mine(claim: state.add(page..<page + 1, .serving), page: page, limit: page + 1)
            }
            let window = state.mappings[index].around.window(at: page)
            if let ahead = window.ahead {
                server.ahead.wish(fault.pool, fault.mapping, ahead.clamped(to: 0..<end), after: page)
                isInOrder = true
            }
            let limit = state.firstClaimed(after: page, below: min(end, page + window.count))
            return .mine(claim: state.add(page..<limit, .serving), page: page, limit: limit)
        }
        switch meeting {
        case .wait: return isInOrder ? .doneInOrder : .done
        case .hot(let claim):
            server.counters.hotPages.add(1, ordering: .relaxed)
            touch.unprotectOne(fault.mapping, fault.address)
            touch.leave(claim)
            return .done
        case .guest(let claim, let page):
            defer { touch.leave(claim) }
            return bringAsGuest(fault, page, server, staging) ? .done : .later
        case .zeros:
            // One of huge pages comes again when its object is gone.
            if fault.pool.file.huge != nil { return .later }
            placeZeros(fault, count: 1, server)
            return .done
        case .poison(let page):
            poison(fault, page, server)
            return .done
        case .mine(let claim, let page, let limit):
            // A write to a page that nobody works on and that is only here: a protection that was left over.
            if fault.isWrite, !fault.pool.words.isBackedUp(page) {
                touch.end(claim)
                return .done
            }
            if let huge = fault.pool.file.huge { return bring(unit: page, claim, huge, server, fault) ? .done : .later }
            // Otherwise the message is old, and the page went out since it was sent: it is missing now.
            switch bring(fault.pool, fault.mapping, page..<limit, claim, isInOrder: isInOrder, server, staging, fault) {
            case .served: return isInOrder ? .doneInOrder : .done
            case .later: return .later
            }
        }
    }

    /// What of the engine a fault needs to know of the object at its page.
    struct TouchedObject {
        let id: ObjectID
        let firstPage: Int
        let end: Int
    }

    func touchedObject(_ page: Int, of pool: Pool) -> TouchedObject? {
        state.withLock { state in
            guard let id = pool.places?.object(before: UInt32(page)), let slot = state.objects.slot(of: ObjectID(rawValue: id)),
                state.objects[slot].life != .gone, state.objects[slot].pool == pool.id.rawValue
            else { return nil }
            let first = Int(state.objects[slot].firstPage)
            let end = first + Int(state.objects[slot].pageCount)
            return page < end ? TouchedObject(id: ObjectID(rawValue: id), firstPage: first, end: end) : nil
        }
    }

    /// Before the claim ends: the counts agree with the words whenever nobody works on them.
    func count(_ object: TouchedObject, backedUp: Int, zero: Int) {
        state.withLock { state in
            guard let slot = state.objects.slot(of: object.id) else { return }
            state.noteTouched(
                slot, BufferObject.Touched(backedUpPages: UInt32(backedUp), zeroPages: UInt32(zero), isAny: true))
        }
    }

    /// What became of claimed pages.
    enum Bringing {
        /// Those before `end` need not be looked at again.
        case served(end: Int)
        /// Memory is short, or the backup is away. Who waits was not woken.
        case later
    }

    /// Brings pages that are claimed, and ends the claim. Nobody need wait for them: then `fault` is nil.
    func bring(
        _ pool: Pool, _ mapping: MappingID, _ claimed: Range<Int>, _ claim: UInt64, isInOrder: Bool, _ server: FaultServer,
        _ staging: Staging, _ fault: FaultServer.Fault?
    ) -> Bringing {
        let page = claimed.lowerBound
        let table = pool.words
        let object = touchedObject(page, of: pool)
        let isHole: Bool
        switch table.state(page) {
        case .backedUp: isHole = false
        case .purged:
            if let fault { poison(fault, page, server) }
            pool.touch.end(claim)
            return .served(end: page + 1)
        case .empty, .zero, .resident: isHole = true
        }
        // A few zeros come along with what lies behind them.
        if isHole, !isInOrder || table.nextToBring(from: page, below: claimed.upperBound) != page {
            let end = placeZeros(pool, mapping, claimed, object, fault, server)
            pool.touch.end(claim)
            return .served(end: end)
        }
        guard let object else {
            // A word that belongs to nobody: whatever it was, it is not zeros.
            if let fault { poison(fault, page, server) }
            pool.touch.end(claim)
            return .served(end: page + 1)
        }
        var end = page + 1
        while end < min(claimed.upperBound, object.end), table.isBackedUp(end) || table.isZero(end) { end += 1 }
        let zeros = (page..<end).reversed().prefix { table.isZero($0) }.count
        if !isInOrder || zeros > PageTable.gapPages { end = max(page + 1, end - zeros) }
        var granted = 0
        defer { room.giveBack(granted) }
        if end > page + 1 || fault == nil {
            // The page that somebody waits for comes whatever it costs, others only where there is room.
            do throws(EngineError) {
                try room.take((end - page) * basePageSize, engine: self, nil)
                granted = (end - page) * basePageSize
            } catch {
                guard fault != nil else {
                    pool.touch.end(claim)
                    return .later
                }
                end = page + 1
            }
        }
        switch fetch(page..<end, object, pool, server, staging) {
        case .fetched: break
        case _ where isHole:
            // Nothing is stored of the page that is wanted.
            let end = placeZeros(pool, mapping, page..<page + 1, object, fault, server)
            pool.touch.end(claim)
            return fault == nil ? .later : .served(end: end)
        case .retry:
            pool.touch.end(claim, fault == nil ? .protected : .quiet)
            return .later
        case .failed where fault == nil:
            pool.touch.end(claim)
            return .later
        case .failed(let error) where end > page + 1:
            // One bad page must not keep its neighbours.
            end = page + 1
            if case .fetched = fetch(page..<end, object, pool, server, staging) { break }
            refuse(page, object, pool, claim, error, fault, server)
            return .served(end: end)
        case .failed(let error):
            refuse(page, object, pool, claim, error, fault, server)
            return .served(end: end)
        }
        let placed =
            fault == nil
            ? pool.touch.placing.withLock { _ in place(page..<end, pool, mapping, staging) } : place(page..<end, pool, mapping, staging)
        if placed.isEmpty, placed.mustWait {
            pool.touch.end(claim, fault == nil ? .protected : .quiet)
            return .later
        }
        do throws(EngineError) {
            try server.at(.touchAfterCopyIn, object.id, page - object.firstPage)
            var (backedUp, zero) = (0, 0)
            var pages = placed.pages
            // Here as well as in the backup, and protected since it came (a recover that stopped half way left it): from now on it is the only copy.
            if placed.isFirstThere, fault?.isWrite == true { pages.insert(0) }
            pages.forEachRun(of: 0..<end - page, isIn: true) { run in
                for i in run {
                    if table.isBackedUp(page + i) { backedUp += 1 } else if table.isZero(page + i) { zero += 1 } else { continue }
                    table.set(page + i, .resident)
                }
            }
            server.counters.recoveredPages.add(backedUp, ordering: .relaxed)
            if fault == nil { server.counters.aheadPages.add(backedUp, ordering: .relaxed) }
            count(object, backedUp: backedUp, zero: zero)
            try server.at(.touchAfterWords, object.id, page - object.firstPage)
        } catch {
            pool.touch.end(claim, .protected)
            return .served(end: end)
        }
        pool.touch.end(claim)
        server.ahead.drop(pool, object, page..<end)
        return .served(end: end)
    }

    /// A page that an explicit recover is about to bring as well: placed for readers, protected; its word stays.
    private func bringAsGuest(_ fault: FaultServer.Fault, _ page: Int, _ server: FaultServer, _ staging: Staging) -> Bool {
        guard let object = touchedObject(page, of: fault.pool), fault.pool.words.isBackedUp(page) else {
            // Brought already, or a hole that the recover passes over.
            placeZeros(fault, count: 1, server)
            return true
        }
        switch fetch(page..<page + 1, object, fault.pool, server, staging) {
        case .retry: return false
        case .failed:
            // The recover finds the same and says so; the fault comes again and is told.
            return false
        case .fetched:
            let placed = place(page..<page + 1, fault.pool, fault.mapping, staging)
            if placed.isEmpty, placed.mustWait { return false }
            fault.pool.touch.wakeOne(fault.mapping, fault.address)
            return true
        }
    }
}

extension Pool {
    /// All words of the pool, by page of the pool.
    var words: PageTable { ledger.table(firstPage: 0, count: ledger.geometry.pageCount) }
}
