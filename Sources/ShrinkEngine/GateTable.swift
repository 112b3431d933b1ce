import ShrinkLinux
import ShrinkProtocol

/// The gates of all objects, chained per object, so that closing an object's gates touches nothing else.
///
/// Words are memory that clients write: whatever stands there, an operation takes a bounded number of steps and changes no other word.
struct GateTable: ~Copyable {
    struct Entry: BitwiseCopyable {
        var word: UnsafeMutablePointer<UInt64>?
        var client: UInt32 = 0
        var gate: UInt32 = 0
        var generation: UInt32 = 0
        /// The next gate of the same object, or of the free chain.
        var next = GateTable.none
    }

    static let none = UInt32.max
    /// A client that changes its word all the time has the object in use.
    static let attempts = 64

    var entries = Slab<Entry>(repeating: Entry())
    private var firstFree = Self.none
    var clients: [UInt32: GateClient] = [:]
    var directory: GateDirectory?
    /// The engine ends: no gate is opened again.
    var haveEnded = false
    private var freeRegions: [UInt32] = []
    private var nextRegion: UInt32 = 0
    private var nextClient: UInt32 = 1

    mutating func takeRegion() -> UInt32? {
        if let free = freeRegions.popLast() { return free }
        guard nextRegion < GateDirectory.regions else { return nil }
        defer { nextRegion += 1 }
        return nextRegion
    }

    mutating func giveBackRegion(_ region: UInt32) { freeRegions.append(region) }

    mutating func makeID() -> GateClientID {
        defer { nextClient += 1 }
        return GateClientID(rawValue: nextClient)
    }

    /// Regions and ids of clients that were taken over are in use.
    mutating func adopted(highestClient: UInt32, regions: Set<UInt32>) {
        nextClient = max(nextClient, highestClient + 1)
        nextRegion = (regions.max() ?? 0) + 1
        freeRegions = (0..<nextRegion).filter { !regions.contains($0) }
    }

    mutating func makeEntry(_ entry: Entry) -> UInt32 {
        let index: UInt32
        if firstFree != Self.none {
            index = firstFree
            firstFree = entries[index].next
        } else {
            index = UInt32(entries.count)
            entries.grow(to: entries.count + 1)
        }
        entries[index] = entry
        return index
    }

    mutating func freeEntry(_ index: UInt32) {
        entries[index] = Entry()
        entries[index].next = firstFree
        firstFree = index
    }

    /// Closes one word unless it is pinned.
    static func close(_ word: UnsafeMutablePointer<UInt64>) -> Bool {
        var seen = AtomicMemory.load(word)
        for _ in 0..<attempts {
            guard let closed = GateWord(rawValue: seen).closed() else { return false }
            if AtomicMemory.replace(word, &seen, with: closed.rawValue) { return true }
        }
        return false
    }

    /// Closes one word for good, pinned or not.
    static func end(_ word: UnsafeMutablePointer<UInt64>) {
        var seen = AtomicMemory.load(word)
        for _ in 0..<attempts {
            if AtomicMemory.replace(word, &seen, with: GateWord(rawValue: seen).ended().rawValue) { return }
        }
        // A client that changes its word all the time loses its pins.
        _ = AtomicMemory.exchange(word, GateWord(gateGeneration: 0, purgeGeneration: 0, isClosed: true).ended().rawValue)
    }

    /// Clears the used bit of one word; true if it was set.
    static func takeUsed(_ word: UnsafeMutablePointer<UInt64>) -> Bool {
        var seen = AtomicMemory.load(word)
        for _ in 0..<attempts {
            var gate = GateWord(rawValue: seen)
            guard gate.isUsed else { return false }
            gate.clearUsed()
            if AtomicMemory.replace(word, &seen, with: gate.rawValue) { return true }
        }
        return true
    }
}

extension EngineState {
    /// Closes the gates of all clients of an object; false, and all as it was, if one of them is pinned. Nothing to do for an object without
    /// gates, or whose gates this engine closed already: what their words say then does not matter.
    mutating func closeGates(_ slot: UInt32) -> Bool {
        guard objects[slot].areGatesOpen else { return true }
        var index = objects[slot].firstGate
        while index != GateTable.none {
            let entry = gates.entries[index]
            if let word = entry.word, !GateTable.close(word) {
                reopenGates(slot, before: index)
                return false
            }
            index = entry.next
        }
        objects[slot].areGatesOpen = false
        return true
    }

    /// Closes an object's gates for good, of whatever client: it is destroyed. False, and all as it was, if a client other than `client` has it pinned.
    mutating func closeGatesForEnd(_ slot: UInt32, of client: GateClientID?) -> Bool {
        guard let client, let (_, own) = gate(slot, of: client), let word = own.word else { return closeGates(slot) }
        let before = AtomicMemory.exchange(
            word, GateWord(gateGeneration: own.generation, purgeGeneration: objects[slot].purgeGeneration, isClosed: true).rawValue)
        if closeGates(slot) { return true }
        _ = AtomicMemory.exchange(word, before)
        return false
    }

    private mutating func reopenGates(_ slot: UInt32, before end: UInt32) {
        var index = objects[slot].firstGate
        while index != end {
            let entry = gates.entries[index]
            open(entry, objects[slot].purgeGeneration, pins: 0, isUsed: true)
            index = entry.next
        }
    }

    private func open(_ entry: GateTable.Entry, _ purgeGeneration: UInt32, pins: Int, isUsed: Bool) {
        guard let word = entry.word else { return }
        let open = GateWord(
            gateGeneration: entry.generation, purgeGeneration: purgeGeneration, pins: pins, isClosed: false, isUsed: isUsed)
        _ = AtomicMemory.exchange(word, open.rawValue)
    }

    /// Opens the gates of an object that is whole in its pool, zero words forgotten, and whose reservation is held. Those of a pool that is being destroyed
    /// stay closed.
    mutating func openGates(_ slot: UInt32) {
        let object = objects[slot]
        guard object.firstGate != GateTable.none, !object.areGatesOpen, object.life == .live, !gates.haveEnded, !pool(of: slot).isDying
        else {
            return
        }
        assert(object.backedUpPages + object.zeroPages + object.purgedPages == 0, "a gate opens before an object that is not whole")
        objects[slot].areGatesOpen = true
        var index = object.firstGate
        while index != GateTable.none {
            let entry = gates.entries[index]
            open(entry, object.purgeGeneration, pins: 0, isUsed: false)
            index = entry.next
        }
    }

    /// Adds pins to one client's word of an object whose gates are open. False if it has all it can have.
    func addPins(_ pins: Int, _ slot: UInt32, _ entry: GateTable.Entry) -> Bool {
        guard let word = entry.word else { return false }
        let purgeGeneration = objects[slot].purgeGeneration
        var seen = AtomicMemory.load(word)
        for _ in 0..<GateTable.attempts {
            let gate = GateWord(rawValue: seen)
            // A word that is not as it was made was written over by its client: it gets a new one.
            let isSound = !gate.isClosed && gate.gateGeneration == entry.generation && gate.purgeGeneration == purgeGeneration
            let before = isSound ? gate.pins : 0
            guard before + pins <= GateWord.pinLimit else { return false }
            let after = GateWord(
                gateGeneration: entry.generation, purgeGeneration: purgeGeneration, pins: before + pins, isClosed: false, isUsed: true)
            if AtomicMemory.replace(word, &seen, with: after.rawValue) { return true }
        }
        return false
    }

    /// Whether a client used the object through its gate since this was last asked.
    mutating func takeUsed(_ slot: UInt32) -> Bool {
        guard objects[slot].areGatesOpen else { return false }
        var isUsed = false
        var index = objects[slot].firstGate
        while index != GateTable.none {
            let entry = gates.entries[index]
            if let word = entry.word, GateTable.takeUsed(word) { isUsed = true }
            index = entry.next
        }
        return isUsed
    }

    /// Pins that the gates' words tell of: a figure to show, never a fact.
    func gatePins(_ slot: UInt32) -> Int {
        guard objects[slot].areGatesOpen else { return 0 }
        var pins = 0
        var index = objects[slot].firstGate
        while index != GateTable.none {
            let entry = gates.entries[index]
            if let word = entry.word { pins += GateWord(rawValue: AtomicMemory.load(word)).pins }
            index = entry.next
        }
        return pins
    }

    /// Clients whose words say that they have the object pinned.
    func gateHolders(_ slot: UInt32) -> [GateClientID] {
        guard objects[slot].areGatesOpen else { return [] }
        var holders: [GateClientID] = []
        var index = objects[slot].firstGate
        while index != GateTable.none {
            let entry = gates.entries[index]
            if let word = entry.word, GateWord(rawValue: AtomicMemory.load(word)).pins > 0 {
                holders.append(GateClientID(rawValue: entry.client))
            }
            index = entry.next
        }
        return holders
    }

    // MARK: Chains

    func gate(_ slot: UInt32, of client: GateClientID) -> (index: UInt32, entry: GateTable.Entry)? {
        var index = objects[slot].firstGate
        while index != GateTable.none {
            let entry = gates.entries[index]
            if entry.client == client.rawValue { return (index, entry) }
            index = entry.next
        }
        return nil
    }

    mutating func linkGate(_ slot: UInt32, _ gate: UInt32, of client: GateClient) -> GateTable.Entry {
        let entry = GateTable.Entry(
            word: client.word(gate), client: client.id.rawValue, gate: gate, generation: client.generation(gate),
            next: objects[slot].firstGate)
        objects[slot].firstGate = gates.makeEntry(entry)
        return entry
    }

    /// Takes one client's gate off an object.
    mutating func dropGate(_ slot: UInt32, of client: GateClient) {
        var previous = GateTable.none
        var index = objects[slot].firstGate
        while index != GateTable.none {
            let entry = gates.entries[index]
            if entry.client == client.id.rawValue {
                if previous == GateTable.none {
                    objects[slot].firstGate = entry.next
                } else {
                    gates.entries[previous].next = entry.next
                }
                client.giveBack(entry.gate)
                gates.freeEntry(index)
                break
            }
            previous = index
            index = entry.next
        }
        if objects[slot].firstGate == GateTable.none { objects[slot].areGatesOpen = false }
    }

    /// Takes all gates off an object that goes.
    mutating func dropGates(_ slot: UInt32) {
        while case let index = objects[slot].firstGate, index != GateTable.none {
            let entry = gates.entries[index]
            objects[slot].firstGate = entry.next
            gates.clients[entry.client]?.giveBack(entry.gate)
            gates.freeEntry(index)
        }
        objects[slot].areGatesOpen = false
    }
}
