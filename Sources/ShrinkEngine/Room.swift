import ShrinkLinux
import Synchronization
import SystemPackage

/// Room in memory for pages that come back, obtained before they come: below the configured limit, above the floor of the machine, within the memory
/// cgroup of this process. Where there is none, others are shrunk as a direct caller; if that does not help, a typed error and nothing changed.
///
/// Nothing is killed for a recover: pwrite(2) into a full cgroup starts the OOM killer instead of failing, so it is never begun.
final class Room: Sendable {
    private struct Grants {
        /// Bytes that the last look at the machine allows without another.
        var credit = 0
        /// What the last look found.
        var isPlenty = false
        /// Bytes on their way in, not yet in the pools' files.
        var inFlight = 0
    }

    // Looking at /proc/meminfo takes as long as bringing in a quarter of a MiB.
    private static let plentyBytes = 256 << 20
    private static let creditBytes = 64 << 20
    private static let attempts = 8
    private static let judgedBytes = 4 << 20

    private let floorBytes: Int
    private let maximumResident: Int?
    private let cgroupReserve: Int
    private let cgroup: MemoryCgroup?
    private let grants = Monitor(Grants())
    private let isLimitLifted = Atomic<Bool>(false)

    /// The engine is ending: what clients have out must come home, and nobody else needs the room. The floor and the cgroup still count.
    func liftLimit() { isLimitLifted.store(true, ordering: .relaxed) }

    init(_ configuration: Engine.Configuration) throws(EngineError) {
        if let floor = configuration.memoryFloor {
            floorBytes = max(0, floor.rawValue)
        } else {
            let total: UInt64
            do throws(Errno) { total = try MemoryInfo().total } catch {
                throw EngineError(.system, "/proc/meminfo can't be read", errno: error)
            }
            floorBytes = max(64 << 20, Int(total / 64))
        }
        maximumResident = configuration.maximumResident?.rawValue
        cgroupReserve = configuration.cgroupReserve.rawValue
        cgroup = configuration.cgroup ?? MemoryCgroup.ofThisProcess()
    }

    /// Room for a run that is about to come in; given back when it is in. With a staging buffer, others are shrunk for it.
    func take(_ bytes: Int, engine: Engine, _ staging: Staging?) throws(EngineError) {
        try engine.at(.room)
        grants.withLock { $0.inFlight += bytes }
        do throws(EngineError) {
            try obtain(bytes, engine, staging, checksMachine: true)
        } catch {
            giveBack(bytes)
            throw error
        }
    }

    /// Memory is far from short.
    var isPlenty: Bool { maximumResident == nil && grants.withLock { $0.isPlenty } }

    func giveBack(_ bytes: Int) {
        if bytes > 0 { grants.withLock { $0.inFlight -= bytes } }
    }

    /// Room for an object that its client may fill as soon as it has it. Only the configured limit counts: the client's pages come one by one.
    func admit(_ bytes: Int, engine: Engine, _ staging: Staging) throws(EngineError) {
        guard maximumResident != nil else { return }
        grants.withLock { $0.inFlight += bytes }
        defer { giveBack(bytes) }
        try obtain(bytes, engine, staging, checksMachine: false)
    }

    private enum Shortage {
        case none
        case limit(Int)
        case machine(Int)
        case cgroup(Int)

        var bytes: Int {
            switch self {
            case .none: 0
            case .limit(let bytes), .machine(let bytes), .cgroup(let bytes): bytes
            }
        }

        /// What others are asked for. Our own limit is exact; the kernel counts memory in batches for each CPU (64 pages of a cgroup's charge), so
        /// that less than a run may go out and not be seen.
        var goalBytes: Int {
            switch self {
            case .none, .limit: bytes
            case .machine, .cgroup: max(bytes, EngineLimits.runPages * basePageSize)
            }
        }
    }

    private func obtain(_ bytes: Int, _ engine: Engine, _ staging: Staging?, checksMachine: Bool) throws(EngineError) {
        var lack = try shortage(bytes, engine, checksMachine)
        let lackAtFirst = lack.bytes
        var freedSoFar = 0
        for _ in 0..<Self.attempts where lack.bytes > 0 {
            guard let staging else { break }
            let freed = engine.reclaimDirect(goalPages: (lack.goalBytes + basePageSize - 1) / basePageSize, staging).freedBytes.rawValue
            lack = try shortage(bytes, engine, checksMachine)
            if freed == 0 { break }
            freedSoFar += freed
            // Pages that only moved to a store in the same memory give no room; going on would push everything out in vain.
            // Judged over some megabytes: what others took meanwhile must not look like it.
            if freedSoFar >= Self.judgedBytes, lackAtFirst - lack.bytes < freedSoFar / 8 { break }
        }
        if lack.bytes > 0 { throw error(lack, bytes) }
    }

    private func shortage(_ bytes: Int, _ engine: Engine, _ checksMachine: Bool) throws(EngineError) -> Shortage {
        if let maximumResident, !isLimitLifted.load(ordering: .relaxed) {
            let inFlight = grants.withLock { $0.inFlight }
            let over = engine.residentBytes() + inFlight - maximumResident
            if over > 0 { return .limit(over) }
        }
        guard checksMachine else { return .none }
        let hasCredit = grants.withLock { grants in
            guard grants.credit >= bytes else { return false }
            grants.credit -= bytes
            return true
        }
        if hasCredit { return .none }
        do throws(Errno) {
            let available = Int(clamping: try MemoryInfo().available) - floorBytes
            if available < bytes { return .machine(bytes - available) }
            var headroom = available
            if let cgroup {
                let inGroup = try cgroup.availableBytes() - cgroupReserve
                if inGroup < bytes { return .cgroup(bytes - inGroup) }
                headroom = min(headroom, inGroup)
            }
            // Others take memory too: no more than a part of what is there is promised without looking again.
            grants.withLock { grants in
                grants.credit = min(headroom / 8, Self.creditBytes)
                grants.isPlenty = headroom >= Self.plentyBytes
            }
        } catch {
            throw EngineError(.system, "how much memory there is can't be read", errno: error)
        }
        return .none
    }

    private func error(_ lack: Shortage, _ bytes: Int) -> EngineError {
        switch lack {
        case .limit(let over):
            EngineError(
                .outOfMemory,
                "bringing \(bytes) bytes in would exceed the limit of \(maximumResident ?? 0) resident bytes by \(over), and no other object gave way; unpin objects or raise the limit"
            )
        case .cgroup(let missing):
            EngineError(
                .outOfMemory,
                "bringing \(bytes) bytes in would leave less than \(cgroupReserve) bytes of this process's memory cgroup (\(missing) are missing); unpin objects or raise its limit"
            )
        case .machine(let missing):
            EngineError(
                .outOfMemory,
                "bringing \(bytes) bytes in would leave less than \(floorBytes) bytes of memory available (\(missing) are missing); free memory or lower the floor"
            )
        case .none: EngineError(.outOfMemory, "no room for \(bytes) bytes")
        }
    }
}

extension Engine {
    /// What all pools' memory files take of the machine's memory, ready blocks included; pools of huge pages take none that others could have.
    func residentBytes() -> Int {
        state.withLock { $0.pools.values.filter { !$0.isHuge } }.reduce(0) { $0 + $1.allocatedPages * basePageSize }
    }
}
