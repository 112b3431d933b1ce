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
        case mine(claim: UInt64, page: Int, limit: Int, isSequential: Bool)
    }

    /// False if the fault must be tried again later: nobody was woken.
    func resolve(_ fault: FaultServer.Fault, _ server: FaultServer, _ staging: Staging) -> Bool {
        let touch = fault.pool.touch
        var aheadOf: Int?
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
                    // The one who comes through here wants what lies behind all that is on its way.
                    var next = state.claims[i].pages.upperBound
                    while let j = state.claim(at: next), state.claims[j].work == .serving { next = state.claims[j].pages.upperBound }
                    if state.claims[i].pages.count >= FaultAround.aheadFrom { aheadOf = next }
                default: break
                }
                state.claims[i].wasMet = true
                return .wait
            }
            if fault.isWrite || fault.pool.file.huge != nil {
                return .mine(claim: state.add(page..<page + 1, .serving), page: page, limit: page + 1, isSequential: false)
            }
            let (wanted, isSequential) = state.mappings[index].around.window(at: page)
            let limit = state.firstClaimed(after: page, below: min(end, page + wanted))
            return .mine(claim: state.add(page..<limit, .serving), page: page, limit: limit, isSequential: isSequential)
        }
        switch meeting {
        case .wait:
            if let aheadOf { server.ahead.wish(fault.pool, fault.mapping, from: aheadOf, count: FaultAround.longest) }
            return true
        case .hot(let claim):
            server.counters.hotPages.add(1, ordering: .relaxed)
            touch.unprotectOne(fault.mapping, fault.address)
            touch.leave(claim)
            return true
        case .guest(let claim, let page):
            defer { touch.leave(claim) }
            return bringAsGuest(fault, page, server, staging)
        case .zeros:
            // One of huge pages comes again when its object is gone.
            if fault.pool.file.huge != nil { return false }
            placeZeros(fault, count: 1, server)
            return true
        case .poison(let page):
            poison(fault, page, server)
            return true
        case .mine(let claim, let page, let limit, let isSequential):
            // A write to a page that nobody works on and that is only here: a protection that was left over.
            if fault.isWrite, !fault.pool.words.isBackedUp(page) {
                touch.end(claim)
                return true
            }
            if let huge = fault.pool.file.huge { return bring(unit: page, claim, huge, server, fault) }
            // Otherwise the message is old, and the page went out since it was sent: it is missing now.
            return bring(fault.pool, fault.mapping, page..<limit, claim, isSequential: isSequential, server, staging, fault)
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

    /// Brings pages that are claimed, and ends the claim. Nobody need wait for them: then `fault` is nil.
    func bring(
        _ pool: Pool, _ mapping: MappingID, _ claimed: Range<Int>, _ claim: UInt64, isSequential: Bool, _ server: FaultServer,
        _ staging: Staging, _ fault: FaultServer.Fault?
    ) -> Bool {
        let page = claimed.lowerBound
        let table = pool.words
        let object = touchedObject(page, of: pool)
        switch table.state(page) {
        case .backedUp: break
        case .purged:
            if let fault { poison(fault, page, server) }
            pool.touch.end(claim)
            return true
        case .empty, .zero, .resident:
            placeZeros(pool, mapping, claimed, object, fault, server)
            pool.touch.end(claim)
            return true
        }
        guard let object else {
            // A word that belongs to nobody: whatever it was, it is not zeros.
            if let fault { poison(fault, page, server) }
            pool.touch.end(claim)
            return true
        }
        var end = page + 1
        while end < min(claimed.upperBound, object.end), table.isBackedUp(end) || table.isZero(end) { end += 1 }
        while end > page + 1, table.isZero(end - 1) { end -= 1 }
        var granted = 0
        defer { room.giveBack(granted) }
        if end > page + 1 {
            // The page itself comes whatever it costs, those around it only where there is room.
            do throws(EngineError) {
                try room.take((end - page) * basePageSize, engine: self, nil)
                granted = (end - page) * basePageSize
            } catch { end = page + 1 }
        }
        if isSequential, end - page >= FaultAround.aheadFrom {
            server.ahead.wish(pool, mapping, from: end, count: min(2 * (end - page), FaultAround.longest))
        }
        switch fetch(page..<end, object, pool, server, staging) {
        case .fetched: break
        case .retry:
            pool.touch.end(claim, fault == nil ? .protected : .quiet)
            return fault == nil
        case .failed(let error) where end > page + 1:
            // One bad page must not keep its neighbours.
            end = page + 1
            if case .fetched = fetch(page..<end, object, pool, server, staging) { break }
            refuse(page, object, pool, claim, error, fault, server)
            return true
        case .failed(let error):
            refuse(page, object, pool, claim, error, fault, server)
            return true
        }
        let placed = place(page..<end, pool, mapping, staging)
        if placed.isEmpty, placed.mustWait {
            pool.touch.end(claim, fault == nil ? .protected : .quiet)
            return fault == nil
        }
        do throws(EngineError) {
            try server.at(.touchAfterCopyIn, object.id, page - object.firstPage)
            var (backedUp, zero) = (0, 0)
            var pages = placed.pages
            // Here as well as in the backup, and protected since it came (a recover that stopped half way left it): from now on it is the only copy.
            if placed.isFirstThere, fault?.isWrite == true { pages.insert(0) }
            pages.forEachRun(of: 0..<end - page, hot: true) { run in
                for i in run {
                    if table.isBackedUp(page + i) { backedUp += 1 } else if table.isZero(page + i) { zero += 1 } else { continue }
                    table.set(page + i, .resident)
                }
            }
            server.counters.recoveredPages.add(backedUp, ordering: .relaxed)
            count(object, backedUp: backedUp, zero: zero)
            try server.at(.touchAfterWords, object.id, page - object.firstPage)
        } catch {
            pool.touch.end(claim, .protected)
            return true
        }
        pool.touch.end(claim, waking: mapping)
        pool.touch.served(mapping, from: page, to: end, isFault: fault != nil)
        server.ahead.drop(pool, object, page..<end)
        return true
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
