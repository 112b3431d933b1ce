import ShrinkLinux
import SystemPackage

/// One pool's side of recover on touch: the mappings that are registered, and the claims on its pages.
///
/// Its lock is held for a few instructions, or for a read of events that does not wait; never across I/O, and never across a call that takes the lock of the
/// pool's file. It is taken after the engine's lock, if both are.
final class PoolTouch: Sendable {
    /// Limits, each with an error of its own.
    static let mappingsPerPool = 1024
    private static let spareLists = 8

    /// A registered mapping: a process's userfaultfd and what it shows of the pool.
    struct Mapping {
        let id: MappingID
        let userfaults: SharedDescriptor
        var segments: MappedSegments
        var around = FaultAround()
        /// Pages that were poisoned in it, to be healed when their content is replaced.
        var poisoned: [Int] = []
        /// An earlier engine poisoned pages of it, and which ones was not kept.
        var hasUnknownPoison = false
        /// Who holds it; a child that was forked belongs to its parent's holder.
        let registration: MappingID
    }

    struct State {
        var mappings: [Mapping] = []
        /// Grows with every change of the mappings and every event that was worked on.
        var generation: UInt64 = 0
        var claims: [PageClaim] = []
        var nextClaim: UInt64 = 1
        /// Workers that wait for a claim to end or for a change.
        var waiters = 0
        /// Memory for lists of spans, lent to who goes through one.
        fileprivate var spareLists: [SpanList] = []
        /// Who hears of mappings whose process is gone.
        var onGone: (@Sendable (MappingID) -> Void)?

        // Loops over indices, here and below: the standard library's searches and iterators ask for memory where they are not specialised.

        func claim(at page: Int) -> Int? {
            for i in claims.indices where claims[i].pages.contains(page) { return i }
            return nil
        }

        func claim(_ id: UInt64) -> Int? {
            for i in claims.indices where claims[i].id == id { return i }
            return nil
        }

        func isFree(_ pages: Range<Int>) -> Bool {
            for i in claims.indices where claims[i].pages.overlaps(pages) { return false }
            return true
        }

        mutating func add(_ pages: Range<Int>, _ work: PageClaim.Work) -> UInt64 {
            defer { nextClaim += 1 }
            claims.append(PageClaim(id: nextClaim, pages: pages, work: work))
            return nextClaim
        }

        /// The first page after `page` that somebody has, or `limit`.
        func firstClaimed(after page: Int, below limit: Int) -> Int {
            claims.reduce(limit) { $1.pages.lowerBound > page ? min($0, $1.pages.lowerBound) : $0 }
        }
    }

    let state: Monitor<State>
    /// Bytes of a page of the pool.
    let unitBytes: Int
    /// Held by threads that place pages nobody waits for: side by side they would spin on the lock of the file's page index. Who serves a fault takes no part.
    let placing = Monitor<UInt8>(0)

    init(unitBytes: Int = basePageSize) {
        self.unitBytes = unitBytes
        var state = State()
        state.claims.reserveCapacity(64)
        state.spareLists.reserveCapacity(Self.spareLists)
        self.state = Monitor(state)
    }

    var isInUse: Bool { state.withLock { !$0.mappings.isEmpty } }

    // MARK: Claims

    /// Waits until nobody has any of the pages. Not for threads that serve faults.
    func claim(_ pages: Range<Int>, _ work: PageClaim.Work) -> UInt64 {
        state.wait { $0.isFree(pages) ? $0.add(pages, work) : nil }
    }

    /// Nil if somebody has one of the pages.
    func tryClaim(_ pages: Range<Int>, _ work: PageClaim.Work) -> UInt64? {
        state.withLock { $0.isFree(pages) ? $0.add(pages, work) : nil }
    }

    /// What a claim's end does to the mappings.
    enum Ending {
        /// Pages may be written again; who waits goes on.
        case writable
        /// Who waits faults again; what was protected stays so.
        case protected
        /// Who waits for the first page is remembered by the caller.
        case quiet
    }

    /// Ends a claim and lets everybody who met it fault again. Waits for guests, who wait for nobody.
    ///
    /// Protection goes while the claim still stands: the next one's protection would go with it. So a fault may meet the claim after its waking, and is woken
    /// once more.
    func end(_ id: UInt64, _ ending: Ending = .writable) {
        let claimed = state.withLock { state -> Range<Int>? in
            guard let i = state.claim(id) else { return nil }
            state.claims[i].wasMet = false
            return state.claims[i].pages
        }
        guard let pages = claimed else { return }
        if ending == .writable { unprotect(pages) }
        let wasMet = state.wait { state -> Bool? in
            guard let i = state.claim(id) else { return false }
            return state.claims[i].guests == 0 ? state.claims.remove(at: i).wasMet : nil
        }
        state.notifyAll()
        switch ending {
        case .writable: if wasMet { wake(pages) }
        case .protected: wake(pages)
        // Its neighbours' waiters were told to come again.
        case .quiet: wake(pages.dropFirst())
        }
    }

    /// The words of a run are about to be set: from here no page of it becomes hot any more. Returns those that did.
    func freeze(_ id: UInt64) -> RunMask {
        state.withLock { state in
            guard let i = state.claim(id) else { return RunMask() }
            state.claims[i].work = .freeing
            return state.claims[i].hot
        }
    }

    // MARK: Mappings

    /// One stretch of addresses in one process.
    struct Span {
        let userfaults: SharedDescriptor
        let mapping: MappingID
        let addresses: Range<UInt>
    }

    /// A list that is filled again and again. A class: copies of an array would each ask for memory.
    fileprivate final class SpanList: @unchecked Sendable {
        // Sendable: whoever has taken it has it alone.
        var spans: [Span] = []
    }

    /// Calls `body` with each stretch that shows some of the pages, of mappings but `except`, and the generation that they are of; returns their number and
    /// the generation. Asks for memory only where there are more stretches than ever before.
    @discardableResult
    private func forEachSpan(
        of pages: Range<Int>, except: MappingID? = nil, _ body: (Span, UInt64) -> Void
    ) -> (count: Int, generation: UInt64) {
        let (list, generation) = state.withLock { state -> (SpanList?, UInt64) in
            if state.mappings.isEmpty { return (nil, state.generation) }
            let list = state.spareLists.popLast() ?? SpanList()
            for i in state.mappings.indices where state.mappings[i].id != except {
                for k in state.mappings[i].segments.segments.indices {
                    guard let addresses = state.mappings[i].segments.segments[k].addresses(of: pages) else { continue }
                    list.spans.append(
                        Span(userfaults: state.mappings[i].userfaults, mapping: state.mappings[i].id, addresses: addresses))
                }
            }
            return (list, state.generation)
        }
        guard let list else { return (0, generation) }
        for i in list.spans.indices { body(list.spans[i], generation) }
        let count = list.spans.count
        list.spans.removeAll(keepingCapacity: true)
        state.withLock { state in
            if state.spareLists.count < Self.spareLists { state.spareLists.append(list) }
        }
        return (count, generation)
    }

    /// Who protects pages, and how long for.
    enum Patience: Int {
        /// The thread that reads the events others wait for.
        case none = 4
        case worker = 1000
    }

    /// Write-protects pages of a claim in every mapping. False if a process changes its mappings all the time: then the pages are left alone.
    ///
    /// A mapping that comes while this runs, by registering or by a fork, is protected too: the list is looked at again until it stays the same.
    func protect(_ pages: Range<Int>, except: MappingID? = nil, _ patience: Patience = .worker) -> Bool {
        for _ in 0..<patience.rawValue {
            var isComplete = true
            let (count, generation) = forEachSpan(of: pages, except: except) { span, generation in
                do throws(Errno) { try Userfaults.protect(span.userfaults.number, span.addresses) } catch {
                    isComplete = false
                    giveUp(span, error, generation)
                }
            }
            if count == 0 { return true }
            if isComplete, state.withLock({ $0.generation == generation }) { return true }
            // The events that are pending get worked on by the thread that reads them; a moment is enough, and the deadline only bounds it.
            if !isComplete, patience == .worker {
                _ = state.wait(deadline: MonotonicTime.now().advanced(milliseconds: 1)) { $0.generation != generation ? true : nil }
            }
        }
        return false
    }

    /// A mapping whose process is gone, or whose registration somebody took back, is none any more.
    private func giveUp(_ span: Span, _ error: Errno, _ generation: UInt64) {
        switch error {
        case .noSuchProcess:
            remove(span.mapping)
            state.withLock { $0.onGone }?(span.mapping)
        // Unmapped, and the event is on its way; without an event the range was taken back.
        case .noSuchFileOrDirectory, .invalidArgument, .badAddress:
            if (try? waitReadable(span.userfaults.number, timeoutMilliseconds: 0)) != true {
                state.withLock { state in
                    // If the event was read meanwhile, something else may show at these addresses now.
                    guard state.generation == generation, let i = state.mappings.firstIndex(where: { $0.id == span.mapping }) else {
                        return
                    }
                    state.mappings[i].segments.unmap(span.addresses)
                    state.generation += 1
                }
            }
        default: break
        }
    }

    func unprotect(_ pages: Range<Int>) {
        forEachSpan(of: pages) { span, _ in
            do throws(Errno) { try Userfaults.unprotect(span.userfaults.number, span.addresses) } catch {
                // Whoever waits meets the protection again and is let through one by one.
                try? Userfaults.wake(span.userfaults.number, span.addresses)
            }
        }
    }

    func wake(_ pages: Range<Int>) {
        forEachSpan(of: pages) { span, _ in try? Userfaults.wake(span.userfaults.number, span.addresses) }
    }

    func remove(_ id: MappingID) {
        state.withLock { state in
            state.mappings.removeAll { $0.id == id }
            state.generation += 1
        }
        state.notifyAll()
    }
}

/// A registered mapping; not used again while the engine lives.
public struct MappingID: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
    public let rawValue: UInt32
    public init(rawValue: UInt32) { self.rawValue = rawValue }
    public var description: String { "mapping \(rawValue)" }
}
