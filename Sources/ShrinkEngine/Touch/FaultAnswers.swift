import Logging
import ShrinkLinux
import Synchronization
import SystemPackage

// What a fault gets that needs nothing from the backup: zeros where nothing is stored, and poison where what is stored can't be had.

extension Engine {
    func placeZeros(_ fault: FaultServer.Fault, count: Int, _ server: FaultServer) {
        fault.pool.touch.zeroOne(fault.mapping, fault.address)
        server.counters.zeroPages.add(count, ordering: .relaxed)
    }

    /// Holes that nothing is stored of. Around the page only such of the same object, and only for a thread that goes through in order. Returns
    /// where they end.
    func placeZeros(
        _ pool: Pool, _ mapping: MappingID, _ claimed: Range<Int>, _ object: TouchedObject?, _ fault: FaultServer.Fault?,
        _ server: FaultServer
    ) -> Int {
        // Nobody waits: then there is no need for memory full of zeros.
        guard fault != nil else { return claimed.lowerBound + 1 }
        var end = claimed.lowerBound + 1
        if let object {
            while end < min(claimed.upperBound, object.end), !pool.words.isBackedUp(end), pool.words.state(end) != .purged { end += 1 }
        }
        let pages = claimed.lowerBound..<end
        for span in pool.touch.spans(of: pages, only: mapping) {
            var done = 0
            while done < span.addresses.count {
                let placed = Userfaults.zero(
                    span.userfaults.number, span.addresses.lowerBound + UInt(done)..<span.addresses.upperBound, .leavesAsleep)
                done += placed.bytes
                server.counters.zeroPages.add(placed.bytes / basePageSize, ordering: .relaxed)
                guard let error = placed.error else { continue }
                if error == .fileExists { done += basePageSize } else { break }
            }
        }
        if let object {
            var zero = 0
            for page in pages where pool.words.isZero(page) {
                pool.words.set(page, .resident)
                zero += 1
            }
            count(object, backedUp: 0, zero: zero)
        }
        return end
    }

    func refuse(
        _ page: Int, _ object: TouchedObject, _ pool: Pool, _ claim: UInt64, _ error: EngineError, _ fault: FaultServer.Fault?,
        _ server: FaultServer
    ) {
        defer { pool.touch.end(claim) }
        guard let fault else { return }
        let isLive = state.withLock { state in state.objects.slot(of: object.id).map { state.objects[$0].life == .live } ?? false }
        guard isLive else {
            // Its owner destroys it meanwhile, and the backup's part went first.
            if pool.isHuge { poison(fault, nil, server) } else { placeZeros(fault, count: 1, server) }
            return
        }
        state.withLock { state in
            // An explicit recover that meets the page again counts on from here.
            if let slot = state.objects.slot(of: object.id) { state.change(slot) { $0.damagedPages += 1 } }
            state.damagedPages += 1
        }
        logger.error(
            "a page that a client touched can't be had; the client gets SIGBUS",
            metadata: ["object": "\(object.id.rawValue)", "page": "\(page - object.firstPage)", "error": "\(error)"])
        poison(fault, page, server)
    }

    func poison(_ fault: FaultServer.Fault, _ page: Int?, _ server: FaultServer) {
        server.counters.poisonedPages.add(1, ordering: .relaxed)
        let isFirst = fault.pool.touch.poisonOne(fault.mapping, fault.address, page: page)
        if isFirst, let marked = fault.pool.touch.persistent(fault.mapping, of: server) { server.tell(.changed(marked)) }
    }
}
