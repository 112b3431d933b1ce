public import Logging
public import ServiceSupport
public import ShrinkEngine
import ShrinkLinux
import SystemPackage

/// What outlives an engine's process: pools and ledgers, the state that says who holds what, and whatever other parts park beside them.
///
/// All of it lies with the starter (systemd or the keeper) as descriptors: `state-2`, and `pool-ID` with `ledger-ID` for each pool, whatever the number
/// of objects. Other parts use names of their own, a hyphen after the first word, with `descriptors`, and leave small facts in `notes`.
public final class Survival: Sendable {
    public let descriptors: ParkedDescriptors
    public let notes: ParkedNotes
    let state: ParkedState
    let logger: Logger

    private static let stateName = "state-"
    private static let poolName = "pool-"
    private static let ledgerName = "ledger-"
    private static let descriptorsOfAPool = 2

    /// Takes what the last engine left out of `inherited`; call it when everything that is not kept by the starter has been taken.
    public init(_ inherited: inout InheritedDescriptors, notifier: Notifier = Notifier(), logger: Logger) throws(SurvivalError) {
        descriptors = ParkedDescriptors(notifier)
        self.logger = logger
        descriptors.adopt(&inherited)
        if notifier.isListening, !descriptors.isKept {
            logger.warning("The starter does not say how many descriptors it keeps (FDSTORE): pools will not outlive this process.")
        }
        let left = descriptors.waitingNames(prefix: Self.stateName).compactMap { UInt32($0.dropFirst(Self.stateName.count)) }
        guard let newest = left.max() else {
            state = try Self.fresh(descriptors)
            notes = ParkedNotes(state)
            state[.starts] = 1
            return
        }
        guard newest <= ParkedState.version else {
            throw SurvivalError(
                "the last engine left a state of version \(newest), this one reads up to \(ParkedState.version); start the version that wrote it: nothing is lost meanwhile"
            )
        }
        guard let file = descriptors.take(Self.stateName + "\(newest)") else { throw SurvivalError("the state of the last engine is gone") }
        let old = try ParkedState(reopening: file)
        if old.version == ParkedState.version {
            state = old
        } else {
            logger.notice("The state of an older version is taken over.", metadata: ["version": "\(old.version)"])
            let new = try Self.fresh(descriptors, copying: old)
            state = new
        }
        for version in left where version != ParkedState.version {
            do throws(Errno) { try descriptors.forget(Self.stateName + "\(version)") } catch {
                throw SurvivalError("the starter cannot be told to drop the older state (\(error))")
            }
        }
        notes = ParkedNotes(state)
        state[.starts] += 1
    }

    /// A state for an engine that nobody starts again, and for tests.
    public init(logger: Logger) throws(SurvivalError) {
        descriptors = ParkedDescriptors(Notifier(environment: nil), limit: nil)
        self.logger = logger
        state = try Self.fresh(descriptors)
        notes = ParkedNotes(state)
        state[.starts] = 1
    }

    private static func fresh(_ descriptors: ParkedDescriptors, copying old: ParkedState? = nil) throws(SurvivalError) -> ParkedState {
        do throws(Errno) {
            let state = try ParkedState()
            if let old { state.copy(old) }
            do throws(ParkedDescriptors.Full) { try descriptors.reserve(1) } catch { throw Errno.noSpace }
            let name = stateName + "\(ParkedState.version)"
            try descriptors.park([(name, state.descriptor.number)])
            return state
        } catch {
            throw SurvivalError("the starter does not take the state that must outlive this process (\(error)); see its log")
        }
    }

    // MARK: Pools

    /// Makes sure that a pool that is about to be made can be kept.
    func reservePool() throws(ParkedDescriptors.Full) { try descriptors.reserve(Self.descriptorsOfAPool) }

    /// The pool was not made after all.
    func cancelPool() { descriptors.cancel(Self.descriptorsOfAPool) }

    /// Leaves a pool, for which room was reserved, with the starter. On return a killed engine loses nothing of it.
    func keep(_ pool: PoolID, of engine: Engine) throws(EngineError) {
        let files: PersistentPool
        do throws(EngineError) { files = try engine.persistentDescriptors(of: pool) } catch {
            cancelPool()
            throw error
        }
        state[.highestPool] = max(state[.highestPool], UInt64(pool.rawValue))
        do throws(Errno) {
            try descriptors.park([
                (Self.poolName + "\(pool.rawValue)", files.file.number), (Self.ledgerName + "\(pool.rawValue)", files.ledger.number),
            ])
        } catch {
            throw EngineError(.system, "the starter does not take \(pool) to keep it over a restart; see its log", errno: error)
        }
    }

    /// A pool is gone.
    func forget(_ pool: PoolID) {
        for name in [Self.poolName, Self.ledgerName] {
            do throws(Errno) { try descriptors.forget(name + "\(pool.rawValue)") } catch {
                logger.warning("The starter still keeps a pool that is gone.", metadata: ["pool": "\(pool.rawValue)", "error": "\(error)"])
            }
        }
    }

    /// Gives the engine the pools that the last one had, healed. Call it before anything is asked of the engine. `progress` is told after each pool.
    public func takeOver(_ engine: Engine, progress: (_ pools: Int) -> Void = { _ in }) throws(SurvivalError) {
        engine.countOn(
            EngineCounters(strayPages: Int(clamping: state[.strayPages])), poolsAbove: UInt32(clamping: state[.highestPool]))
        var lost = 0
        let names = descriptors.waitingNames(prefix: Self.poolName)
        let ids = names.compactMap { UInt32($0.dropFirst(Self.poolName.count)) }.sorted()
        for (index, id) in ids.enumerated() {
            guard let file = descriptors.take(Self.poolName + "\(id)"), let ledger = descriptors.take(Self.ledgerName + "\(id)") else {
                // Nobody was told of a pool before both were kept.
                logger.warning("A pool that was being made when the last engine ended is dropped.", metadata: ["pool": "\(id)"])
                forget(PoolID(rawValue: id))
                continue
            }
            do {
                let report = try engine.adoptPool(file: try file.duplicate(), ledger: try ledger.duplicate()).healing
                state[.healedInPool] += UInt64(report.punchedInPool)
                state[.healedInStore] += UInt64(report.punchedInStore)
                lost += report.lost
                state[.finishedDestructions] += UInt64(report.finishedDestructions)
            } catch {
                throw SurvivalError("pool \(id) of the last engine cannot be taken over: \(error)")
            }
            progress(index + 1)
        }
        engine.removeLeftovers()
        try takeOverGates(engine)
        // Pages that were lost before are found missing again, and are the same ones.
        state[.lostPages] = max(state[.lostPages], UInt64(lost))
        engine.countOn(EngineCounters(damagedPages: max(0, Int(clamping: state[.damagedPages]) - lost)), poolsAbove: 0)
        for name in descriptors.waitingNames(prefix: Self.ledgerName) {
            try? descriptors.forget(name)
        }
    }

    /// Writes down the engine's counters, so that the next one counts on.
    public func note(_ counters: EngineCounters) {
        state[.strayPages] = UInt64(counters.strayPages)
        state[.damagedPages] = UInt64(counters.damagedPages)
    }
}

extension ParkedState {
    /// Takes over an older version's content.
    func copy(_ old: ParkedState) {
        for counter in Counter.allCases { self[counter] = old[counter] }
        for index in old.sessionsInUse() {
            let record = old.session(index)
            session(index).begin(user: record.userID, process: record.process, token: record.token)
        }
        for index in old.holdsInUse() {
            let record = old.hold(index)
            guard let kind = record.kind else { continue }
            hold(index).begin(session: record.session, kind: kind, target: record.target, count: record.count)
        }
    }
}
