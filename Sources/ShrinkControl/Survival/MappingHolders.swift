import Logging
import ServiceSupport
import ShrinkEngine
import ShrinkLinux
import ShrinkProtocol
import Synchronization
import SystemPackage

/// Which connection registered which mapping. Mappings wait, as sessions do, for a client whose connection the engine's death ended, and are
/// served meanwhile.
final class MappingHolders: Sendable {
    private enum Holder: Hashable {
        case connection(UInt64)
        case waiting(SessionToken)
    }

    private struct Kept {
        var holder: Holder
        var token: SessionToken
    }

    private struct State {
        /// Those that were registered; children of forked processes go with them.
        var mappings: [MappingID: Kept] = [:]

        func of(_ holder: Holder) -> [MappingID] { mappings.filter { $0.value.holder == holder }.map(\.key) }
    }

    private let survival: Survival
    private let engine: Engine
    private let state: Mutex<State>
    /// One mapping at a time is registered and kept.
    private let registering = Monitor(())
    /// Notes of one mapping are written one after the other.
    private let noting = Monitor(())
    private let changes = Monitor((waiting: [MappingChange](), isEnding: false))
    private let thread: DedicatedThread

    /// Mappings of sessions that do not wait any more are dropped; the others are served from here on.
    init(_ survival: Survival, _ engine: Engine, waiting tokens: Set<SessionToken>, logger: Logger) throws(Errno) {
        self.survival = survival
        self.engine = engine
        var state = State()
        for (token, mapping) in survival.mappingsLeft() {
            guard tokens.contains(token) else {
                survival.forgetMapping(mapping.id)
                continue
            }
            do throws(EngineError) {
                try engine.adoptMapping(mapping)
                state.mappings[mapping.id] = Kept(holder: .waiting(token), token: token)
            } catch {
                logger.error(
                    "A mapping that the last engine served cannot be: threads that wait in it wait until it is registered again.",
                    metadata: ["mapping": "\(mapping.id.rawValue)", "pool": "\(mapping.pool.rawValue)", "error": "\(error)"])
                survival.forgetMapping(mapping.id)
            }
        }
        self.state = Mutex(state)
        let changes = changes
        let box = WeakHolders()
        // Telling the starter may wait, and the threads that serve faults must not.
        thread = try DedicatedThread("mapping-keeper", stackSize: 256 << 10) {
            while true {
                let next: [MappingChange]? = changes.wait { changes -> [MappingChange]?? in
                    if changes.isEnding { return .some(nil) }
                    if changes.waiting.isEmpty { return nil }
                    defer { changes.waiting = [] }
                    return .some(changes.waiting)
                }
                guard let next, let holders = box.holders else { return }
                for change in next { holders.note(change) }
            }
        }
        box.set(self)
        engine.watchMappings { [weak self] change in
            // Only memory is written for this, and the sooner the better.
            if case .changed(let mapping) = change {
                self?.renew(mapping.id)
                return
            }
            changes.withLock { $0.waiting.append(change) }
            changes.notifyAll()
        }
    }

    private final class WeakHolders: @unchecked Sendable {
        // Sendable: behind the monitor.
        private struct Reference { weak var holders: MappingHolders? }
        private let reference = Monitor(Reference())
        var holders: MappingHolders? { reference.withLock { $0.holders } }
        func set(_ holders: MappingHolders) { reference.withLock { $0.holders = holders } }
    }

    /// Ends the thread that hears of changes.
    func finish() {
        changes.withLock { $0.isEnding = true }
        changes.notifyAll()
        thread.join()
    }

    // MARK: What clients ask for

    /// Registers a mapping for a connection. One that is registered already, as it is after a restart, is the connection's from now on.
    func register(
        _ pool: PoolID, _ userfaults: consuming OwnedDescriptor, at place: MappingPlace, _ connection: UInt64, _ token: SessionToken
    ) throws(ControlError) -> MappingID {
        let userfaults = SharedDescriptor(userfaults)
        return try registering.withLock { (_) throws(ControlError) in
            do throws(ParkedDescriptors.Full) { try survival.descriptors.reserve(1) } catch { throw .service(.limitReached, "\(error)") }
            let id: MappingID
            do throws(EngineError) {
                let own: OwnedDescriptor
                do throws(Errno) { own = try userfaults.duplicate() } catch {
                    throw EngineError(.limitReached, "no descriptor left for the mapping; raise LimitNOFILE", errno: error)
                }
                id = try engine.registerMapping(pool, userfaults: own, at: place)
            } catch {
                survival.descriptors.cancel(1)
                throw ControlError(error)
            }
            let isKnown = state.withLock { $0.mappings[id] != nil }
            if isKnown { survival.descriptors.cancel(1) }
            do throws(ControlError) {
                try checkRoom(id, connection, isKnown: isKnown)
                guard let mapping = engine.persistentMapping(id) else {
                    if !isKnown { survival.descriptors.cancel(1) }
                    throw .service(.unsuitableMapping, "the mapping's process has ended meanwhile")
                }
                if !isKnown { try survival.keepMapping(mapping, token: token) }
            } catch {
                if !isKnown { engine.unregisterMapping(id) }
                throw error
            }
            state.withLock { $0.mappings[id] = Kept(holder: .connection(connection), token: token) }
            renew(id)
            return id
        }
    }

    private func checkRoom(_ id: MappingID, _ connection: UInt64, isKnown: Bool) throws(ControlError) {
        let others = state.withLock { $0.of(.connection(connection)).count { $0 != id } }
        if others < Methods.mappingsPerConnection { return }
        if !isKnown { survival.descriptors.cancel(1) }
        throw .service(
            .limitReached, "this connection has \(Methods.mappingsPerConnection) mappings registered; end some, or use a second one")
    }

    /// Ends a registration. False if it is none of the connection's.
    func unregister(_ id: MappingID, _ connection: UInt64) -> Bool {
        let isOurs = state.withLock { state in
            guard state.mappings[id]?.holder == .connection(connection) else { return false }
            state.mappings[id] = nil
            return true
        }
        if isOurs { end(id) }
        return isOurs
    }

    func has(_ connection: UInt64) -> Bool { state.withLock { !$0.of(.connection(connection)).isEmpty } }

    /// The connection has ended, and its registrations with it.
    func end(connection: UInt64) { end(.connection(connection)) }

    /// A client has come back and has its session again.
    func resume(_ connection: UInt64, _ token: SessionToken) {
        state.withLock { state in
            for id in state.of(.waiting(token)) { state.mappings[id]?.holder = .connection(connection) }
        }
    }

    /// The client does not come back.
    func expire(_ token: SessionToken) { end(.waiting(token)) }

    private func end(_ holder: Holder) {
        let ids = state.withLock { state in
            let ids = state.of(holder)
            for id in ids { state.mappings[id] = nil }
            return ids
        }
        for id in ids { end(id) }
    }

    private func end(_ id: MappingID) {
        engine.unregisterMapping(id)
        survival.forgetMapping(id)
    }

    // MARK: What the engine hears

    private func note(_ change: MappingChange) {
        switch change {
        case .forked(let child): keep(child)
        case .changed(let mapping): renew(mapping.id)
        case .ended(let id):
            state.withLock { $0.mappings[id] = nil }
            survival.forgetMapping(id)
        }
    }

    /// Writes a mapping down as it is now.
    private func renew(_ id: MappingID) {
        noting.withLock { _ in
            guard let mapping = engine.persistentMapping(id), let token = token(mapping) else { return }
            _ = survival.noteMapping(mapping, token: token)
        }
    }

    private func token(_ mapping: PersistentMapping) -> SessionToken? {
        state.withLock { ($0.mappings[mapping.id] ?? $0.mappings[mapping.registration])?.token }
    }

    /// A child that is served outlives the engine too, or is not served.
    private func keep(_ child: PersistentMapping) {
        let isKept: Bool
        if let token = token(child), (try? survival.descriptors.reserve(1)) != nil {
            isKept = (try? survival.keepMapping(child, token: token)) != nil
        } else {
            isKept = false
        }
        if !isKept { engine.refuseForkedMapping(child.id) }
        // It may have ended while it was being kept.
        if engine.persistentMapping(child.id) == nil { survival.forgetMapping(child.id) }
    }
}
