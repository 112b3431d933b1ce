import ShrinkClient
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import TestSupport
import Testing

@testable import ShrinkEngine

/// A client's end of its gates, mapped as a client maps them.
final class GateUser: Sendable {
    let id: GateClientID
    let memory: MappedMemory

    init(_ engine: Engine, owner: UInt32 = 0) throws {
        id = try engine.addGateClient(owner: owner)
        let file = try engine.gateDescriptor(id)
        memory = try MappedMemory(sharing: file.number, count: GateMemoryLayout.sizeBytes)
    }

    func gate(_ attachment: GateAttachment) -> Gate {
        Gate(word: memory.base.assumingMemoryBound(to: UInt64.self) + Int(attachment.gate), generation: attachment.gateGeneration)
    }

    func word(_ attachment: GateAttachment) -> GateWord {
        GateWord(rawValue: AtomicMemory.load(memory.base.assumingMemoryBound(to: UInt64.self) + Int(attachment.gate)))
    }
}

@Suite struct GateTests {
    @Test func aResidentObjectIsPinnedWithoutTheEngine() throws {
        let fixture = try EngineFixture()
        let engine = fixture.engine
        let object = try fixture.makeObject(pages: 8)
        let user = try GateUser(engine)
        let attachment = try engine.attachGate(object.id, client: user.id)
        let gate = user.gate(attachment)
        let pinned = try #require(gate.pin())
        #expect(pinned.pins == 1 && pinned.isUsed && pinned.purgeGeneration == 0)
        #expect(gate.pin()?.pins == 2)
        #expect(try engine.object(object.id).pinCount == 2)
        #expect(engine.shrink(.object(object.id)).failure?.code == .busy)
        let all = engine.shrink(.all)
        #expect(all.freedBytes == .zero && all.skippedObjects == 1 && all.failure == nil)
        #expect(gate.unpin() && gate.unpin())
        #expect(!gate.unpin(), "unpin without a pin")
        #expect(user.word(attachment).pins == 0)
        #expect(engine.shrink(.object(object.id)).failure == nil)
        #expect(gate.pin() == nil, "the gate of an object that is out is closed")
        #expect(!gate.unpin())
        #expect(try engine.pinGate(object.id, client: user.id).retained)
        #expect(gate.pins == 1)
        #expect(try fixture.mismatches(object) == [])
        #expect(try engine.object(object.id).pages.zero == 0, "opening turns zero into resident")
        #expect(gate.unpin())
        #expect(engine.brokenInvariants() == [])
        #expect(try engine.destroyPool(fixture.pool) == ())
        #expect(gate.pin() == nil)
    }

    @Test func aPinThatAConnectionMadeMovesIntoItsGate() throws {
        let fixture = try EngineFixture()
        let engine = fixture.engine
        let object = try engine.createObject(in: fixture.pool, name: "born pinned", size: ByteCount(basePageSize))
        let user = try GateUser(engine)
        let attachment = try engine.attachGate(object.id, client: user.id, takingOver: 1)
        #expect(user.gate(attachment).pins == 1)
        #expect(try engine.object(object.id).pinCount == 1)
        #expect(user.gate(attachment).unpin())
        #expect(engine.shrink(.all).failure == nil)
        #expect(try engine.attachGate(object.id, client: user.id) == attachment, "attached once")
        #expect(engine.brokenInvariants() == [])
    }

    /// Whoever pins first has the content made zeros; everybody who had it before hears of it.
    @Test func everyClientHearsThatTheContentWasGivenUp() throws {
        let fixture = try EngineFixture()
        let engine = fixture.engine
        let object = try fixture.makeObject(pages: 4)
        try engine.setPurgeable(object.id, true)
        let (first, second) = (try GateUser(engine), try GateUser(engine))
        let (a, b) = (try engine.attachGate(object.id, client: first.id), try engine.attachGate(object.id, client: second.id))
        #expect(first.gate(a).pin()?.purgeGeneration == a.purgeGeneration)
        #expect(first.gate(a).unpin())
        #expect(engine.shrink(.object(object.id)).purgedPages > 0)
        #expect(first.gate(a).pin() == nil && second.gate(b).pin() == nil)
        let answer = try engine.pinGate(object.id, client: first.id)
        #expect(!answer.retained && answer.purgeGeneration == a.purgeGeneration + 1)
        // The second one's gate is open now; its word tells.
        #expect(second.gate(b).pin()?.purgeGeneration == b.purgeGeneration + 1)
        #expect(try engine.object(object.id).pinCount == 2)
        #expect(engine.brokenInvariants() == [])
    }

    @Test func aClientsEndDropsItsWordsOnly() throws {
        let fixture = try EngineFixture()
        let engine = fixture.engine
        let object = try fixture.makeObject(pages: 4)
        let (dying, living) = (try GateUser(engine), try GateUser(engine))
        let (a, b) = (try engine.attachGate(object.id, client: dying.id), try engine.attachGate(object.id, client: living.id))
        #expect(dying.gate(a).pin() != nil && living.gate(b).pin() != nil)
        engine.removeGateClient(dying.id)
        #expect(engine.shrink(.object(object.id)).failure?.code == .busy, "the other one still has it")
        #expect(living.gate(b).pins == 1)
        #expect(dying.gate(a).pin() == nil)
        #expect(living.gate(b).unpin())
        #expect(engine.shrink(.object(object.id)).failure == nil)
        #expect(throws: EngineError.self) { try engine.pinGate(object.id, client: dying.id) }
        #expect(engine.brokenInvariants() == [])
    }

    @Test func aGateThatWentToAnotherObjectIsOfNoUse() throws {
        let fixture = try EngineFixture()
        let engine = fixture.engine
        let user = try GateUser(engine)
        let gone = try fixture.makeObject(pages: 1)
        let old = try engine.attachGate(gone.id, client: user.id)
        let stale = user.gate(old)
        #expect(stale.pin() != nil)
        let other = try GateUser(engine)
        let others = try engine.attachGate(gone.id, client: other.id)
        #expect(other.gate(others).pin() != nil)
        #expect(throws: EngineError.self) { try engine.destroyObject(gone.id, gates: user.id) }
        #expect(stale.pins == 1 && other.gate(others).pins == 1, "a refused destroy leaves the pins")
        #expect(other.gate(others).unpin())
        try engine.destroyObject(gone.id, gates: user.id)
        let next = try fixture.makeObject(pages: 1)
        let new = try engine.attachGate(next.id, client: user.id)
        #expect(new.gate == old.gate && new.gateGeneration != old.gateGeneration)
        #expect(stale.pin() == nil && !stale.unpin())
        #expect(user.gate(new).pin() != nil)
        try engine.detachGate(next.id, client: user.id)
        #expect(user.gate(new).pin() == nil)
        #expect(engine.shrink(.object(next.id)).failure == nil)
        #expect(throws: EngineError.self) { try engine.detachGate(next.id, client: user.id) }
        #expect(engine.brokenInvariants() == [])
    }

    /// The used bit is the recency that the order of reclaim goes by.
    @Test func whatIsUsedThroughItsGateGoesLast() throws {
        let fixture = try EngineFixture()
        let engine = fixture.engine
        let user = try GateUser(engine)
        let objects = try (0..<8).map { _ in try fixture.makeObject(pages: 4, zeroEvery: 0) }
        let gates = try objects.map { user.gate(try engine.attachGate($0.id, client: user.id)) }
        // The oldest of the list are used now, without the engine's knowledge.
        for i in [0, 1, 2] { #expect(gates[i].pin() != nil && gates[i].unpin()) }
        #expect(engine.shrink(.bytes(ByteCount(5 * 4 * basePageSize))).failure == nil)
        let out = try objects.indices.filter { try engine.object(objects[$0].id).pages.backedUp > 0 }
        #expect(out == [3, 4, 5, 6, 7])
        // A second chance is one: who isn't used again goes.
        #expect(engine.shrink(.bytes(ByteCount(3 * 4 * basePageSize))).freedBytes.rawValue == 3 * 4 * basePageSize)
        #expect(engine.brokenInvariants() == [])
    }

    @Test func anotherEngineTakesTheGatesOver() throws {
        let fixture = try EngineFixture()
        let engine = fixture.engine
        let user = try GateUser(engine)
        let (pinned, out) = (try fixture.makeObject(pages: 4), try fixture.makeObject(pages: 4))
        let gone = try fixture.makeObject(pages: 1)
        let pinnedGate = user.gate(try engine.attachGate(pinned.id, client: user.id))
        let outGate = user.gate(try engine.attachGate(out.id, client: user.id))
        let goneGate = user.gate(try engine.attachGate(gone.id, client: user.id))
        #expect(pinnedGate.pin() != nil)
        try engine.destroyObject(gone.id, gates: user.id)
        #expect(engine.shrink(.object(out.id)).failure == nil)
        let kept = try engine.persistentDescriptors(of: fixture.pool)
        let gates = try #require(engine.persistentGates())
        #expect(gates.clients.map(\.id) == [user.id])

        let second = try Engine(backup: fixture.backup, logger: quiet)
        _ = try second.adoptPool(file: try kept.file.duplicate(), ledger: try kept.ledger.duplicate())
        #expect(try second.adoptGates(directory: try gates.directory.duplicate(), clients: gates.clients) == [user.id])
        #expect(pinnedGate.pins == 1, "a pin outlives the engine")
        #expect(second.shrink(.object(pinned.id)).failure?.code == .busy)
        #expect(pinnedGate.unpin())
        #expect(second.shrink(.object(pinned.id)).failure == nil)
        #expect(outGate.pin() == nil)
        #expect(try second.pinGate(out.id, client: user.id).retained)
        #expect(outGate.unpin())
        #expect(goneGate.pin() == nil)
        #expect(try fixture.mismatches(out, in: second) == [])
        let later = try second.addGateClient(owner: 0)
        #expect(later > user.id)
        second.removeGateClient(user.id)
        #expect(outGate.pin() == nil)
        #expect(second.brokenInvariants() == [])
    }
}
