import ShrinkEngine
import ShrinkProtocol
import Varlink

extension ControlService {
    func listUsers(_ call: VarlinkCall) async throws(ControlError) -> VarlinkReply {
        let engine = engine
        let users = try await perform(call, .bookkeeping, ListUsersParameters.self) { (parameters, caller) throws(ControlError) in
            let after = parameters.afterUid ?? -1
            guard after >= -1 else { throw .parameter("afterUid") }
            var usage = engine.userUsage().filter { caller.isAdministrator || $0.owner == caller.userID }
            if !usage.contains(where: { $0.owner == caller.userID }) { usage.append(engine.userUsage(of: caller.userID)) }
            var resident: [UInt32: Int] = [:]
            for pool in engine.pools() { resident[pool.owner, default: 0] += pool.allocatedBytes.rawValue }
            return usage.filter { Int($0.owner) > after }.sorted { $0.owner < $1.owner }.map {
                WireUserUsage($0, residentBytes: resident[$0.owner] ?? 0)
            }
        }
        var rest = users[...]
        while call.wantsMore, rest.count > Methods.listChunk {
            let reply = ListUsersReply(users: Array(rest.prefix(Methods.listChunk)), nextAfterUid: nil)
            // Whoever is gone needs no more; the last reply then goes nowhere.
            do throws(VarlinkDisconnected) { try await call.send(VarlinkReply(reply)) } catch { return VarlinkReply() }
            rest = rest.dropFirst(Methods.listChunk)
        }
        let last = Array(rest.prefix(Methods.listChunk))
        return VarlinkReply(ListUsersReply(users: last, nextAfterUid: rest.count > last.count ? last.last?.uid : nil))
    }
}

extension WireUserUsage {
    init(_ usage: UserUsage, residentBytes: Int) {
        self.init(
            uid: Int(usage.owner), pools: usage.pools, poolLimit: usage.limits?.pools, objects: usage.objects,
            objectLimit: usage.limits?.objects, poolBytes: usage.poolBytes.rawValue, poolBytesLimit: usage.limits?.poolBytes?.rawValue,
            residentBytes: residentBytes, backedUpBytes: usage.backedUpBytes.rawValue,
            backedUpLimitBytes: usage.limits?.backedUpBytes?.rawValue)
    }
}

extension CreatePoolParameters {
    var limits: PoolLimits {
        get throws(ControlError) {
            if let objectLimit, objectLimit < 0 { throw .parameter("objectLimit") }
            if let backedUpLimitBytes, backedUpLimitBytes < 0 { throw .parameter("backedUpLimitBytes") }
            return PoolLimits(objects: objectLimit, backedUpBytes: backedUpLimitBytes.map { ByteCount($0) })
        }
    }
}
