import Logging
import ShrinkLinux
import Synchronization
import SystemPackage

/// Serves the faults of registered mappings: one thread reads and resolves them, others bring pages ahead of a thread that goes through its memory in order,
/// and drop copies in the backup when nobody waits.
///
/// Neither ever waits for a reservation, for a worker's claim, or for the lock of a pool's file: what a worker holds may depend on the very client that waits here.
final class FaultServer: Sendable {
    /// A page that a thread of a client waits for.
    struct Fault {
        let pool: Pool
        let mapping: MappingID
        let address: UInt
        let isWrite: Bool
    }

    private struct Served {
        let pool: Pool
        let userfaults: SharedDescriptor
    }

    private struct Work {
        var served: [UInt64: Served] = [:]
        var nextID: UInt32 = 1
        var isEnding = false
    }

    /// After a fault the next one is looked for without sleeping: waking a thread costs more than most of what it does then.
    private static let spinNanoseconds: UInt64 = 60_000
    /// Faults that wait for a backup that is away, or for memory, are tried again after this.
    private static let retryMilliseconds: UInt64 = 50
    static let delayedLimit = 4096
    /// While one brings a window, others bring the next ones.
    private static let aheadThreads = 3

    let counters = TouchCounters()
    let ahead = TouchAhead()
    private let epoll: Epoll
    private let wakeup: Wakeup
    private let work = Monitor(Work())
    private let threads = Monitor<[DedicatedThread]>([])
    private let faults: FaultHook?
    private let watcher = Monitor<(@Sendable (MappingChange) -> Void)?>(nil)

    init(faults: FaultHook?) throws(EngineError) {
        self.faults = faults
        do throws(Errno) {
            epoll = try Epoll()
            wakeup = try Wakeup()
            try epoll.add(wakeup.number, .input, token: .max)
        } catch {
            throw EngineError(.limitReached, "no descriptor left to serve faults; raise LimitNOFILE", errno: error)
        }
    }

    // MARK: Who is served

    func watch(_ body: @escaping @Sendable (MappingChange) -> Void) { watcher.withLock { $0 = body } }

    func tell(_ change: MappingChange) { watcher.withLock { $0 }?(change) }

    /// Ids up to this one were given by an earlier engine.
    func skipIDs(through id: MappingID) { work.withLock { $0.nextID = max($0.nextID, id.rawValue + 1) } }

    /// The mapping that has this open userfaultfd.
    func id(of userfaults: CInt) -> MappingID? {
        work.withLock { work in
            work.served.first { Files.areSameOpenFile($0.value.userfaults.number, userfaults) }.map { MappingID(rawValue: UInt32($0.key)) }
        }
    }

    func newID() -> MappingID {
        work.withLock { work in
            defer { work.nextID += 1 }
            return MappingID(rawValue: work.nextID)
        }
    }

    /// From now on the mapping's faults are served.
    func add(_ id: MappingID, _ userfaults: SharedDescriptor, of pool: Pool) throws(EngineError) {
        work.withLock { $0.served[UInt64(id.rawValue)] = Served(pool: pool, userfaults: userfaults) }
        pool.touch.state.withLock { state in
            if state.onGone == nil { state.onGone = { [weak self] id in _ = self?.remove(id) } }
        }
        do throws(Errno) { try epoll.add(userfaults.number, .input, token: UInt64(id.rawValue)) } catch {
            work.withLock { $0.served[UInt64(id.rawValue)] = nil }
            throw EngineError(.system, "the userfaultfd can't be waited for", errno: error)
        }
    }

    func remove(_ id: MappingID) -> Pool? {
        guard let served = work.withLock({ $0.served.removeValue(forKey: UInt64(id.rawValue)) }) else { return nil }
        // Closing would not do: the client has a duplicate, and the poll set goes by the open file.
        try? epoll.remove(served.userfaults.number)
        tell(.ended(id))
        return served.pool
    }

    func pool(of id: MappingID) -> Pool? { work.withLock { $0.served[UInt64(id.rawValue)]?.pool } }

    func ids(of pool: PoolID) -> [MappingID] {
        work.withLock { $0.served.filter { $0.value.pool.id == pool }.map { MappingID(rawValue: UInt32($0.key)) } }
    }

    // MARK: Threads

    /// Starts the threads if they don't run yet.
    func start(_ engine: Engine) throws(EngineError) {
        try threads.withLock { threads throws(EngineError) in
            guard threads.isEmpty else { return }
            var others = try Staging.make(1 + Self.aheadThreads)
            let own = others.removeLast()
            do throws(Errno) {
                threads.append(try DedicatedThread("shrink-fault") { [self, weak engine] in serve(own) { engine } })
                for staging in others {
                    threads.append(try DedicatedThread("shrink-touch") { [self, weak engine] in ahead.serve(self, staging) { engine } })
                }
            } catch {
                throw EngineError(.system, "the threads that serve faults can't be started", errno: error)
            }
        }
    }

    func end() {
        work.withLock { $0.isEnding = true }
        wakeup.signal()
        ahead.end()
        let threads = threads.withLock { threads in
            defer { threads = [] }
            return threads
        }
        for thread in threads { thread.joinOrLetGo() }
    }

    func at(_ point: FaultPoint, _ id: ObjectID, _ page: Int) throws(EngineError) {
        if let error = faults?(point, id, PageIndex(rawValue: page)) { throw error }
    }

    private func serve(_ staging: Staging, _ engine: () -> Engine?) {
        var waiting: [Fault] = []
        var delayed: [Fault] = []
        waiting.reserveCapacity(64)
        var retryAt = MonotonicTime(nanoseconds: 0)
        var spinUntil = MonotonicTime(nanoseconds: 0)
        while true {
            let timeout: CInt
            if MonotonicTime.now() < spinUntil { timeout = 0 } else { timeout = delayed.isEmpty ? -1 : CInt(Self.retryMilliseconds) }
            let events: [Epoll.Event]
            do throws(Errno) { events = try epoll.wait(timeoutMilliseconds: timeout) } catch { fatalError("epoll: \(error)") }
            if events.isEmpty, delayed.isEmpty || MonotonicTime.now() < retryAt { continue }
            if work.withLock({ $0.isEnding }) { return }
            // Held no longer than for this round: an engine that nobody else has ends.
            guard let engine = engine() else { return }
            for event in events {
                if event.token == .max {
                    wakeup.clear()
                    continue
                }
                guard let pool = work.withLock({ $0.served[event.token]?.pool }) else { continue }
                read(MappingID(rawValue: UInt32(event.token)), pool, engine, &waiting)
            }
            var looksForMore = false
            for fault in waiting {
                counters.faults.add(1, ordering: .relaxed)
                switch engine.resolve(fault, self, staging) {
                case .done: looksForMore = true
                // The next one is a while off; the processor is better used to bring what it will want.
                case .doneInOrder: break
                case .later: delay(fault, &delayed)
                }
            }
            if looksForMore { spinUntil = MonotonicTime(nanoseconds: MonotonicTime.now().nanoseconds + Self.spinNanoseconds) }
            waiting.removeAll(keepingCapacity: true)
            if !delayed.isEmpty, MonotonicTime.now() >= retryAt {
                retryAt = MonotonicTime.now().advanced(milliseconds: Self.retryMilliseconds)
                delayed.removeAll {
                    if case .later = engine.resolve($0, self, staging) { false } else { true }
                }
                counters.delayedFaults.store(delayed.count, ordering: .relaxed)
            }
        }
    }

    private func delay(_ fault: Fault, _ delayed: inout [Fault]) {
        // Several threads may wait for one page; it is tried once for all.
        if delayed.contains(where: { $0.mapping == fault.mapping && $0.address == fault.address && $0.isWrite == fault.isWrite }) { return }
        if delayed.count < Self.delayedLimit {
            delayed.append(fault)
            counters.delayedFaults.store(delayed.count, ordering: .relaxed)
        } else {
            // It comes again by itself.
            fault.pool.touch.wakeOne(fault.mapping, fault.address)
        }
    }

    /// Takes what a process told. The lock is held over the reading: whoever protects pages of all mappings either sees a child that was forked, or is refused
    /// (EAGAIN) because the fork was not read yet.
    private func read(_ id: MappingID, _ pool: Pool, _ engine: Engine, _ waiting: inout [Fault]) {
        var forks: [(MappingID, SharedDescriptor)] = []
        var hasMoved = false
        let isGone = pool.touch.state.withLock { state -> Bool in
            guard let index = state.mappings.firstIndex(where: { $0.id == id }) else { return true }
            let mapping = state.mappings[index]
            var changed = false
            do throws(Errno) {
                for _ in 0..<4 {
                    let count = try Userfaults.read(mapping.userfaults.number) { message in
                        switch message {
                        case .missing(let address):
                            waiting.append(Fault(pool: pool, mapping: id, address: address & ~UInt(pool.unitBytes - 1), isWrite: false))
                        case .protected(let address):
                            waiting.append(Fault(pool: pool, mapping: id, address: address & ~UInt(pool.unitBytes - 1), isWrite: true))
                        case .fork(let child):
                            changed = true
                            let userfaults = SharedDescriptor(OwnedDescriptor(owning: child))
                            let childID = newID()
                            state.mappings.append(
                                PoolTouch.Mapping(
                                    id: childID, userfaults: userfaults, segments: state.mappings[index].segments,
                                    registration: mapping.registration))
                            forks.append((childID, userfaults))
                        case .remap(let from, let to, let count):
                            (changed, hasMoved) = (true, true)
                            state.mappings[index].segments.remap(from: from, to: to, count: count)
                        case .unmap(let range):
                            (changed, hasMoved) = (true, true)
                            state.mappings[index].segments.unmap(range)
                        case .remove(let range):
                            // The pages' protection goes with them: what is being copied out there stays.
                            changed = true
                            state.mappings[index].segments.forEachPages(in: range) { pages in
                                for i in state.claims.indices where state.claims[i].work == .copyingOut {
                                    for page in state.claims[i].pages.clamped(to: pages) {
                                        state.claims[i].hot.insert(page - state.claims[i].pages.lowerBound)
                                    }
                                }
                            }
                        case .other: break
                        }
                    }
                    if count < 16 { break }
                }
            } catch {
                // Read errors of a userfaultfd: EAGAIN apart, only a descriptor that was never begun (EINVAL). Registering saw to that.
                return true
            }
            if changed { state.generation += 1 }
            return false
        }
        if !forks.isEmpty || isGone { pool.touch.state.notifyAll() }
        if hasMoved, let moved = pool.touch.persistent(id, of: self) { tell(.changed(moved)) }
        for (childID, userfaults) in forks { engine.adoptChild(childID, userfaults, of: pool, self) }
        if isGone { _ = remove(id) }
    }
}

extension MappedSegments {
    /// Pool pages that show at addresses of a range.
    func forEachPages(in range: Range<UInt>, _ body: (Range<Int>) -> Void) {
        for segment in segments {
            let start = max(segment.address, range.lowerBound)
            let end = min(segment.end, range.upperBound)
            guard start < end else { continue }
            let first = segment.firstPage + Int(start - segment.address) / segment.unitBytes
            body(first..<first + Int(end - start) / segment.unitBytes)
        }
    }
}
