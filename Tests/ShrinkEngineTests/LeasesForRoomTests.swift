import ShrinkClient
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import TestSupport
import Testing

@testable import ShrinkEngine

/// Leased memory is asked for by whoever may wait for the answer: pressure, and who brings an object back and finds no room.
@Suite(.serialized) struct LeasesForRoomTests {
    /// Room for `limitPages`; an object that is out, and a leased one that takes the room.
    private struct Scene {
        let fixture: EngineFixture
        let out: ObjectInfo
        let leased: ObjectInfo
        let user: GateUser
        let gate: Gate
        var engine: Engine { fixture.engine }

        init(milliseconds: UInt64 = 60_000, pages: Int = 32) throws {
            fixture = try EngineFixture { configuration in
                configuration.maximumResident = ByteCount(pages * basePageSize)
                configuration.revocationMilliseconds = milliseconds
            }
            out = try fixture.makeObject(pages: pages, zeroEvery: 0)
            guard fixture.engine.shrink(.all).failure == nil else { throw Errno.ioError }
            leased = try fixture.makeObject(pages: pages, zeroEvery: 0)
            user = try GateUser(fixture.engine)
            gate = user.gate(try fixture.engine.attachGate(leased.id, client: user.id))
            guard gate.pin() != nil else { throw Errno.ioError }
            try fixture.engine.setLease(leased.id, true)
        }
    }

    enum Wish: CaseIterable { case pin, gate, recover }

    @Test(arguments: Wish.allCases) func whoBringsAnObjectBackAsks(_ wish: Wish) throws {
        let scene = try Scene()
        let engine = scene.engine
        let asked = Monitor(0)
        let (gate, out) = (scene.gate, scene.out.id)
        let listener = Listener(engine, scene.user.id) { _ in
            asked.withLock { $0 += 1 }
            // Whoever is asked may use the engine meanwhile: the one who waits holds nothing that this needs.
            _ = try? engine.object(out)
            return gate.unpin()
        }
        switch wish {
        case .pin: try engine.pin(scene.out.id)
        case .gate:
            let other = try GateUser(engine)
            _ = try engine.attachGate(scene.out.id, client: other.id)
            try engine.pinGate(scene.out.id, client: other.id)
        case .recover: #expect(engine.recover(.object(scene.out.id)).recoveredPages == 32)
        }
        #expect(asked.withLock { $0 } == 1)
        #expect(try engine.object(scene.out.id).pages.resident == 32 && engine.object(scene.leased.id).pages.backedUp == 32)
        for object in [scene.out, scene.leased] { #expect(try scene.fixture.mismatches(object, zeroEvery: 0) == []) }
        withExtendedLifetime(listener) {}
        #expect(engine.brokenInvariants() == [])
    }

    /// The answer is waited for until the deadline, and the error is the one it would have been.
    @Test func whoDoesNotAnswerKeepsItAndThePinFails() throws {
        let scene = try Scene(milliseconds: 100)
        let engine = scene.engine
        let listener = Listener(engine, scene.user.id) { _ in false }
        do throws(EngineError) {
            try engine.pin(scene.out.id)
            Issue.record("there is no room")
        } catch { #expect(error.code == .outOfMemory) }
        let recovered = engine.recover(.all)
        #expect(recovered.failure?.code == .outOfMemory && recovered.recoveredPages == 0)
        #expect(engine.leaseCounters().revocations == 1 && engine.leaseCounters().unanswered >= 1)
        #expect(try engine.object(scene.leased.id).pages.resident == 32)
        #expect(scene.gate.pins == 1)
        withExtendedLifetime(listener) {}
        #expect(engine.brokenInvariants() == [])
    }

    /// What is there without asking is taken first; a caller who may not wait never asks.
    @Test func pressureAsksForWhatIsShort() throws {
        let scene = try Scene(pages: 64)
        let engine = scene.engine
        let asked = Monitor(0)
        let gate = scene.gate
        let listener = Listener(engine, scene.user.id) { _ in
            asked.withLock { $0 += 1 }
            return gate.unpin()
        }
        #expect(engine.shrinker.scan(goalPages: 64, .direct) == .stop, "all there is is pinned, and who is in a hurry does not wait")
        #expect(asked.withLock { $0 } == 0)
        guard case .scanned(let result) = engine.shrinker.scan(goalPages: 64, .background) else {
            Issue.record("nothing was done")
            return
        }
        #expect(result.revokedLeases == 1 && result.freedBytes.rawValue == 64 * basePageSize)
        #expect(asked.withLock { $0 } == 1)
        #expect(try scene.fixture.mismatches(scene.leased, zeroEvery: 0) == [])
        // Enough is there: nobody is asked.
        #expect(try engine.pinGate(scene.leased.id, client: scene.user.id).retained)
        withExtendedLifetime(listener) {}
        #expect(engine.brokenInvariants() == [])
    }

    /// Four callers at once, as many as there are buffers: each waits without what another one needs.
    @Test func manyWhoAskDoNotStandInEachOthersWay() throws {
        let scene = try Scene()
        let engine = scene.engine
        let (gate, out) = (scene.gate, scene.out.id)
        let listener = Listener(engine, scene.user.id) { _ in gate.unpin() }
        let ended = Monitor(0)
        try withDedicatedThreads { threads in
            for i in 0..<6 {
                threads.start("caller-\(i)") {
                    if i % 2 == 0 { _ = engine.recover(.object(out)) } else { _ = try? engine.pin(out) }
                    ended.withLock { $0 += 1 }
                    ended.notifyAll()
                }
            }
            #expect(ended.wait(deadline: .now().advanced(milliseconds: 120_000)) { $0 == 6 ? true : nil } == true)
        }
        #expect(try engine.object(scene.out.id).pages.resident == 32)
        withExtendedLifetime(listener) {}
        #expect(engine.brokenInvariants() == [])
    }
}
