import ShrinkLinux
import SystemPackage

/// The kernel's own swap as a pool's backend: pages go nowhere of ours, the one process that maps them is asked to page them out
/// (`process_madvise(MADV_PAGEOUT)`), and what really went is seen with mincore(2). The seed's direct swap-cache insertion is its counterpart.
///
/// Caveats: pages stay in the pool's file, so words stay resident, `allocatedBytes` does not fall, and a touch brings a page back without the engine. The
/// kernel skips pages that several processes map, so a second mapper is refused. Without swap nothing ever goes.
public final class KernelSwap: Backup {
    private struct Mapper {
        var process: SharedDescriptor
        var address: UInt
        var length: Int
    }

    private struct State {
        var mapper: Mapper?
        var next: UInt32 = 1
    }

    private let state = Monitor(State())

    public init() {}

    /// Says which process maps the pool from its beginning, and where. Busy while another one does.
    public func setMapper(processID: Int32, address: UInt, length: ByteCount) throws(EngineError) {
        let process: SharedDescriptor
        do throws(Errno) { process = SharedDescriptor(try PageOut.openProcess(processID)) } catch {
            throw EngineError(.system, "process \(processID) can't be opened; it may be gone", errno: error)
        }
        try state.withLock { state throws(EngineError) in
            guard state.mapper == nil else {
                throw EngineError(
                    .busy, "the pool has a mapper already, and the kernel pages out nothing that several map; use a directory instead")
            }
            state.mapper = Mapper(process: process, address: address, length: length.rawValue)
        }
    }

    /// The process unmapped the pool or ended.
    public func removeMapper() { state.withLock { $0.mapper = nil } }

    /// Pages out a range of the pool's memory; returns how many pages were in memory before and are after.
    func pageOut(pool: CInt, offset: Int, length: Int) throws(EngineError) -> (before: Int, after: Int) {
        guard let mapper = state.withLock({ $0.mapper }) else {
            throw EngineError(.busy, "no process has said that it maps the pool; nothing can be paged out")
        }
        guard offset + length <= mapper.length else { throw EngineError(.busy, "the mapper does not map that part of the pool") }
        do throws(Errno) {
            // Our own mapping is never touched, so it maps no page and makes none shared.
            let view = try MappedMemory(sharing: pool, count: length, offset: offset, writable: false)
            let before = try PageOut.residentPages(view.base, count: length)
            if before > 0 {
                // Advice without room for it would unmap the pages and keep them: the next advice would find nothing to do until they are touched.
                guard availableBytes >= UInt64(before * basePageSize) else { throw Errno.noSpace }
                _ = try PageOut.advise(mapper.process.number, address: mapper.address + UInt(offset), length: length)
            }
            return (before, try PageOut.residentPages(view.base, count: length))
        } catch {
            if error == .noSpace { throw EngineError(.backupFull, "there is no free swap for the pool's pages; add some", errno: error) }
            throw EngineError(
                .backupFailed, "paging out the mapper's pages failed; it needs CAP_SYS_NICE and a process that is still there", errno: error
            )
        }
    }

    // MARK: Backup: there is nothing to keep

    public func create(_ id: ObjectID, sizeBytes: Int, hints: BackupHints) throws(EngineError) {}
    public func open(_ id: ObjectID) throws(EngineError) -> BackupFile {
        throw EngineError(.backupFailed, "the kernel's swap has no files", errno: .noSuchFileOrDirectory)
    }
    public func remove(_ id: ObjectID) throws(EngineError) {}

    public func nextID() throws(EngineError) -> ObjectID {
        try state.withLock { state throws(EngineError) in
            guard state.next < UInt32.max else { throw EngineError(.limitReached, "all object ids are used up; start anew") }
            defer { state.next += 1 }
            return ObjectID(rawValue: state.next)
        }
    }

    public func nextID(above floor: ObjectID) throws(EngineError) -> ObjectID {
        state.withLock { $0.next = max($0.next, floor.rawValue &+ 1) }
        return try nextID()
    }

    public func status() -> BackupStatus { BackupStatus(path: "kernel swap", storedBytes: nil, availableBytes: availableBytes) }

    /// Free swap.
    public var availableBytes: UInt64 { (try? MemoryInfo())?.swapFree ?? 0 }
    public var isMemory: Bool { false }
    public func objects() throws(EngineError) -> [ObjectID] { [] }
}

extension ReservedObject {
    /// As `shrink`, through the kernel: counted is what mincore sees go.
    func pageOut(_ swap: KernelSwap, goalPages: Int, progress: (ShrinkOutcome) -> Bool) -> ShrinkOutcome {
        var outcome = ShrinkOutcome()
        do throws(EngineError) {
            var page = 0
            var left = 0
            while page < pageCount, outcome.freedPages < goalPages {
                let run = page..<min(page + min(EngineLimits.runPages, goalPages - outcome.freedPages), pageCount)
                try at(.beforeCopyOut, run.lowerBound)
                let (before, after) = try swap.pageOut(
                    pool: poolFile.number, offset: poolOffset(run.lowerBound), length: run.count * basePageSize)
                outcome.scannedPages += before
                outcome.freedPages += max(0, before - after)
                left += after
                page = run.upperBound
                if !progress(outcome) { throw EngineError(.interrupted, "shrinking \(id) was stopped; it goes on when asked again") }
            }
            outcome.isExhausted = page == pageCount && left == 0
        } catch {
            outcome.failure = error
        }
        return outcome
    }
}
