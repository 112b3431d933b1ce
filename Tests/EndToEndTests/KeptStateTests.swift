import ShrinkClient
import ShrinkEngine
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import TestSupport
import Testing
import Varlink

/// What an engine leaves and the next one finds: of this version, of the one before, of a later one, and when there is no more room for it.
@Suite(.serialized) struct KeptStateTests {
    /// The fixture's two objects, of 8 pages each.
    private static let out = 2
    private static let pinned = 3
    private static let token = "488d930e1c04b81d69e68d3a0b0499bf"

    private func pageByte(_ object: Int, _ page: Int) -> UInt8 { UInt8(object * 16 + page + 1) }

    /// Everything that an engine of state version 1 left: its ledger and state from files that were kept, the pages as they were.
    @discardableResult
    private func leaveVersion1(_ engine: StartedEngine, state: (file: String, name: String) = ("parked-state-1", "state-1")) throws
        -> OwnedDescriptor
    {
        let pool = try MemoryFile.makeSealed("pool", size: 64 * basePageSize)
        let memory = try MappedMemory(sharing: pool.number, count: 64 * basePageSize)
        for page in 0..<8 {
            UnsafeMutableRawBufferPointer(rebasing: memory.bytes[(8 + page) * basePageSize..<(9 + page) * basePageSize])
                .initializeMemory(as: UInt8.self, repeating: pageByte(Self.pinned, page))
        }
        try Files.makeDirectory(engine.backup + "/objects")
        for (object, pages) in [(Self.out, 8), (Self.pinned, 0)] {
            try Files.makeDirectory(engine.backup + "/objects/\(object)")
            let bytes = (0..<pages).flatMap { [UInt8](repeating: pageByte(object, $0), count: basePageSize) }
            try Files.replaceContents(of: engine.backup + "/objects/\(object)/data", with: bytes)
        }
        engine.keep(try keptFile("ledger-1"), "ledger-1")
        engine.keep(try pool.duplicate(), "pool-1")
        engine.keep(try keptFile(state.file), state.name)
        return pool
    }

    @Test func whatTheVersionBeforeLeftIsTakenOver() throws {
        let engine = try StartedEngine(limit: 16)
        try leaveVersion1(engine)
        #expect(try engine.start(), "\(engine.said)")
        // The older state is gone, the newer one there.
        #expect(engine.names == ["ledger-1", "listener", "pool-1", "state-2"])
        let client = try VarlinkClient(path: engine.socket)
        func ask<P, R>(_ method: WireMethod<P, R>, _ parameters: P) throws -> R {
            try client.call(method.fullName, parameters, timeoutMilliseconds: 20_000).decode(R.self)
        }
        let status = try ask(Methods.status, NoParameters())
        #expect(status.survival?.starts == 2 && status.survival?.lostPages == 0 && status.survival?.waitingSessions == 1)
        #expect(try ask(Methods.getObject, ObjectAddress(objectId: Self.pinned)).bufferObject.pinCount == 2)
        #expect(throws: VarlinkFailure.self, "another token") {
            _ = try ask(Methods.resumeSession, ResumeSessionParameters(sessionToken: String(repeating: "0", count: 32)))
        }
        #expect(try ask(Methods.resumeSession, ResumeSessionParameters(sessionToken: Self.token)).poolIds == [1])
        #expect(try ask(Methods.listPins, ListPinsParameters()).pins == [WirePin(objectId: Self.pinned, count: 2)])
        let object = try ask(Methods.pin, ObjectAddress(objectId: Self.out)).bufferObject
        #expect(object.priority == 1 && object.objectName == "out" && object.pages.backedUp == 0)
        let reader = try ShrinkdClient(path: engine.socket)
        for id in [Self.out, Self.pinned] {
            for page in 0..<8 {
                #expect(
                    try reader.read(id, at: page * basePageSize, length: basePageSize)
                        == [UInt8](repeating: pageByte(id, page), count: basePageSize))
            }
        }
        // And the one that it left itself.
        try engine.end()
        #expect(try engine.start(), "\(engine.said)")
        let again = try ShrinkdClient(path: engine.socket)
        #expect(try again.call(Methods.getObject, ObjectAddress(objectId: Self.pinned)).bufferObject.pinCount == 2)
        #expect(try again.call(Methods.getObject, ObjectAddress(objectId: Self.out)).bufferObject.pinCount == 1)
        #expect(try again.call(Methods.status, NoParameters()).survival?.starts == 3)
    }

    /// What this version leaves, kept as a file: a later one must read it. A mapping of this process among it, with a thread that waits in it.
    @Test func mappingsThatWereLeftAreTakenOver() throws {
        let engine = try StartedEngine(limit: 16)
        let pool = try leaveVersion1(engine, state: ("parked-state-2", "state-2"))
        let memory = try MappedMemory(sharing: pool.number, count: 64 * basePageSize)
        let userfaults = try Userfaults.open(.userMode)
        let (fd, range) = (userfaults.number, UInt(bitPattern: memory.base)..<UInt(bitPattern: memory.base) + UInt(memory.count))
        try Userfaults.begin(fd, Engine.touchFeatures)
        try Userfaults.register(fd, range, [.missing, .writeProtect])
        defer { try? Userfaults.unregister(fd, range) }
        // Where the mapping was, in its note.
        let state = try #require(engine.kept("state-2"))
        let place = try MappedMemory(sharing: state.number, count: 0x108_2000)
        place.base.storeBytes(of: UInt64(range.lowerBound), toByteOffset: 0x108_1038, as: UInt64.self)
        engine.keep(try userfaults.duplicate(), "uffd-1")
        let seen = Monitor<[UInt8]?>(nil)
        let (base, first) = (UInt(bitPattern: memory.base), pageByte(Self.out, 0))
        try withDedicatedThreads { threads in
            threads.start("waiter") {
                // The object is somewhere among the pool's first pages that are not the other one's.
                let bytes = (0..<8).map { UnsafePointer<UInt8>(bitPattern: base + UInt($0 * basePageSize))!.pointee }
                seen.withLock { $0 = bytes }
                seen.notifyAll()
            }
            #expect(seen.wait(deadline: .now().advanced(milliseconds: 200)) { $0 } == nil, "nobody serves it yet")
            let isUp = try engine.start()
            #expect(isUp, "\(engine.said)")
            let bytes = seen.wait(deadline: .now().advanced(milliseconds: 60_000)) { $0 }
            #expect(bytes == (0..<8).map { first + UInt8($0) }, "\(engine.said)")
            // A test that failed must not wait for its thread for ever.
            if bytes == nil { try? Userfaults.unregister(fd, range) }
        }
        #expect(engine.names == ["ledger-1", "listener", "pool-1", "state-2", "uffd-1"])
        // Its client comes back for it and ends it.
        let client = try VarlinkClient(path: engine.socket)
        func ask<P, R>(_ method: WireMethod<P, R>, _ parameters: P) throws -> R {
            try client.call(method.fullName, parameters, timeoutMilliseconds: 20_000).decode(R.self)
        }
        #expect(throws: VarlinkFailure.self, "not this connection's yet") {
            _ = try ask(Methods.unregisterMapping, UnregisterMappingParameters(mappingId: 1))
        }
        _ = try ask(Methods.resumeSession, ResumeSessionParameters(sessionToken: Self.token))
        _ = try ask(Methods.unregisterMapping, UnregisterMappingParameters(mappingId: 1))
        #expect(!engine.names.contains("uffd-1"))
    }

    /// An older program over what a newer one left: it says so and touches nothing, so that the newer one finds all of it.
    @Test func whatALaterVersionLeftIsLeftAlone() throws {
        let engine = try StartedEngine(limit: 16)
        try leaveVersion1(engine)
        engine.keep(try MemoryFile.makeSealed("later", size: 4096), "state-3")
        #expect(try !engine.start())
        #expect(try engine.end(nil) == .exited(1))
        #expect(engine.said.contains("start the version that wrote it"), "\(engine.said)")
        #expect(engine.names == ["ledger-1", "pool-1", "state-1", "state-3"])
    }

    @Test func aPoolThatWouldNotBeKeptIsRefused() throws {
        // The state, the listener, and two pools of two files.
        let engine = try StartedEngine(limit: 6)
        #expect(try engine.start(), "\(engine.said)")
        let client = try ShrinkdClient(path: engine.socket)
        _ = try client.createPool("a", sizeBytes: 1 << 20)
        _ = try client.createPool("b", sizeBytes: 1 << 20)
        let refused = #expect(throws: ShrinkdError.self) { _ = try client.createPool("c", sizeBytes: 1 << 20) }
        #expect(refused?.code == .limitReached && refused?.message.contains("FileDescriptorStoreMax") == true)
        _ = try client.call(Methods.destroyPool, PoolAddress(name: "a"))
        _ = try client.createPool("c", sizeBytes: 1 << 20)
        #expect(engine.names == ["ledger-2", "ledger-3", "listener", "pool-2", "pool-3", "state-2"])
        try engine.end()
        #expect(try engine.start(), "\(engine.said)")
        #expect(try client.call(Methods.listPools, ListPoolsParameters()).pools.map(\.poolName) == ["b", "c"])
        #expect(try client.call(Methods.status, NoParameters()).survival?.descriptors == 6)
    }

    /// A pool of which only one file was kept is one that nobody was told of.
    @Test func halfAPoolIsDropped() throws {
        let engine = try StartedEngine(limit: 16)
        engine.keep(try MemoryFile.makeSealed("pool", size: 4096), "pool-7")
        #expect(try engine.start(), "\(engine.said)")
        #expect(engine.names == ["listener", "state-2"])
        let client = try ShrinkdClient(path: engine.socket)
        #expect(try client.call(Methods.status, NoParameters()).pools == 0)
    }

    @Test func anOrderlyEndLeavesNothing() throws {
        let engine = try StartedEngine(limit: 16)
        #expect(try engine.start(), "\(engine.said)")
        let client = try ShrinkdClient(path: engine.socket)
        _ = try client.createPool("a", sizeBytes: 1 << 20)
        #expect(try engine.end(Signal.terminate) == .exited(0))
        #expect((try? Files.status(of: engine.socket)) == nil)
        #expect(!engine.names.contains("listener"))
    }
}
