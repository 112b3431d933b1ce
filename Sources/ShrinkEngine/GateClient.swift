import ShrinkLinux
import ShrinkProtocol
import SystemPackage

/// A client that has gates: usually one connection of the control socket. Not used again while the engine lives.
public struct GateClientID: RawRepresentable, Hashable, Comparable, Sendable, CustomStringConvertible {
    public let rawValue: UInt32
    public init(rawValue: UInt32) { self.rawValue = rawValue }
    public var description: String { "gate client \(rawValue)" }
    public static func < (a: GateClientID, b: GateClientID) -> Bool { a.rawValue < b.rawValue }
}

/// Which object each gate of each client stands for, in one memory file of the engine's own: the words themselves lie in memory that clients can
/// write, so nothing in them says whose they are. With the clients' files it is all that an engine needs to go on after another one's death.
///
///   region   512 KiB a client: row 0 is the client's id and owner, row i the object of gate i and the gate's generation
final class GateDirectory: Sendable {
    static let regions = EngineLimits.gateClients
    static let rowBytes = 8
    static let regionBytes = GateMemoryLayout.gateCount * rowBytes

    let descriptor: SharedDescriptor

    init() throws(EngineError) {
        do throws(Errno) {
            descriptor = SharedDescriptor(try MemoryFile.makeSealed("shrinkd-gates", size: Self.regions * Self.regionBytes))
        } catch {
            throw EngineError(.limitReached, "no memory file for the gates; raise LimitNOFILE", errno: error)
        }
    }

    init(reopening file: consuming OwnedDescriptor) throws(EngineError) {
        do throws(Errno) {
            guard try Files.status(file.number).sizeBytes == Self.regions * Self.regionBytes else { throw Errno.invalidArgument }
        } catch {
            throw EngineError(.foreignLedger, "the memory file is no directory of gates of this version", errno: error)
        }
        descriptor = SharedDescriptor(file)
    }

    func map(_ region: UInt32) throws(Errno) -> MappedMemory {
        try MappedMemory(sharing: descriptor.number, count: Self.regionBytes, offset: Int(region) * Self.regionBytes)
    }
}

/// One client's gates: the words it shares with the engine, and the engine's own rows beside them.
final class GateClient: @unchecked Sendable {
    // Sendable: what is mutable is touched under the engine's lock only; words are touched by atomic access.
    let id: GateClientID
    /// The uid that the client acts for.
    let owner: UInt32
    let region: UInt32
    let file: SharedDescriptor
    private let words: MappedMemory
    private let rows: MappedMemory
    private var freeGates: [UInt32] = []
    private var nextGate: UInt32 = 1
    /// Gates by object id.
    private(set) var gates: [UInt32: UInt32] = [:]

    init(_ id: GateClientID, owner: UInt32, region: UInt32, directory: GateDirectory) throws(EngineError) {
        self.id = id
        self.owner = owner
        self.region = region
        do throws(Errno) {
            let memory = try MemoryFile.makeSealed("shrinkd-gates-\(id.rawValue)", size: GateMemoryLayout.sizeBytes)
            words = try MappedMemory(sharing: memory.number, count: GateMemoryLayout.sizeBytes)
            rows = try directory.map(region)
            file = SharedDescriptor(memory)
        } catch {
            throw EngineError(.limitReached, "no memory for a client's gates; raise LimitNOFILE or free memory", errno: error)
        }
        // What an earlier client of the region left. Rows of free gates must not look taken.
        rows.base.initializeMemory(as: UInt8.self, repeating: 0, count: usedRowBytes)
        field(0, 4).pointee = owner
        field(0, 0).pointee = id.rawValue
    }

    /// The client of an engine that is gone, if the directory has it in that region.
    init?(
        adopting memory: consuming OwnedDescriptor, _ id: GateClientID, region: UInt32, directory: GateDirectory
    ) throws(EngineError) {
        do throws(Errno) {
            guard try Files.status(memory.number).sizeBytes == GateMemoryLayout.sizeBytes else { return nil }
            words = try MappedMemory(sharing: memory.number, count: GateMemoryLayout.sizeBytes)
            rows = try directory.map(region)
        } catch {
            throw EngineError(.foreignLedger, "the gates of \(id) can't be mapped", errno: error)
        }
        file = SharedDescriptor(memory)
        self.id = id
        self.region = region
        let header = rows.base.assumingMemoryBound(to: UInt32.self)
        owner = header[1]
        guard header[0] == id.rawValue else { return nil }
        for gate in 1..<UInt32(GateMemoryLayout.gateCount) where field(gate, 0).pointee != 0 {
            gates[field(gate, 0).pointee] = gate
            nextGate = gate + 1
        }
        freeGates = (1..<nextGate).filter { field($0, 0).pointee == 0 }
    }

    /// Rows that were ever used end before the first page of zeros; untouched pages are not allocated by looking for it with SEEK_DATA's like.
    private var usedRowBytes: Int {
        var end = 0
        while end < rows.count, !isZero(rows.base + end, basePageSize) { end += basePageSize }
        return end
    }

    private func field(_ gate: UInt32, _ offset: Int) -> UnsafeMutablePointer<UInt32> {
        (rows.base + Int(gate) * GateDirectory.rowBytes + offset).assumingMemoryBound(to: UInt32.self)
    }

    func word(_ gate: UInt32) -> UnsafeMutablePointer<UInt64> {
        words.base.assumingMemoryBound(to: UInt64.self) + Int(gate)
    }

    func generation(_ gate: UInt32) -> UInt32 { field(gate, 4).pointee }

    /// A gate for an object, its word closed. Nil if the client has all it can have.
    func take(for object: UInt32, purgeGeneration: UInt32) -> UInt32? {
        let gate: UInt32
        if let free = freeGates.popLast() {
            gate = free
        } else {
            guard nextGate < GateMemoryLayout.gateCount else { return nil }
            gate = nextGate
            nextGate += 1
        }
        // Never 0: a fresh word must not be taken for a gate.
        let generation = max(1, (field(gate, 4).pointee + 1) % GateWord.generations)
        _ = AtomicMemory.exchange(
            word(gate), GateWord(gateGeneration: generation, purgeGeneration: purgeGeneration, isClosed: true).rawValue)
        field(gate, 4).pointee = generation
        field(gate, 0).pointee = object
        gates[object] = gate
        return gate
    }

    /// The gate is nobody's: pins through it fail from now on.
    func giveBack(_ gate: UInt32) {
        gates[field(gate, 0).pointee] = nil
        field(gate, 0).pointee = 0
        _ = AtomicMemory.exchange(word(gate), GateWord(gateGeneration: 0, purgeGeneration: 0, isClosed: true).rawValue)
        freeGates.append(gate)
    }

    /// The region is nobody's.
    func end() { field(0, 0).pointee = 0 }
}
