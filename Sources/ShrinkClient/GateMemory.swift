import ShrinkLinux
import ShrinkProtocol
import Synchronization
import SystemPackage

/// This client's gate memory, mapped, and which objects have a gate in it.
final class GateMemory: Sendable {
    private struct Attachments {
        /// Holders of each object's gate, by object id.
        var holders: [Int: Int] = [:]
        /// Objects whose last holder went; the daemon is told with the next call that attaches.
        var abandoned: [Int] = []
        /// The gate with the highest index so far.
        var highestGate = 0
    }

    let clientID: Int
    private let memory: MappedMemory
    private let attachments = Mutex(Attachments())

    init(_ opened: consuming DescriptorReply<MapGatesReply>) throws(ShrinkdError) {
        guard opened.reply.gateCount == GateMemoryLayout.gateCount else {
            throw ShrinkdError(.protocolViolation, "shrinkd's gates are of another version; update one of the two")
        }
        clientID = opened.reply.gateClientId
        do throws(Errno) {
            memory = try MappedMemory(sharing: opened.descriptor.number, count: GateMemoryLayout.sizeBytes)
            // A child that unpinned, when it cleans up for example, would take its parent's pins: better that it ends there and then.
            try memory.excludeFromForks()
        } catch {
            throw ShrinkdError(.system, "cannot map the gates: \(error)")
        }
    }

    /// The gate of an attachment; nil for a word beyond the memory.
    func gate(_ reply: AttachGateReply) -> Gate? {
        guard reply.gateIndex > 0, reply.gateIndex < GateMemoryLayout.gateCount, let generation = UInt32(exactly: reply.gateGeneration)
        else {
            return nil
        }
        attachments.withLock { $0.highestGate = max($0.highestGate, reply.gateIndex) }
        return Gate(word: memory.base.assumingMemoryBound(to: UInt64.self) + reply.gateIndex, generation: generation)
    }

    /// Nothing is pinned through these gates any more. The daemon drops them too, a little later, when it sees the connection's end.
    func close() {
        let words = memory.base.assumingMemoryBound(to: UInt64.self)
        for gate in 0...attachments.withLock({ $0.highestGate }) {
            var seen = AtomicMemory.loadRelaxed(words + gate)
            while !AtomicMemory.replace(words + gate, &seen, with: GateWord(gateGeneration: 0, purgeGeneration: 0, isClosed: true).rawValue)
            {}
        }
    }

    func hold(_ object: Int) { attachments.withLock { $0.holders[object, default: 0] += 1 } }

    func letGo(_ object: Int) {
        attachments.withLock { attachments in
            let left = (attachments.holders[object] ?? 1) - 1
            attachments.holders[object] = left > 0 ? left : nil
            if left == 0 { attachments.abandoned.append(object) }
        }
    }

    /// Objects to be detached now: nobody holds them, and from here on somebody may again.
    func takeAbandoned() -> [Int] {
        attachments.withLock { attachments in
            defer { attachments.abandoned = [] }
            return attachments.abandoned.filter { attachments.holders[$0] == nil }
        }
    }
}

/// A client's gate memory, mapped when it is first needed.
final class GateSession: Sendable {
    private let memory = Monitor<GateMemory?>(nil)

    /// Blocks for the first call.
    func memory(of client: ShrinkdClient) throws(ShrinkdError) -> GateMemory {
        try memory.withLock { (memory) throws(ShrinkdError) in
            if let memory { return memory }
            let made = try GateMemory(try client.call(Methods.mapGates, NoParameters()) { $0.gatesFileDescriptor })
            memory = made
            return made
        }
    }

    /// The client is closed.
    func close() { memory.withLock { $0 }?.close() }
}
