import ShrinkClient
import ShrinkEngine
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import TestSupport
import Testing
import Varlink

/// Leases over the socket, as a program with a device uses them.
@Suite(.serialized) struct RevocationTests {
    @Test func aProgramIsAskedAndLetsGo() async throws {
        try await withControl { control in
            let client = try ShrinkdClient(path: control.path)
            let object = try client.pool("demo", sizeBytes: 1 << 20).makeObject("device", sizeBytes: 16_384, leased: true)
            object.unsafeBytes[0] = 9
            let told = Monitor<[LeaseRevocation]>([])
            try client.onRevocation { revocation in
                told.withLock { $0.append(revocation) }
                try? object.endAccess()
            }
            #expect(throws: ShrinkdError.self) { try client.onRevocation { _ in } }
            // By the program itself: the answer does not travel on the connection that waits.
            let result = try client.call(Methods.shrink, ShrinkParameters(.object(object.objectID)))
            #expect(result.revokedLeases == 1 && result.unansweredLeases == 0 && result.freedBytes > 0 && result.kernelFreedBytes != nil)
            #expect(told.withLock { $0.map(\.objectID) } == [object.objectID])
            try object.withAccess { bytes, retained in
                #expect(retained && bytes.bytes.unsafeLoad(as: UInt8.self) == 9)
            }
            let leases = try client.call(Methods.getLeases, NoParameters())
            #expect(leases == LeasesReply(leasedObjects: 1, revocations: 1, answered: 1, unanswered: 0))
            client.close()
            #expect(control.eventually { control.engine.gateClients.isEmpty })
        }
    }

    @Test func onlyTheOwnerOfTheGatesListens() async throws {
        try await withControl { control in
            let client = try control.client()
            #expect(client.refusal(Methods.waitForRevocation, WaitForRevocationParameters(gateClientId: 99)) == "NoSuchObject")
            #expect(
                client.refusal(Methods.waitForRevocation, WaitForRevocationParameters(gateClientId: 0)) == "InvalidParameter gateClientId")
            let foreign = try control.engine.addGateClient(owner: 12_345)
            if ThisProcess.userID != 0 {
                #expect(
                    client.refusal(Methods.waitForRevocation, WaitForRevocationParameters(gateClientId: Int(foreign.rawValue)))
                        == "NoSuchObject")
            }
        }
    }

    /// A listener whose connection ends is not waited for.
    @Test func aListenerThatVanishesIsForgotten() async throws {
        try await withControl { control in
            let client = try ShrinkdClient(path: control.path)
            let object = try client.pool("demo", sizeBytes: 1 << 20).makeObject("device", sizeBytes: 4096, leased: true)
            let gates = try client.call(Methods.mapGates, NoParameters()) { $0.gatesFileDescriptor }.reply.gateClientId
            let listener = try ShrinkdClient(path: control.path)
            let ended = Monitor(false)
            try DedicatedThread("listener") {
                _ = try? listener.call(Methods.waitForRevocation, WaitForRevocationParameters(gateClientId: gates))
                ended.withLock { $0 = true }
                ended.notifyAll()
            }.detach()
            #expect(control.eventually { control.engine.listensForRevocations(GateClientID(rawValue: UInt32(gates))) })
            listener.close()
            #expect(control.eventually { !control.engine.listensForRevocations(GateClientID(rawValue: UInt32(gates))) })
            ended.wait { $0 ? () : nil }
            #expect(throws: ShrinkdError.self) { try client.call(Methods.shrink, ShrinkParameters(.object(object.objectID))) }
            #expect(object.accessCount == 1)
        }
    }
}
