import ShrinkClient
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
    private func leaveVersion1(_ engine: StartedEngine) throws {
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
        engine.keep(pool, "pool-1")
        engine.keep(try keptFile("parked-state-1"), "state-1")
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
