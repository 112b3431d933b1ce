import ShrinkProtocol
import Varlink

/// What a client's session holds, as far as the client was told: what would be lost with the session, and what a call whose reply was lost is
/// compared with.
struct Holdings {
    private(set) var pins: [Int: Int] = [:]
    private(set) var pools: Set<Int> = []

    /// Gates were made, and may have pins that only their words tell of.
    private(set) var hasGates = false

    var isEmpty: Bool { pins.isEmpty && pools.isEmpty && !hasGates }

    /// Methods that change it.
    static func concerns(_ member: String) -> Bool {
        adds(member)
            || [Methods.unpin.member, Methods.destroyObject.member, Methods.destroyPool.member].contains(member)
    }

    static func adds(_ member: String) -> Bool {
        [
            Methods.mapGates.member, Methods.attachGate.member, Methods.pin.member, Methods.createObject.member, Methods.createPool.member,
            Methods.openPool.member, Methods.registerMapping.member,
        ].contains(member)
    }

    mutating func note(_ member: String, _ parameters: some Sendable, _ reply: ClientReply) {
        switch member {
        case Methods.pin.member:
            if let id = (parameters as? ObjectAddress)?.objectId { pins[id, default: 0] += 1 }
        case Methods.unpin.member:
            guard let id = (parameters as? ObjectAddress)?.objectId, let count = pins[id] else { return }
            pins[id] = count > 1 ? count - 1 : nil
        case Methods.createObject.member:
            if let made = try? reply.decode(ObjectReply.self) { pins[made.bufferObject.objectId] = 1 }
        case Methods.mapGates.member: hasGates = true
        case Methods.attachGate.member:
            // Its pins are the gate's now.
            if let id = (parameters as? ObjectAddress)?.objectId { pins[id] = nil }
        case Methods.destroyObject.member:
            if let id = (parameters as? ObjectAddress)?.objectId { pins[id] = nil }
        case Methods.createPool.member, Methods.openPool.member:
            if let opened = try? reply.decode(PoolReply.self) { pools.insert(opened.pool.poolId) }
        case Methods.destroyPool.member:
            // Objects of it cannot have been pinned.
            if let id = (parameters as? PoolAddress)?.poolId { pools.remove(id) }
        default: break
        }
    }
}
