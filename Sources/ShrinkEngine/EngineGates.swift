import Logging
public import ShrinkLinux
import ShrinkProtocol
import SystemPackage

// Pinning without a call: what a gate is, and which orders make it safe, is written down at `GateWord` (ShrinkProtocol).
//
// An object's gates are open or closed together, and open only while the object is whole in its pool: no page out, none noted as zero, content
// not given up. `BufferObject.areGatesOpen` is this engine's own note of it; words are never asked whether they are closed.

/// What a client needs to use an object's gate.
public struct GateAttachment: Sendable, Equatable {
    /// The word's place in the client's gate memory.
    public var gate: UInt32
    public var gateGeneration: UInt32
    /// The content's generation now; another one in the word means that the content was given up in between.
    public var purgeGeneration: UInt32
}

extension Engine {
    /// Gates for one client. `owner` is the uid that it acts for.
    public func addGateClient(owner: UInt32) throws(EngineError) -> GateClientID {
        let (id, region, directory) = try state.withLock { state throws(EngineError) in
            try state.checkRunning()
            if let limit = limits(of: owner)?.gateClients {
                let count = state.gates.clients.values.count { $0.owner == owner }
                if count >= limit {
                    throw EngineError(
                        .limitReached, "uid \(owner) has \(count) clients with gates, which is its limit; close one, or share a connection")
                }
            }
            if state.gates.directory == nil { state.gates.directory = try GateDirectory() }
            guard let directory = state.gates.directory, let region = state.gates.takeRegion() else {
                throw EngineError(.limitReached, "there are \(EngineLimits.gateClients) clients with gates already; close a connection")
            }
            return (state.gates.makeID(), region, directory)
        }
        do throws(EngineError) {
            let client = try GateClient(id, owner: owner, region: region, directory: directory)
            state.withLock { $0.gates.clients[id.rawValue] = client }
            return id
        } catch {
            state.withLock { $0.gates.giveBackRegion(region) }
            throw error
        }
    }

    /// A duplicate of a client's gate memory, to pass to that client and nobody else. Its size is sealed.
    public func gateDescriptor(_ client: GateClientID) throws(EngineError) -> OwnedDescriptor {
        let file = try gateClient(client).file
        do throws(Errno) { return try file.duplicate() } catch {
            throw EngineError(.limitReached, "no descriptor left to pass the gates on; raise LimitNOFILE", errno: error)
        }
    }

    /// A client is gone, perhaps with objects pinned: its words, and only its, are dropped.
    public func removeGateClient(_ id: GateClientID) {
        state.withLock { state in
            // The words say that the engine has ended, and must go on saying so.
            if state.gates.haveEnded { return }
            guard let client = state.gates.clients.removeValue(forKey: id.rawValue) else { return }
            for object in Array(client.gates.keys) {
                if let slot = state.objects.slot(of: ObjectID(rawValue: object)) { state.dropGate(slot, of: client) }
            }
            client.end()
            state.gates.giveBackRegion(client.region)
        }
        leases.end(id)
    }

    /// Gives a client a gate of an object; one that it has already is told again. `pins` of the object that the caller made with `pin` become pins of
    /// the gate.
    public func attachGate(_ id: ObjectID, client: GateClientID, takingOver pins: Int = 0) throws(EngineError) -> GateAttachment {
        let slot = try reserve(id)
        defer { release(slot) }
        let entry = try state.withLock { state throws(EngineError) -> GateTable.Entry in
            guard let holder = state.gates.clients[client.rawValue] else { throw EngineError(.noSuchObject, "there is no \(client)") }
            if let (_, entry) = state.gate(slot, of: client) { return entry }
            guard let gate = holder.take(for: id.rawValue, purgeGeneration: state.objects[slot].purgeGeneration) else {
                throw EngineError(
                    .limitReached, "this client has \(GateMemoryLayout.gateCount - 1) gates; detach some, or use a second connection")
            }
            let entry = state.linkGate(slot, gate, of: holder)
            // Its word was made closed; those of the others may be open, and then all have to be.
            if state.objects[slot].areGatesOpen { _ = state.addPins(0, slot, entry) }
            return entry
        }
        openGatesIfWhole(slot)
        return try state.withLock { state throws(EngineError) in
            let taken = min(pins, Int(state.objects[slot].pinCount))
            if taken > 0 {
                try state.checkStays(slot)
                guard state.addPins(taken, slot, entry) else {
                    throw EngineError(.limitReached, "\(id) has \(GateWord.pinLimit) pins of one client; unpin some first")
                }
                state.dropPins(taken, slot)
            }
            return GateAttachment(
                gate: entry.gate, gateGeneration: entry.generation,
                purgeGeneration: state.objects[slot].purgeGeneration % GateWord.generations)
        }
    }

    /// Takes a client's gate of an object away, pins and all.
    public func detachGate(_ id: ObjectID, client: GateClientID) throws(EngineError) {
        try state.withLock { state throws(EngineError) in
            let slot = try state.slot(id)
            guard let holder = state.gates.clients[client.rawValue], state.gate(slot, of: client) != nil else {
                throw EngineError(.notPinned, "\(client) has no gate of \(id)")
            }
            state.dropGate(slot, of: holder)
        }
    }

    /// What a client asks for whose gate is closed: brings the object's pages back, opens its gates, and adds a pin to this client's word.
    ///
    /// A cancellation ends the waits and stops the copying at the next run; what came back stays, and nothing is pinned.
    @discardableResult
    public func pinGate(_ id: ObjectID, client: GateClientID, cancellation: Cancellation? = nil) throws(EngineError) -> PinAnswer {
        var mayAsk = true
        while true {
            if let answer = try pinGateIfResident(id, client, cancellation) { return answer }
            try bringBack(id, mayAskForLeases: &mayAsk, cancellation)
        }
    }

    /// Nil if pages are in the backup, or huge ones are wanting.
    private func pinGateIfResident(_ id: ObjectID, _ client: GateClientID, _ cancellation: Cancellation?) throws(EngineError) -> PinAnswer?
    {
        let slot = try reserve(id, cancellation: cancellation)
        defer { release(slot) }
        guard state.withLock({ $0.gate(slot, of: client) }) != nil else {
            throw EngineError(.notPinned, "\(client) has no gate of \(id); attach one first")
        }
        try clearIfLost(slot)
        guard openGatesIfWhole(slot) else { return nil }
        return try state.withLock { state throws(EngineError) in
            try state.checkStays(slot)
            // Whoever destroys it closed its gates without waiting for the reservation.
            guard let (_, entry) = state.gate(slot, of: client), state.objects[slot].areGatesOpen, state.addPins(1, slot, entry) else {
                throw EngineError(.limitReached, "\(id) can't be pinned by \(client): its gate is gone, or has all pins it can have")
            }
            state.bump(slot)
            defer { state.objects[slot].isLossUntold = false }
            return PinAnswer(
                retained: !state.objects[slot].isLossUntold, purgeGeneration: state.objects[slot].purgeGeneration % GateWord.generations)
        }
    }

    /// Opens the gates of an object whose reservation is held if all of it is in the pool; false if it is not.
    @discardableResult
    func openGatesIfWhole(_ slot: UInt32) -> Bool {
        let object = state.withLock { $0.objects[slot] }
        guard object.backedUpPages == 0, object.content == .kept || object.content == .purgeable else { return false }
        // A pin without a call must not find a hole that there is no huge page for.
        guard isPopulated(slot) else { return false }
        guard object.firstGate != GateTable.none, !object.areGatesOpen else { return true }
        forgetZeroWords(slot)
        state.withLock { state in
            // From now on it may be written without a call, so it belongs on a list.
            state.change(slot) { $0.isExhausted = false }
            state.openGates(slot)
        }
        return true
    }

    /// After a shrink that changed nothing: opens what it closed.
    func reopenGatesIfUntouched(_ slot: UInt32) {
        guard isPopulated(slot) else { return }
        state.withLock { state in
            let object = state.objects[slot]
            guard object.backedUpPages + object.zeroPages + object.purgedPages == 0, !object.isExhausted,
                object.content == .kept || object.content == .purgeable
            else { return }
            state.openGates(slot)
        }
    }

    /// The engine ends for good: from now on every pin through a gate fails, and its client can tell why.
    public func endGates() {
        state.withLock { state in
            state.gates.haveEnded = true
            for client in state.gates.clients.values {
                for gate in client.gates.values { GateTable.end(client.word(gate)) }
            }
        }
    }

    private func gateClient(_ id: GateClientID) throws(EngineError) -> GateClient {
        guard let client = state.withLock({ $0.gates.clients[id.rawValue] }) else {
            throw EngineError(.noSuchObject, "there is no \(id)")
        }
        return client
    }

    // MARK: A later engine

    /// What the gates are made of, to be kept by whoever outlives this process: one file for all, and one of each client. Nil without clients.
    public func persistentGates() -> PersistentGates? {
        state.withLock { state in
            guard let directory = state.gates.directory, !state.gates.clients.isEmpty else { return nil }
            return PersistentGates(
                directory: directory.descriptor, clients: state.gates.clients.values.sorted { $0.id < $1.id }.map { ($0.id, $0.file) })
        }
    }

    /// Takes over the gates of an engine that is gone; after all of its pools, and before any client is added. Pins in the words hold on. Gates of objects
    /// that are not there any more, and clients that the directory does not know, are left out; returns the clients that are in.
    public func adoptGates(
        directory file: consuming OwnedDescriptor, clients: [(id: GateClientID, file: SharedDescriptor)]
    ) throws(EngineError) -> [GateClientID] {
        let directory = try GateDirectory(reopening: file)
        let regions = try Self.regions(of: directory)
        var adopted: [GateClient] = []
        for (id, file) in clients {
            guard let region = regions[id.rawValue] else { continue }
            let own: OwnedDescriptor
            do throws(Errno) { own = try file.duplicate() } catch {
                throw EngineError(.limitReached, "no descriptor left for the gates of \(id); raise LimitNOFILE", errno: error)
            }
            if let client = try GateClient(adopting: own, id, region: region, directory: directory) { adopted.append(client) }
        }
        return state.withLock { [adopted] state in
            state.gates.directory = directory
            state.gates.adopted(highestClient: adopted.map(\.id.rawValue).max() ?? 0, regions: Set(adopted.map(\.region)))
            for client in adopted {
                state.gates.clients[client.id.rawValue] = client
                for (object, gate) in client.gates.sorted(by: { $0.key < $1.key }) {
                    guard let slot = state.objects.slot(of: ObjectID(rawValue: object)) else {
                        client.giveBack(gate)
                        continue
                    }
                    let entry = state.linkGate(slot, gate, of: client)
                    state.adopt(entry, slot)
                }
            }
            return adopted.map(\.id)
        }
    }

    /// Which region is whose.
    private static func regions(of directory: GateDirectory) throws(EngineError) -> [UInt32: UInt32] {
        var regions: [UInt32: UInt32] = [:]
        var header: UInt32 = 0
        for region in 0..<UInt32(GateDirectory.regions) {
            do throws(Errno) {
                let offset = Int(region) * GateDirectory.regionBytes
                // A hole is read as zeros without being allocated.
                let count = try withUnsafeMutableBytesTyped(of: &header) { (bytes) throws(Errno) in
                    try Files.read(directory.descriptor.number, into: bytes, at: offset)
                }
                if count == 4, header != 0 { regions[header] = region }
            } catch {
                throw EngineError(.system, "the directory of gates can't be read", errno: error)
            }
        }
        return regions
    }
}

/// The memory files of all gates.
public struct PersistentGates: Sendable {
    public var directory: SharedDescriptor
    public var clients: [(id: GateClientID, file: SharedDescriptor)]
}

private func withUnsafeMutableBytesTyped<R>(
    of value: inout UInt32, _ body: (UnsafeMutableRawBufferPointer) throws(Errno) -> R
) throws(Errno) -> R {
    let result = withUnsafeMutableBytes(of: &value) { bytes -> Result<R, Errno> in
        do throws(Errno) { return .success(try body(bytes)) } catch { return .failure(error) }
    }
    return try result.get()
}

extension EngineState {
    /// A word of an engine that is gone: one of a whole object is open, with the pins that its client has; every other is closed.
    fileprivate mutating func adopt(_ entry: GateTable.Entry, _ slot: UInt32) {
        let object = objects[slot]
        let isWhole =
            object.backedUpPages + object.zeroPages + object.purgedPages == 0 && !object.isExhausted
            && (object.content == .kept || object.content == .purgeable)
        if isWhole {
            objects[slot].areGatesOpen = true
            _ = addPins(0, slot, entry)
        } else if let word = entry.word {
            _ = AtomicMemory.exchange(
                word, GateWord(gateGeneration: entry.generation, purgeGeneration: object.purgeGeneration, isClosed: true).rawValue)
        }
    }

    /// Takes back pins that were made with `pin`.
    mutating func dropPins(_ pins: Int, _ slot: UInt32) {
        change(slot) { $0.pinCount -= UInt32(pins) }
        if objects[slot].pinCount == 0 {
            pool(of: slot).pinnedObjects -= 1
            bump(slot)
        }
    }
}
