import ShrinkClient
import ShrinkEngine
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import TestSupport
import Testing

@Suite(.serialized) struct SwiftClientTests {
    @Test func aPoolIsMappedWrittenShrunkAndReadBack() async throws {
        try await withControl { control in
            let client = try ShrinkdClient(path: control.path)
            let pool = try client.createPool("demo", sizeBytes: 1 << 20)
            let parameters = CreateObjectParameters(pool: PoolAddress(name: "demo"), objectName: "o", sizeBytes: 10_000)
            let object = try client.call(Methods.createObject, parameters).bufferObject
            let bytes = try #require(pool.bytes(of: object))
            #expect(bytes.count == 10_000)
            bytes[9_999] = 7
            var foreign = object
            foreign.offsetBytes = (1 << 20) - 4096
            #expect(pool.bytes(of: foreign) == nil, "a range beyond the pool")
            foreign.offsetBytes = .max
            #expect(pool.bytes(of: foreign) == nil)
            foreign = object
            foreign.poolId += 1
            #expect(pool.bytes(of: foreign) == nil)
            let address = ObjectAddress(objectId: object.objectId)
            _ = try client.call(Methods.unpin, address)
            let shrunk = try client.call(Methods.shrink, ShrinkParameters(.object(object.objectId)))
            #expect(shrunk.backedUpPages == 1)
            #expect(try client.read(object.objectId, at: 9_990, length: 100) == [0, 0, 0, 0, 0, 0, 0, 0, 0, 7])
            // Another process's view: opened again, pinned, mapped anew.
            let second = try ShrinkdClient(path: control.path)
            let again = try second.openPool(PoolAddress(name: "demo"))
            let pinned = try second.call(Methods.pin, address).bufferObject
            #expect(again.bytes(of: pinned)?[9_999] == 7)
        }
    }

    @Test func errorsHaveTheirCodesAndMessages() async throws {
        try await withControl { control in
            let client = try ShrinkdClient(path: control.path)
            func code<P, R>(_ method: WireMethod<P, R>, _ parameters: P) -> ShrinkdError.Code? {
                do throws(ShrinkdError) {
                    _ = try client.call(method, parameters)
                    return nil
                } catch {
                    #expect(!error.message.isEmpty && !error.message.contains("\n"))
                    return error.code
                }
            }
            #expect(code(Methods.openPool, PoolAddress(name: "none")) == .noSuchPool)
            #expect(code(Methods.pin, ObjectAddress(objectId: 5)) == .noSuchObject)
            #expect(code(Methods.pin, ObjectAddress(objectId: -5)) == .invalidArgument)
            #expect(code(Methods.createPool, CreatePoolParameters(poolName: "p", sizeBytes: 5)) == .invalidSize)
            control.engine.beginShutdown()
            #expect(code(Methods.createPool, CreatePoolParameters(poolName: "p", sizeBytes: 4096)) == .shuttingDown)
            client.close()
            #expect(code(Methods.status, NoParameters()) == .disconnected)
        }
        let missing = #expect(throws: ShrinkdError.self) { _ = try ShrinkdClient(path: "/nonexistent/io.shrinkd") }
        #expect(missing?.code == .notRunning)
    }

    @Test func asyncCallsAndSeries() async throws {
        let control = try await HeldControl.make()
        let client = try ShrinkdClient(path: control.path)
        for i in 0..<150 { _ = try await client.call(Methods.createPool, CreatePoolParameters(poolName: "p\(i)", sizeBytes: 4096)) }
        var names: [String] = []
        for try await reply in client.series(Methods.listPools, ListPoolsParameters()) { names += reply.pools.map(\.poolName) }
        #expect(names == (0..<150).map { "p\($0)" })
        let status = try await client.call(Methods.status, NoParameters())
        #expect(status.pools == 150)
        try await control.end()
    }
}
