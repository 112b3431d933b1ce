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
        /// Bytes on their way in, not yet in the pools' files.
        var inFlight = 0
        /// How often some of them landed.
        var landings: UInt64 = 0
    }

    // Looking at /proc/meminfo takes as long as bringing in a quarter of a MiB.
    private static let creditBytes = 64 << 20
    private static let attempts = 8
    /// How long runs of others may take to land before they are counted as if they all were still to come.
    private static let landingMilliseconds: UInt64 = 2000
    private static let judgedBytes = 4 << 20

    private let floorBytes: Int
    private let maximumResident: Int?
    private let cgroupReserve: Int
    private let cgroup: MemoryCgroup?
    private let grants = Monitor(Grants())
    private let isLimitLifted = Atomic<Bool>(false)

    /// The engine is ending: what clients have out must come home, and nobody else needs the room. The floor and the cgroup still count.
    func liftLimit() { isLimitLifted.store(true, ordering: .relaxed) }

    /// More than any machine has is as good as the largest number, and can be reckoned with.
    private static func sensible(_ setting: ByteCount) -> Int { min(max(0, setting.rawValue), 1 << 50) }

    init(_ configuration: Engine.Configuration) throws(EngineError) {
        if let floor = configuration.memoryFloor {
            floorBytes = Self.sensible(floor)
        } else {
            let total: UInt64
            do throws(Errno) { total = try MemoryInfo().total } catch {
                throw EngineError(.system, "/proc/meminfo can't be read", errno: error)
            }
            floorBytes = max(64 << 20, Int(total / 64))
        }
        maximumResident = configuration.maximumResident?.rawValue
        cgroupReserve = Self.sensible(configuration.cgroupReserve)
        cgroup = configuration.cgroup ?? MemoryCgroup.ofThisProcess()
    }

    /// Room for a run that is about to come in; given back as soon as it is in, for then the pool's file has it. With a staging buffer, others are shrunk
    /// for it.
    func take(_ bytes: Int, engine: Engine, _ staging: Staging?) throws(EngineError) {
        try engine.at(.room)
        try obtain(bytes, engine, staging, checksMachine: true)
    }

    func giveBack(_ bytes: Int) {
        guard bytes > 0 else { return }
        grants.withLock { grants in
            grants.inFlight -= bytes
            grants.landings += 1
        }
        grants.notifyAll()
    }

    /// Room for an object that its client may fill as soon as it has it. Only the configured limit counts: the client's pages come one by one.
    func admit(_ bytes: Int, engine: Engine, _ staging: Staging) throws(EngineError) {
        guard maximumResident != nil else { return }
        try obtain(bytes, engine, staging, checksMachine: false)
        giveBack(bytes)
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
        // Under the limit, then on the machine; what the limit allowed is given back if the machine has no room.
        var isUnderLimit = false
        do throws(EngineError) { try obtain(bytes, engine, staging, checksMachine, &isUnderLimit) } catch {
            if isUnderLimit { giveBack(bytes) }
            throw error
        }
    }

    private func obtain(
        _ bytes: Int, _ engine: Engine, _ staging: Staging?, _ checksMachine: Bool, _ isUnderLimit: inout Bool
    ) throws(EngineError) {
        var lack = try shortage(bytes, engine, checksMachine, mayWait: staging != nil, &isUnderLimit)
        let lackAtFirst = lack.bytes
        var freedSoFar = 0
        for _ in 0..<Self.attempts where lack.bytes > 0 {
            guard let staging else { break }
            let freed = engine.reclaimDirect(goalPages: (lack.goalBytes + basePageSize - 1) / basePageSize, staging).freedBytes.rawValue
            lack = try shortage(bytes, engine, checksMachine, mayWait: true, &isUnderLimit)
            if freed == 0 { break }
            freedSoFar += freed
            // Pages that only moved to a store in the same memory give no room; going on would push everything out in vain.
            // Judged over some megabytes: what others took meanwhile must not look like it.
            if freedSoFar >= Self.judgedBytes, lackAtFirst - lack.bytes < freedSoFar / 8 { break }
        }
        if lack.bytes > 0 { throw error(lack, bytes) }
    }

    private func shortage(
        _ bytes: Int, _ engine: Engine, _ checksMachine: Bool, mayWait: Bool, _ isUnderLimit: inout Bool
    ) throws(EngineError) -> Shortage {
        if !isUnderLimit {
            let over = takeUnderLimit(bytes, engine, mayWait: mayWait)
            if over > 0 { return .limit(over) }
            isUnderLimit = true
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
            }
        } catch {
            throw EngineError(.system, "how much memory there is can't be read", errno: error)
        }
        return .none
    }

    /// Counts bytes as on their way in if the limit allows it; otherwise returns by how many it would be exceeded.
    ///
    /// A run of another operation that is just being written is in its pool's file in part, and on its way still. Where that decides, it is waited for: who is on
    /// the way waits for nobody's room, so it lands soon.
    private func takeUnderLimit(_ bytes: Int, _ engine: Engine, mayWait: Bool) -> Int {
        let deadline = MonotonicTime.now().advanced(milliseconds: Self.landingMilliseconds)
        while true {
            guard let limit = maximumResident, !isLimitLifted.load(ordering: .relaxed) else {
                grants.withLock { $0.inFlight += bytes }
                return 0
            }
            let landings = grants.withLock { $0.landings }
            let resident = engine.residentBytes()
            let isLate = MonotonicTime.now() >= deadline
            let over = grants.withLock { grants -> Int? in
                // What landed between the two looks is in neither figure.
                guard grants.landings == landings else { return nil }
                let over = resident + grants.inFlight + bytes - limit
                if over <= 0 { grants.inFlight += bytes }
                return over
            }
            guard let over else { continue }
            if over <= 0 || !mayWait || isLate || resident + bytes > limit { return over }
            _ = grants.wait(deadline: deadline) { $0.landings != landings ? true : nil }
        }
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
        // The list is shared with the state, not copied: nothing is allocated.
        var bytes = 0
        let pools = state.withLock { $0.poolList }
        for i in pools.indices where !pools[i].isHuge { bytes += pools[i].allocatedPages * basePageSize }
        return bytes
    }
}

/// Room for one run after the other of a recover.
struct RunRoom {
    private let engine: Engine
    private let staging: Staging?
    private let isHuge: Bool
    private var bytes = 0

    /// With a staging buffer, others are shrunk where there is none.
    init(engine: Engine, staging: Staging?, isHuge: Bool) { (self.engine, self.staging, self.isHuge) = (engine, staging, isHuge) }

    mutating func take(_ bytes: Int) throws(EngineError) {
        giveBack()
        if isHuge { return try engine.room.takeHugePages(bytes / HugeMemory.unitBytes, engine: engine, staging) }
        try engine.room.take(bytes, engine: engine, staging)
        self.bytes = bytes
    }

    /// So many bytes are in the pool's file now.
    mutating func land(_ landed: Int) {
        let landed = min(landed, bytes)
        engine.room.giveBack(landed)
        bytes -= landed
    }

    mutating func giveBack() { land(bytes) }
}
