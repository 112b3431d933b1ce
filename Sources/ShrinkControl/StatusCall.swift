import ServiceSupport
import ShrinkEngine
import ShrinkPressure
import ShrinkProtocol
import Varlink

extension ControlService {
    /// Answers also while the backup does not: that is when somebody asks.
    func status(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        let (engine, version, survival, sessions, watch) = (engine, version, survival, sessions, watch)
        let (features, touchFeatures) = (pressure?.status.features ?? [], touchFeatures)
        return VarlinkReply(
            try await perform(call, .looking, NoParameters.self) { (_, caller) throws(ControlError) in
                let view = watch.look()
                let status = engine.status(backup: view.status, orphans: view.orphans)
                survival.note(engine.counters)
                var reply = StatusReply(status, version: version)
                for feature in features { reply.features[feature.name] = WireFeature(available: feature.lack == nil, reason: feature.lack) }
                for feature in touchFeatures {
                    reply.features[feature.name] = WireFeature(available: feature.isAvailable, reason: feature.reason)
                }
                let huge = Engine.hugePageSupport()
                reply.features[huge.name] = WireFeature(available: huge.isAvailable, reason: huge.reason)
                reply.features["pool_memory"] = Self.poolMemory(engine.stalledPools())
                reply.backup.silentMilliseconds = view.silentMilliseconds
                reply.survival = WireSurvival(survival, waitingSessions: sessions.waitingCount)
                if !caller.isAdministrator {
                    // The sums of what the caller sees; how the backup stands is everybody's business.
                    let pools = engine.pools().filter { caller.sees($0) }
                    reply.pools = pools.count
                    reply.objects = pools.reduce(0) { $0 + $1.objectCount }
                    reply.pages = WirePageCounts(resident: 0, zero: 0, backedUp: 0, empty: 0)
                    for pool in pools { reply.pages.add(pool.pages.inBasePages(of: pool.pageBytes)) }
                }
                return reply
            })
    }
}

extension WireSurvival {
    init(_ survival: Survival, waitingSessions: Int) {
        let state = survival.state
        self.init(
            starts: Int(clamping: state[.starts]), healedPages: Int(clamping: state[.healedInPool] + state[.healedInStore]),
            lostPages: Int(clamping: state[.lostPages]), waitingSessions: waitingSessions,
            descriptors: survival.descriptors.used, descriptorLimit: survival.descriptors.limit)
    }
}
