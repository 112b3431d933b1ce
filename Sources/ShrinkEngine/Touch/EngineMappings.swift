import Logging
public import ShrinkLinux
import SystemPackage

/// What a mapping that wants recover on touch is.
public struct MappingPlace: Sendable, Equatable {
    /// Where it starts in its process, a multiple of the page.
    public var address: UInt
    /// What of the pool shows there; whole pages.
    public var offset: ByteCount
    public var length: ByteCount

    public init(address: UInt, offset: ByteCount, length: ByteCount) {
        (self.address, self.offset, self.length) = (address, offset, length)
    }
}

extension Engine {
    /// What a userfaultfd must tell, so that no zero page ever shows where content belongs; that of a pool of huge pages also `missingInHugePages`.
    public static let touchFeatures: Userfaults.Features = [
        .writeProtect, .missingInSharedMemory, .writeProtectShared, .poison, .remapEvents, .removeEvents, .unmapEvents,
    ]

    /// Registers a mapping of a pool: from now on its memory may be used without a pin. A page that is touched comes back; one that is written while it goes out
    /// stays; one that can't be had gives SIGBUS.
    ///
    /// `userfaults` is of the process that has the mapping, and begun with at least `touchFeatures`, or not begun at all: then it is begun here. Whoever keeps a
    /// duplicate of it (`persistentMapping`) sees its threads wait, not read zeros, when this engine dies; with the next engine they go on (`adoptMapping`). One that
    /// is registered already, at the same place, keeps its id.
    public func registerMapping(_ poolID: PoolID, userfaults: consuming OwnedDescriptor, at place: MappingPlace) throws(EngineError)
        -> MappingID
    {
        let pool = try state.withLock { state throws(EngineError) in try state.pool(poolID) }
        guard !(pool.backup is KernelSwap) else {
            throw EngineError(.unsuitableMapping, "\(poolID) goes to the kernel's swap, which serves touches itself; register nothing")
        }
        let (first, count) = try Self.check(place, in: pool)
        let addresses = place.address..<place.address + UInt(place.length.rawValue)
        try Self.begin(userfaults.number, pool)
        if let id = try known(userfaults.number, pool, first, count, at: place.address) {
            try? Userfaults.wake(userfaults.number, addresses)
            return id
        }
        do throws(Errno) { try Userfaults.register(userfaults.number, addresses, [.missing, .writeProtect]) } catch {
            throw EngineError(
                .unsuitableMapping,
                "the range can't be registered with the userfaultfd: it must be a shared mapping of the pool, writable, and in no other userfaultfd",
                errno: error)
        }
        let id = faultServer.newID()
        let number = userfaults.number
        try enter(
            PoolTouch.Mapping(
                id: id, userfaults: SharedDescriptor(userfaults),
                segments: MappedSegments(address: place.address, firstPage: first, count: count, unitBytes: pool.unitBytes),
                registration: id), of: pool)
        // Faults that an engine that is gone had read come again.
        try? Userfaults.wake(number, addresses)
        logger.info("mapping registered", metadata: ["mapping": "\(id.rawValue)", "pool": "\(poolID.rawValue)", "pages": "\(count)"])
        return id
    }

    /// From now on the mapping's faults are served, and its pages protected while they move.
    func enter(_ mapping: PoolTouch.Mapping, of pool: Pool) throws(EngineError) {
        try faultServer.start(self)
        state.withLock { state in
            guard pool.places == nil else { return }
            pool.places = PagePlaces(
                state.objectIDs(in: pool.id).compactMap { id in
                    state.objects.slot(of: id).map { (state.objects[$0].firstPage, id.rawValue) }
                })
        }
        let claims = try pool.touch.state.withLock { state throws(EngineError) -> [(id: UInt64, pages: Range<Int>)] in
            guard state.mappings.count < PoolTouch.mappingsPerPool else {
                throw EngineError(.limitReached, "\(pool.id) has \(PoolTouch.mappingsPerPool) registered mappings; end some")
            }
            state.mappings.append(mapping)
            state.generation += 1
            // What is being worked on just now must not be written through this mapping either. The work ends only after that.
            return state.claims.indices.compactMap { i in
                guard mapping.segments.segments.contains(where: { $0.pages.overlaps(state.claims[i].pages) }) else { return nil }
                state.claims[i].guests += 1
                return (state.claims[i].id, state.claims[i].pages)
            }
        }
        for claim in claims {
            for span in pool.touch.spans(of: claim.pages, only: mapping.id) {
                try? Userfaults.protect(span.userfaults.number, span.addresses)
            }
            pool.touch.leave(claim.id)
        }
        do throws(EngineError) { try faultServer.add(mapping.id, mapping.userfaults, of: pool) } catch {
            pool.touch.remove(mapping.id)
            throw error
        }
    }

    /// A userfaultfd that is registered already, as it is after a restart that its holder need not have noticed: the same mapping, told again.
    private func known(_ userfaults: CInt, _ pool: Pool, _ first: Int, _ count: Int, at address: UInt) throws(EngineError) -> MappingID? {
        guard let id = faultServer.id(of: userfaults) else { return nil }
        let wanted = MappedSegments(address: address, firstPage: first, count: count, unitBytes: pool.unitBytes).segments
        let isSame = pool.touch.state.withLock { state in state.mappings.contains { $0.id == id && $0.segments.segments == wanted } }
        guard isSame else {
            throw EngineError(.unsuitableMapping, "this userfaultfd is registered for \(id) already; make one for each mapping")
        }
        return id
    }

    static func check(_ place: MappingPlace, in pool: Pool) throws(EngineError) -> (first: Int, count: Int) {
        let (offset, length, unit) = (place.offset.rawValue, place.length.rawValue, pool.unitBytes)
        guard offset >= 0, length > 0, offset % unit == 0, length % unit == 0, offset <= pool.sizeBytes,
            length <= pool.sizeBytes - offset, place.address % UInt(unit) == 0, place.address > 0,
            place.address < UInt(1) << 56
        else {
            throw EngineError(
                .invalidSize,
                "a mapping has an address, an offset and a length in whole pages of \(unit), within the pool's \(pool.sizeBytes) bytes"
            )
        }
        return (offset / unit, length / unit)
    }

    /// Makes sure that the descriptor is a userfaultfd that tells what must be told.
    static func begin(_ fd: CInt, _ pool: Pool) throws(EngineError) {
        let wanted = pool.isHuge ? touchFeatures.union(.missingInHugePages) : touchFeatures
        do throws(Errno) {
            if let features = try Userfaults.features(fd) {
                guard features.isSuperset(of: wanted) else { throw Errno.invalidArgument }
                return
            }
            do throws(Errno) { try Userfaults.begin(fd, wanted.union(.forkEvents)) } catch {
                // Only root learns of forks; without, a child of the process reads zeros in its own copy, unless the mapping is kept from it.
                guard error == .notPermitted else { throw error }
                try Userfaults.begin(fd, wanted)
            }
        } catch {
            throw EngineError(
                .unsuitableMapping,
                "the descriptor is no userfaultfd with write protection of shared memory, poison and events (Linux 6.6); pass a fresh one",
                errno: error)
        }
    }

    /// A child of a registered process: its memory shows the same.
    func adoptChild(_ id: MappingID, _ userfaults: SharedDescriptor, of pool: Pool, _ server: FaultServer) {
        let isTooMany = pool.touch.state.withLock { $0.mappings.count > PoolTouch.mappingsPerPool }
        do throws(EngineError) {
            if isTooMany { throw EngineError(.limitReached, "\(pool.id) has \(PoolTouch.mappingsPerPool) registered mappings") }
            try server.add(id, userfaults, of: pool)
            if let child = pool.touch.persistent(id, of: server) { server.tell(.forked(child)) }
        } catch {
            logger.error(
                "a forked process can't be served; its touches of missing pages get SIGBUS",
                metadata: ["pool": "\(pool.id.rawValue)", "error": "\(error)"])
            pool.touch.poisonAll(id)
            pool.touch.remove(id)
        }
    }

    /// Ends a mapping's registration: what is in the backup stays there, and its memory may be used only while pinned. One that ended already is fine.
    public func unregisterMapping(_ id: MappingID) {
        guard let pool = faultServer.pool(of: id) else { return }
        let children = pool.touch.state.withLock { state in state.mappings.filter { $0.registration == id }.map(\.id) }
        for child in children where child != id { endMapping(child) }
        endMapping(id)
    }

    /// The connection of a client ended: its userfaultfd is let go. If the process lives on and kept a duplicate, its threads wait for the next registration; if it
    /// didn't, missing pages are holes to it from now on.
    func endMapping(_ id: MappingID) {
        guard let pool = faultServer.remove(id) else { return }
        pool.touch.remove(id)
    }

    /// Pools whose memory file a client holds in the middle of a write, and for how long; only where clients are strangers.
    public func stalledPools() -> [(pool: PoolID, name: String, nanoseconds: UInt64)] {
        state.withLock { Array($0.pools.values) }.compactMap { pool in
            pool.file.stalledNanoseconds.map { (pool: pool.id, name: pool.name, nanoseconds: $0) }
        }
    }

    /// What recover on touch did since the start.
    public var touchCounts: TouchCounts { faultServer.counters.counts }

    /// Registered mappings, children of registered processes included.
    public func mappings(of poolID: PoolID) throws(EngineError) -> Int {
        let pool = try state.withLock { state throws(EngineError) in try state.pool(poolID) }
        return pool.touch.state.withLock { $0.mappings.count }
    }

    /// Whether this machine can do it at all, and for the faults of system calls too.
    public static func touchSupport() -> [Feature] {
        var features: [Feature] = []
        do throws(Errno) {
            let probe = try Userfaults.open(.userMode)
            try Userfaults.begin(probe.number, touchFeatures)
            features.append(Feature("recover_on_touch", isAvailable: true))
        } catch {
            features.append(
                Feature(
                    "recover_on_touch", isAvailable: false,
                    reason: "userfaultfd lacks write protection of shared memory, poison or events (\(error)); Linux 6.6 has them"))
        }
        do throws(Errno) {
            let device = try Files.open(Userfaults.device, .readWrite)
            _ = try Userfaults.open(device: device.number)
            features.append(Feature("touch_in_system_calls", isAvailable: true))
        } catch {
            features.append(
                Feature(
                    "touch_in_system_calls", isAvailable: false,
                    reason: "\(Userfaults.device) can't be opened (\(error)): system calls that meet a missing page fail with EFAULT"))
        }
        return features
    }
}

extension PoolTouch {
    /// Nothing that is missing in a mapping will come: whoever touches it hears so.
    func poisonAll(_ id: MappingID) {
        let all = state.withLock { $0.mappings.first { $0.id == id } }
        guard let all else { return }
        for segment in all.segments.segments { _ = poison(all.userfaults.number, segment.address..<segment.end) }
    }
}
