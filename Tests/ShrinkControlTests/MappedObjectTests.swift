import ShrinkClient
import ShrinkEngine
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import TestSupport
import Testing
import Varlink

/// The client library as a program uses it, against a served engine.
@Suite(.serialized) struct MappedObjectTests {
    @Test func anObjectIsFilledLeftToGoAndUsedAgain() async throws {
        try await withControl { control in
            let client = try ShrinkdClient(path: control.path)
            let pool = try client.pool("demo", sizeBytes: 1 << 20)
            let object = try pool.makeObject("o", sizeBytes: 10_000)
            #expect(object.accessCount == 1, "born accessed")
            object.unsafeBytes[9_999] = 7
            try object.endAccess()
            #expect(throws: ShrinkdError.self) { try object.endAccess() }
            try object.withAccess { bytes, retained in
                #expect(retained && bytes.byteCount == 10_000)
                #expect(bytes.bytes.unsafeLoad(fromByteOffset: 9_999, as: UInt8.self) == 7)
                bytes.storeBytes(of: 8, toByteOffset: 0, as: UInt8.self)
                #expect(object.accessCount == 1)
            }
            #expect(object.accessCount == 0)
            let shrunk = try client.call(Methods.shrink, ShrinkParameters(.object(object.objectID)))
            #expect(shrunk.backedUpPages == 2)
            #expect(object.beginAccessIfResident() == nil, "its pages are out")
            let sum = try object.withAccess { bytes, _ in
                bytes.bytes.unsafeLoad(fromByteOffset: 0, as: UInt8.self) + bytes.bytes.unsafeLoad(fromByteOffset: 9_999, as: UInt8.self)
            }
            #expect(sum == 15)
            #expect(object.beginAccessIfResident() == true)
            #expect(refusal { try client.call(Methods.shrink, ShrinkParameters(.object(object.objectID))) } == .busy)
            try object.endAccess()
            // Opened again by name, with as much as there is.
            let again = try client.pool("demo", sizeBytes: 4096)
            #expect(again.pool.poolId == pool.pool.poolId)
            #expect(refusal { try client.pool("demo", sizeBytes: 2 << 20) } == .invalidSize)
            struct Mine: Error {}
            #expect(throws: Mine.self) { try object.withAccess { _, _ in throw Mine() } }
            #expect(object.accessCount == 0, "an error in the body ends the access")
        }
    }

    @Test func asyncAccessesWorkTheSame() async throws {
        let control = try await HeldControl.make()
        let client = try ShrinkdClient(path: control.path)
        let pool = try await client.pool("demo", sizeBytes: 1 << 20)
        let object = try await pool.makeObject("o", sizeBytes: 4096)
        object.unsafeBytes[0] = 5
        try object.endAccess()
        _ = try await client.call(Methods.shrink, ShrinkParameters(.everything))
        let value = try await object.withAccess { bytes, retained in
            retained ? bytes.bytes.unsafeLoad(fromByteOffset: 0, as: UInt8.self) : 0
        }
        #expect(value == 5)
        #expect(try await object.beginAccess())
        try object.endAccess()
        try await control.end()
    }

    /// Born accessed; what was given up is told to each client once.
    @Test func purgeableContentIsGivenUpAndSaidSo() async throws {
        try await withControl { control in
            let (first, second) = (try ShrinkdClient(path: control.path), try ShrinkdClient(path: control.path))
            let object = try first.pool("demo", sizeBytes: 1 << 20).makeObject("cache", sizeBytes: 8192, purgeable: true)
            let twin = try second.pool("demo", sizeBytes: 4096).object(object.objectID)
            let plain = try control.client()
            #expect(try plain.ask(Methods.pin, ObjectAddress(objectId: object.objectID)).retained)
            _ = try plain.ask(Methods.unpin, ObjectAddress(objectId: object.objectID))
            object.unsafeBytes[0] = 1
            #expect(try first.call(Methods.shrink, ShrinkParameters(.everything)).freedBytes == 0, "accessed content stays")
            #expect(object.unsafeBytes[0] == 1)
            try object.endAccess()
            #expect(try first.call(Methods.shrink, ShrinkParameters(.everything)).freedBytes > 0)
            #expect(try first.call(Methods.getObject, ObjectAddress(objectId: object.objectID)).bufferObject.purged)
            #expect(try object.setPurgeable(true) == false)
            #expect(try object.beginAccess() == false)
            #expect(object.unsafeBytes[0] == 0)
            object.unsafeBytes[0] = 2
            #expect(try twin.beginAccess() == false, "the second client hears it too")
            #expect(try plain.ask(Methods.pin, ObjectAddress(objectId: object.objectID)).retained == false, "and one without gates")
            #expect(try twin.beginAccess() == true, "once")
            #expect(try object.beginAccess() == true)
            #expect(twin.unsafeBytes[0] == 2)
            for accessed in [object, twin] {
                try accessed.endAccess()
                try accessed.endAccess()
            }
            _ = try plain.ask(Methods.unpin, ObjectAddress(objectId: object.objectID))
            // From now on it is kept.
            try object.withAccess { bytes, _ in bytes.storeBytes(of: 3, toByteOffset: 0, as: UInt8.self) }
            #expect(try object.setPurgeable(false))
            #expect(try first.call(Methods.shrink, ShrinkParameters(.everything)).backedUpPages > 0)
            try object.withAccess { bytes, retained in
                #expect(retained && bytes.bytes.unsafeLoad(fromByteOffset: 0, as: UInt8.self) == 3)
            }
        }
    }

    @Test func aClientThatEndsLeavesNothingPinned() async throws {
        try await withControl { control in
            let keeper = try ShrinkdClient(path: control.path)
            let id: Int
            do {
                let client = try ShrinkdClient(path: control.path)
                let object = try client.pool("demo", sizeBytes: 1 << 20).makeObject("o", sizeBytes: 4096)
                id = object.objectID
                object.unsafeBytes[0] = 1
                #expect(refusal { try keeper.call(Methods.shrink, ShrinkParameters(.object(id))) } == .busy)
                client.close()
                #expect(control.eventually { (try? keeper.call(Methods.shrink, ShrinkParameters(.object(id))).backedUpPages) == 1 })
                #expect(refusal { try object.beginAccess() } == .disconnected, "a client without a connection is told so")
            }
        }
    }

    @Test func misuseHasClearErrors() async throws {
        try await withControl { control in
            let client = try ShrinkdClient(path: control.path)
            let pool = try client.pool("demo", sizeBytes: 1 << 20)
            let other = try client.pool("other", sizeBytes: 4096)
            let object = try pool.makeObject("o", sizeBytes: 4096)
            #expect(refusal { try pool.object(999) } == .noSuchObject)
            #expect(refusal { try other.object(object.objectID) } == .invalidArgument)
            try object.destroy()
            #expect(refusal { try object.beginAccess() } == .noSuchObject)
            #expect(refusal { try object.endAccess() } == .notPinned)
            #expect(refusal { try object.destroy() } == .noSuchObject)
            let plain = try control.client()
            for method in [Methods.pinGate] {
                #expect(plain.refusal(method, ObjectAddress(objectId: object.objectID)) == "NoSuchObject")
            }
            let second = try pool.makeObject("o", sizeBytes: 4096)
            #expect(plain.refusal(Methods.attachGate, ObjectAddress(objectId: second.objectID)) == "NotPinned", "gates come first")
            #expect(plain.refusal(Methods.pinGate, ObjectAddress(objectId: second.objectID)) == "NotPinned")
            _ = try plain.call(Methods.mapGates.fullName, NoParameters(), timeoutMilliseconds: 20_000)
            #expect(plain.refusal(Methods.pinGate, ObjectAddress(objectId: second.objectID)) == "NotPinned", "without a gate")
            #expect(plain.refusal(Methods.detachGate, ObjectAddress(objectId: second.objectID)) == "NotPinned")
            #expect(refusal { try pool.makeObject("big", sizeBytes: 2 << 20) } == .outOfSpace)
        }
    }

    /// Objects that a program lets go of give their gates back.
    @Test func gatesAreGivenBack() async throws {
        try await withControl { control in
            let client = try ShrinkdClient(path: control.path)
            let pool = try client.pool("demo", sizeBytes: 1 << 20)
            let object = try pool.makeObject("o", sizeBytes: 4096)
            try object.endAccess()
            do {
                // Two holders of one object share a gate; the first to go must not take it away.
                let twin = try pool.object(object.objectID)
                #expect(try twin.beginAccess())
                try twin.endAccess()
            }
            _ = try pool.makeObject("p", sizeBytes: 4096)
            #expect(try object.beginAccess())
            #expect(object.beginAccessIfResident() == true)
        }
    }
}

private func refusal<R>(_ body: () throws -> R) -> ShrinkdError.Code? {
    do {
        _ = try body()
        return nil
    } catch {
        return (error as? ShrinkdError)?.code
    }
}
