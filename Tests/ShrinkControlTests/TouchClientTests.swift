import Glibc
import ShrinkClient
import ShrinkEngine
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import TestSupport
import Testing
import Varlink

/// A program that uses its memory without pins, over the socket.
@Suite(.serialized) struct TouchClientTests {
    private func object(_ client: ShrinkdClient, _ pool: TouchMapping, pages: Int) throws -> WireObject {
        let made = try client.call(
            Methods.createObject,
            CreateObjectParameters(pool: PoolAddress(id: pool.pool.poolId), objectName: "o", sizeBytes: pages * basePageSize)
        ).bufferObject
        let bytes = try #require(pool.bytes(of: made))
        let pattern = PagePattern(seed: 7)
        for page in 0..<pages {
            pattern.fill(UnsafeMutableRawBufferPointer(rebasing: bytes[page * basePageSize..<(page + 1) * basePageSize]), index: page)
        }
        _ = try client.call(Methods.unpin, ObjectAddress(objectId: made.objectId))
        return made
    }

    private func matches(_ pool: TouchMapping, _ object: WireObject) -> Bool {
        guard let bytes = pool.bytes(of: object) else { return false }
        let pattern = PagePattern(seed: 7)
        return (0..<object.sizeBytes / basePageSize).allSatisfy { page in
            bytes[page * basePageSize..<(page + 1) * basePageSize].elementsEqual(pattern.page(page))
        }
    }

    @Test func aProgramUsesItsMemoryWithoutPins() async throws {
        try await withControl { fixture in
            let client = try ShrinkdClient(path: fixture.path)
            let name = try client.createPool("touched", sizeBytes: 16 << 20).pool.poolName
            let pool = try client.mapForTouch(PoolAddress(name: name))
            let object = try self.object(client, pool, pages: 300)
            #expect(try client.call(Methods.shrink, ShrinkParameters(.everything)).backedUpPages > 0)
            #expect(self.matches(pool, object))
            #expect(fixture.engine.touchCounts.recoveredPages > 0)
            let features = try client.call(Methods.status, NoParameters()).features
            #expect(features["recover_on_touch"]?.available == true)
            #expect(features["touch_in_system_calls"] != nil)
        }
    }

    @Test func systemCallsMeetMissingPagesToo() async throws {
        try await withControl { fixture in
            let client = try ShrinkdClient(path: fixture.path)
            _ = try client.createPool("touched", sizeBytes: 16 << 20)
            for wantsSystemCalls in [true, false] {
                let pool = try client.mapForTouch(PoolAddress(name: "touched"), systemCalls: wantsSystemCalls)
                let object = try self.object(client, pool, pages: 20)
                _ = try client.call(Methods.shrink, ShrinkParameters(.everything))
                let target = try MemoryFile.make("target", size: object.sizeBytes)
                let bytes = try #require(pool.bytes(of: object))
                let written = pwrite(target.number, bytes.baseAddress, bytes.count, 0)
                let error = errno
                if pool.reach == .full {
                    #expect(written == object.sizeBytes)
                    #expect(self.matches(pool, object))
                } else {
                    if wantsSystemCalls { Machine.lacks("a full userfaultfd", so: "system calls on missing pages were not tried") }
                    #expect(written == -1 && error == EFAULT, "never zeros")
                    #expect(self.matches(pool, object), "the program's own touch brings it")
                    #expect(pwrite(target.number, bytes.baseAddress, bytes.count, 0) == object.sizeBytes)
                }
            }
        }
    }

    @Test func aConnectionsEndLeavesWaitersNotZeros() async throws {
        try await withControl { fixture in
            let client = try ShrinkdClient(path: fixture.path)
            _ = try client.createPool("touched", sizeBytes: 16 << 20)
            let pool = try client.mapForTouch(PoolAddress(name: "touched"))
            let object = try self.object(client, pool, pages: 100)
            _ = try client.call(Methods.shrink, ShrinkParameters(.everything))
            let poolID = PoolID(rawValue: UInt32(pool.pool.poolId))
            #expect(try fixture.engine.mappings(of: poolID) == 1)
            client.close()
            #expect(fixture.eventually { (try? fixture.engine.mappings(of: poolID)) == 0 }, "the connection's end unregisters")
            // A thread touches a page that nobody serves now: it waits, and goes on with the next registration.
            let seen = Monitor<Bool?>(nil)
            try withDedicatedThreads { threads in
                threads.start("waiter") {
                    let matches = self.matches(pool, object)
                    seen.withLock { $0 = matches }
                    seen.notifyAll()
                }
                #expect(seen.wait(deadline: .now().advanced(milliseconds: 200)) { $0 } == nil, "nobody is there to serve it")
                let next = try ShrinkdClient(path: fixture.path)
                try pool.register(with: next)
                #expect(seen.wait(deadline: .now().advanced(milliseconds: 20_000)) { $0 } == true)
                // Registering again on the same connection's end and by hand.
                try pool.unregister(from: next)
                #expect(try fixture.engine.mappings(of: poolID) == 0)
            }
        }
    }

    @Test func whatIsNoMappingIsRefused() async throws {
        try await withControl { fixture in
            let client = try ShrinkdClient(path: fixture.path)
            let memory = try client.createPool("touched", sizeBytes: 16 << 20)
            let address = PoolAddress(id: memory.pool.poolId)
            let raw = try fixture.client()
            let place = try MappedMemory(anonymous: 1 << 20, populated: true)
            func register(_ descriptor: consuming OwnedDescriptor, address start: Int, offset: Int = 0, length: Int = 1 << 20) throws
                -> String
            {
                let parameters = RegisterMappingParameters(
                    pool: address, userfaultFileDescriptor: 0, address: start, offsetBytes: offset, lengthBytes: length)
                do {
                    _ = try raw.call(
                        Methods.registerMapping.fullName, parameters, descriptors: [SharedDescriptor(descriptor)],
                        timeoutMilliseconds: 10_000)
                    return "accepted"
                } catch { return "\(error)" }
            }
            let start = Int(bitPattern: place.base)
            #expect(try register(try Files.open("/dev/null", .readWrite), address: start).contains("UnsuitableMapping"))
            #expect(try register(try Userfaults.open(.userMode), address: 1).contains("InvalidSize"))
            #expect(try register(try Userfaults.open(.userMode), address: start, offset: 4096, length: 16 << 20).contains("InvalidSize"))
            #expect(try register(try Userfaults.open(.userMode), address: start, length: 0).contains("InvalidSize"))
            #expect(try register(try Userfaults.open(.userMode), address: 1 << 40, length: 4096).contains("UnsuitableMapping"))
            let poor = try Userfaults.open(.userMode)
            try Userfaults.begin(poor.number, [])
            #expect(try register(poor, address: start).contains("UnsuitableMapping"), "it does not tell what must be told")
            // A descriptor where none belongs.
            #expect(throws: (any Error).self) {
                try raw.call(
                    Methods.status.fullName, NoParameters(), descriptors: [SharedDescriptor(try Files.open("/dev/null", .readWrite))],
                    timeoutMilliseconds: 10_000)
            }
        }
    }
}
