public import ShrinkLinux
import SystemPackage

/// Where to look. Everything can be pointed at a tree of fixtures.
public struct PressurePlaces: Sendable {
    public var memoryInfo = "/proc/meminfo"
    /// The directory of the machine's pressure stall information.
    public var stalls = "/proc/pressure"
    /// The limits this process is under; nil: none.
    public var cgroup: MemoryCgroup?
    public var contract: Result<WatchContract, PressureSourceError> = .success(.unset)

    /// Those of this process.
    public static func ofThisProcess() -> PressurePlaces {
        var places = PressurePlaces()
        places.cgroup = MemoryCgroup.ofThisProcess()
        do throws(PressureSourceError) { places.contract = .success(try WatchContract()) } catch { places.contract = .failure(error) }
        return places
    }

    public init() {}
}

/// Something that the machine may lack.
public struct PressureFeature: Sendable, Equatable {
    public var name: String
    /// Nil: it is there.
    public var lack: String?
}

/// Everything that tells of pressure, read by one thread.
final class PressureSensors {
    private enum Role: UInt64, CaseIterable {
        case machine = 16
        case group = 17
        case contract = 18
    }

    private let places: PressurePlaces
    private let epoll: Epoll
    private var sources: [Role: PressureSource] = [:]
    private var lacks: [Role: String] = [:]
    private var retries: [Role: MonotonicTime] = [:]
    private var fired: Set<Role> = []
    private var stallMilliseconds: Int
    private let hasStalls: Bool

    init(_ places: PressurePlaces, stallMilliseconds: Int, epoll: Epoll) {
        self.places = places
        self.epoll = epoll
        self.stallMilliseconds = stallMilliseconds
        hasStalls = StallFigures.read(places.stalls + "/memory") != nil
        places.cgroup?.prepare()
        for role in Role.allCases { open(role) }
    }

    /// Asks the kernel for triggers of another length.
    func change(stallMilliseconds: Int) {
        guard stallMilliseconds != self.stallMilliseconds else { return }
        self.stallMilliseconds = stallMilliseconds
        for role in [Role.machine, .group] {
            close(role)
            open(role)
        }
    }

    var features: [PressureFeature] {
        [
            PressureFeature(
                name: "pressure_stall_information",
                lack: hasStalls ? nil : "\(places.stalls)/memory is not there: the kernel has no PSI, or it is off (boot with psi=1)"),
            PressureFeature(name: "pressure_trigger", lack: lacks[.machine]),
            PressureFeature(name: "memory_pressure_watch", lack: lacks[.contract]),
        ]
    }

    // MARK: Sources

    private func open(_ role: Role) {
        do throws(PressureSourceError) {
            guard let source = try make(role) else { return }
            do throws(Errno) { try epoll.add(source.number, source.interest, token: role.rawValue) } catch {
                throw PressureSourceError("\(source.path) can't be polled for memory pressure: \(error)")
            }
            sources[role] = source
            lacks[role] = nil
        } catch {
            lacks[role] = error.description
        }
    }

    private func close(_ role: Role) {
        if let source = sources.removeValue(forKey: role) { try? epoll.remove(source.number) }
    }

    private func make(_ role: Role) throws(PressureSourceError) -> PressureSource? {
        let contract = try places.contract.get()
        switch role {
        case .contract:
            switch contract {
            case .unset:
                lacks[role] = "MEMORY_PRESSURE_WATCH is not set"
                return nil
            case .disabled:
                lacks[role] = "MEMORY_PRESSURE_WATCH is /dev/null: whoever started this wants no watching"
                return nil
            case .watch(let path, let write): return try PressureSource(path: path, write: write)
            }
        case .machine:
            // The contract's "off" is meant for every stall, not for one file.
            if contract == .disabled {
                lacks[role] = "MEMORY_PRESSURE_WATCH is /dev/null: whoever started this wants no watching"
                return nil
            }
            return try trigger(places.stalls + "/memory")
        case .group:
            // The service manager watches this group already.
            guard contract == .unset, let path = places.cgroup?.pressurePath else { return nil }
            return try trigger(path)
        }
    }

    private func trigger(_ path: String) throws(PressureSourceError) -> PressureSource {
        // Without CAP_SYS_RESOURCE the window must be a multiple of two seconds. The kernel wants the zero at the end.
        func text(_ seconds: Int) -> [UInt8] { Array("some \(stallMilliseconds * 1000 * seconds) \(seconds * 1_000_000)".utf8) + [0] }
        do throws(PressureSourceError) { return try PressureSource(path: path, write: text(1)) } catch {
            return try PressureSource(path: path, write: text(2))
        }
    }

    // MARK: Events and figures

    /// True if the event was one of ours.
    func take(_ event: Epoll.Event, _ now: MonotonicTime) -> Bool {
        guard let role = Role(rawValue: event.token), let source = sources[role] else { return false }
        if !event.ready.intersection(source.interest).isEmpty { fired.insert(role) }
        let isOver = event.ready.contains(.error) || !source.drain() || source.kind != .file && event.ready.contains(.hangUp)
        if isOver {
            close(role)
            lacks[role] = "\(source.path) ended; it is tried again"
            retries[role] = now.advanced(milliseconds: 1000)
        }
        return true
    }

    /// The next time at which a source that ended is tried again.
    var nextRetry: MonotonicTime? { retries.values.min() }

    func read(_ target: some PressureTarget, _ now: MonotonicTime) throws(Errno) -> PressureReading {
        for (role, time) in retries where now >= time {
            retries[role] = nil
            open(role)
            if sources[role] == nil { retries[role] = now.advanced(milliseconds: 1000) }
        }
        var reading = PressureReading()
        let machine = try MemoryInfo(path: places.memoryInfo)
        reading.headrooms = [
            Headroom(totalBytes: Int(clamping: machine.total), availableBytes: Int(clamping: machine.available), scope: "machine")
        ]
        if let cgroup = places.cgroup, let limit = try cgroup.tightest() {
            reading.headrooms.append(
                Headroom(totalBytes: limit.limitBytes, availableBytes: limit.availableBytes, scope: "cgroup \(limit.directory)"))
        }
        reading.isInGroup = places.cgroup != nil
        reading.memoryStallPercent = StallFigures.read(places.stalls + "/memory")?.some10
        reading.ioStallPercent = StallFigures.read(places.stalls + "/io")?.some10
        reading.groupStallPercent = places.cgroup?.pressurePath.flatMap { StallFigures.read($0) }?.some10
        reading.isStalled = fired.contains(.machine)
        reading.isTold = fired.contains(.contract) || fired.contains(.group)
        fired = []
        reading.residentBytes = target.residentBytes
        reading.reclaimableBytes = target.reclaimableBytes
        reading.isStoreInMemory = target.isStoreInMemory
        return reading
    }
}
