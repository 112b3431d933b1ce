import ShrinkLinux
import SystemPackage

/// What a pool's memory consists of.
public enum PoolPages: Sendable, Equatable {
    /// Pages of 4096 bytes.
    case base
    /// Huge pages of 2 MiB: words, handles, offsets and lengths are in these units.
    case huge

    public var bytes: Int { self == .base ? basePageSize : HugeMemory.unitBytes }
}

/// Which pools a reclaim looks at: who wants memory of the machine has no use for huge pages, and the other way round.
enum PageKind: Sendable {
    case base
    case huge
    case any

    @inline(__always)
    func covers(isHuge: Bool) -> Bool {
        switch self {
        case .base: !isHuge
        case .huge: isHuge
        case .any: true
        }
    }
}

extension Engine {
    /// Whether this machine has huge pages for pools.
    public static func hugePageSupport() -> Feature {
        let wayOut = "set some aside (sysctl vm.nr_hugepages=N, 2 MiB each)"
        do throws(Errno) {
            guard try HugePages().isAny else {
                return Feature("huge_pages", isAvailable: false, reason: "no huge pages of 2 MiB are set aside; \(wayOut)")
            }
        } catch {
            return Feature("huge_pages", isAvailable: false, reason: "the kernel has no huge pages of 2 MiB (\(error))")
        }
        do throws(Errno) {
            let probe = try Userfaults.open(.userMode)
            try Userfaults.begin(probe.number, [.missingInHugePages, .minorInHugePages])
        } catch {
            return Feature(
                "huge_pages", isAvailable: false, reason: "userfaultfd does not know huge pages here (\(error)); Linux 5.13 does")
        }
        return Feature("huge_pages", isAvailable: true)
    }

    /// What units pass through, made once; an error if there can't be a pool of huge pages.
    func hugeBuffers(_ backup: any Backup) throws(EngineError) -> HugeBuffers {
        guard !(backup is KernelSwap) else {
            throw EngineError(.unsuitableDirectory, "the kernel's swap takes no huge pages; give the pool another backup")
        }
        let support = Self.hugePageSupport()
        guard support.isAvailable else {
            throw EngineError(.outOfMemory, "a pool of huge pages can't be made: \(support.reason ?? "there are none")")
        }
        return try hugeBuffers.withLock { (buffers) throws(EngineError) in
            if let made = buffers { return made }
            let made = try HugeBuffers()
            buffers = made
            return made
        }
    }

    /// All units of a new object, zeros. What was taken when it fails is the caller's to give back.
    func populateNew(_ pool: Pool, _ units: Range<Int>) throws(EngineError) {
        guard let huge = pool.file.huge else { return }
        try staging.withStaging { (staging) throws(EngineError) in
            for unit in units {
                try room.takeHugePages(1, engine: self, staging)
                do throws(Errno) { try huge.placeZeros(unit) } catch {
                    if error != .fileExists { throw .noHugePage("an object of \(units.count * pool.unitBytes) bytes can't be made", error) }
                }
            }
        }
    }

    /// Whether all of an object's units are in its pool; always so where pages are not huge, for there a hole is as good.
    func isPopulated(_ slot: UInt32) -> Bool {
        let reserved = reservedObject(slot)
        guard let huge = reserved.poolFile.huge else { return true }
        return (0..<reserved.pageCount).allSatisfy { (try? huge.isPresent(reserved.firstPage + $0)) == true }
    }

    /// Fills the holes of an object of huge pages with zeros, so that nobody who pins it touches one for which there is no page. The caller holds the
    /// reservation, and nothing of the object is in the backup.
    func populate(_ slot: UInt32, _ staging: Staging) throws(EngineError) {
        let reserved = reservedObject(slot)
        guard let huge = reserved.poolFile.huge else { return }
        for unit in 0..<reserved.pageCount {
            do throws(Errno) {
                if try huge.isPresent(reserved.firstPage + unit) { continue }
            } catch { throw .poolFile("looking for the pages of \(reserved.id) failed", error) }
            try room.takeHugePages(1, engine: self, staging)
            let claim = reserved.touch.claim(reserved.poolPages(unit..<unit + 1), .serving)
            defer { reserved.touch.end(claim) }
            do throws(Errno) { try huge.placeZeros(reserved.firstPage + unit) } catch {
                if error != .fileExists { throw .noHugePage("pinning \(reserved.id)", error) }
            }
            guard reserved.table.isZero(unit) else { continue }
            reserved.table.set(unit, .resident)
            state.withLock { state in
                state.change(slot) { $0.zeroPages -= 1 }
                state.pool(of: slot).zeroPages -= 1
            }
        }
        state.withLock { state in state.change(slot) { $0.isExhausted = false } }
    }

    /// The measured half of what became of huge pages: the machine's own count of free ones. A device that let go of them gives them a little later, so the
    /// most that is seen in a short while.
    func noteReturnedHugePages(since before: Int?, _ result: inout ShrinkResult) {
        guard let before, result.hugePageBytes > .zero else { return }
        let wanted = result.hugePageBytes.rawValue / HugeMemory.unitBytes
        let deadline = MonotonicTime.now().advanced(milliseconds: 500)
        let never = Monitor<UInt8>(0)
        var most: Int?
        while let free = try? HugePages().free {
            most = max(most ?? .min, free - before)
            if free - before >= wanted || MonotonicTime.now() >= deadline { break }
            _ = never.wait(deadline: MonotonicTime.now().advanced(milliseconds: 10)) { _ in Void?.none }
        }
        result.returnedHugePageBytes = most.map { ByteCount(max(0, $0) * HugeMemory.unitBytes) }
    }
}

extension Room {
    private static var attemptsForHugePages: Int { 4 }

    /// Room for units of a pool of huge pages, judged by the machine's free huge pages. With a staging buffer, others of such pools are shrunk for it. It
    /// is a look ahead: what places a unit is told by the kernel, and says the same error, if somebody else was quicker.
    func takeHugePages(_ count: Int, engine: Engine, _ staging: Staging?) throws(EngineError) {
        try engine.at(.room)
        for _ in 0..<Self.attemptsForHugePages {
            let available: Int
            do throws(Errno) { available = try HugePages().available } catch {
                throw EngineError(.system, "how many huge pages are free can't be read", errno: error)
            }
            if available >= count { return }
            guard let staging,
                engine.reclaimDirect(of: .huge, goalPages: (count - available) * HugeMemory.basePages, staging).freedBytes > .zero
            else { break }
        }
        throw .noHugePage("taking a huge page, when no other object gave way")
    }
}
