import ShrinkLinux
import SystemPackage

// What a fault does to its own page, in its own mapping.

extension PoolTouch {
    struct PagedSpan {
        let userfaults: SharedDescriptor
        let addresses: Range<UInt>
        let firstPage: Int
    }

    func spans(of pages: Range<Int>, only mapping: MappingID) -> [PagedSpan] {
        state.withLock { state in
            guard let mapping = state.mappings.first(where: { $0.id == mapping }) else { return [] }
            var spans: [PagedSpan] = []
            mapping.segments.forEachSpan(of: pages) { (addresses, first) in
                spans.append(PagedSpan(userfaults: mapping.userfaults, addresses: addresses, firstPage: first))
            }
            return spans
        }
    }

    private func userfaults(_ mapping: MappingID) -> SharedDescriptor? {
        state.withLock { state in state.mappings.first { $0.id == mapping }?.userfaults }
    }

    private func page(at address: UInt) -> Range<UInt> { address..<address + UInt(unitBytes) }

    func wakeOne(_ mapping: MappingID, _ address: UInt) {
        guard let userfaults = userfaults(mapping) else { return }
        try? Userfaults.wake(userfaults.number, page(at: address))
    }

    func unprotectOne(_ mapping: MappingID, _ address: UInt) {
        guard let userfaults = userfaults(mapping) else { return }
        do throws(Errno) { try Userfaults.unprotect(userfaults.number, page(at: address)) } catch {
            // The process changes its mappings: the write comes again.
            try? Userfaults.wake(userfaults.number, page(at: address))
        }
    }

    func zeroOne(_ mapping: MappingID, _ address: UInt) {
        guard let userfaults = userfaults(mapping) else { return }
        if Userfaults.zero(userfaults.number, page(at: address)).error != nil {
            try? Userfaults.wake(userfaults.number, page(at: address))
        }
    }

    static let poisonedLimit = 1 << 16

    /// SIGBUS for whoever touches the page. `page` is noted, so that the mark goes when new content comes. True if it is the mapping's first.
    func poisonOne(_ mapping: MappingID, _ address: UInt, page number: Int?) -> Bool {
        guard let userfaults = userfaults(mapping) else { return false }
        // A mark is refused where another one is: a protected page has one.
        try? Userfaults.unprotect(userfaults.number, page(at: address))
        _ = Userfaults.poison(userfaults.number, page(at: address))
        try? Userfaults.wake(userfaults.number, page(at: address))
        guard let number else { return false }
        return state.withLock { state in
            guard let i = state.mappings.firstIndex(where: { $0.id == mapping }), state.mappings[i].poisoned.count < Self.poisonedLimit,
                !state.mappings[i].poisoned.contains(number)
            else { return false }
            state.mappings[i].poisoned.append(number)
            return state.mappings[i].poisoned.count == 1
        }
    }

    /// A guest leaves a claim.
    func leave(_ claim: UInt64) {
        state.withLock { state in
            if let i = state.claims.firstIndex(where: { $0.id == claim }) { state.claims[i].guests -= 1 }
        }
        state.notifyAll()
    }

    /// New content comes to pages that were poisoned: zeros take the mark's place. Of huge pages only where one is free; elsewhere the mark stays.
    func heal(_ pages: Range<Int>, _ huge: HugeMemory? = nil) {
        let marked = state.withLock { state -> [(SharedDescriptor, Range<UInt>)] in
            var marked: [(SharedDescriptor, Range<UInt>)] = []
            for i in state.mappings.indices where !state.mappings[i].poisoned.isEmpty {
                let mapping = state.mappings[i]
                for page in mapping.poisoned where pages.contains(page) {
                    mapping.segments.forEachSpan(of: page..<page + 1) { (addresses, _) in marked.append((mapping.userfaults, addresses)) }
                }
                state.mappings[i].poisoned.removeAll { pages.contains($0) }
            }
            return marked
        }
        for (userfaults, addresses) in marked {
            guard let huge else {
                _ = Userfaults.zero(userfaults.number, addresses)
                continue
            }
            let zeros = UnsafeRawBufferPointer(huge.buffers.zeros.bytes)
            let placed = Userfaults.copy(userfaults.number, to: addresses.lowerBound, from: zeros, .writable, .wakes)
            // There already, for another mapping's sake.
            if placed.error == .fileExists { _ = Userfaults.show(userfaults.number, addresses) }
        }
    }
}
