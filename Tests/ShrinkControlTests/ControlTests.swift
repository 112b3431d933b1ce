import ShrinkControl
import ShrinkEngine
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import TestSupport
import Testing
import Varlink

@Suite(.serialized) struct ControlTests {
    @Test func aPoolsMemoryGoesOutAndComesBackOverTheSocket() async throws {
        let seed = testSeed("aPoolsMemory")
        try await withControl { control in
            let client = try control.client()
            let made = try client.call(
                Methods.createPool.fullName, CreatePoolParameters(poolName: "demo", sizeBytes: 8 << 20), timeoutMilliseconds: 5000)
            let pool = try made.decode(PoolReply.self)
            guard let file = made.descriptors.take(pool.poolFileDescriptor) else { throw Errno.badFileDescriptor }
            let memory = try MappedMemory(sharing: file.number, count: pool.pool.sizeBytes)
            let object = try client.ask(
                Methods.createObject,
                CreateObjectParameters(pool: PoolAddress(name: "demo"), objectName: "o", sizeBytes: (1 << 20) - 5, priority: 1)
            ).bufferObject
            #expect(object.sizeBytes == (1 << 20) - 5 && object.roundedBytes == 1 << 20 && object.pinCount == 1 && object.priority == 1)
            let pattern = PagePattern(seed: seed)
            for page in 0..<256 {
                pattern.fill(
                    UnsafeMutableRawBufferPointer(start: memory.base + object.offsetBytes + page * 4096, count: 4096), index: page)
            }
            #expect(client.refusal(Methods.shrink, ShrinkParameters(.object(object.objectId))) == "Busy")
            _ = try client.ask(Methods.unpin, ObjectAddress(objectId: object.objectId))
            let shrunk = try client.ask(Methods.shrink, ShrinkParameters(.everything))
            #expect(shrunk.backedUpPages + shrunk.zeroPages == 256 && shrunk.failure == nil)
            #expect(try Files.status(file.number).allocatedBytes == 0)

            // Reading changes no state.
            let before = try client.ask(Methods.getObject, ObjectAddress(objectId: object.objectId)).bufferObject
            let read = try client.call(
                Methods.readObject.fullName, ReadObjectParameters(objectId: object.objectId, offsetBytes: 4096 * 3, lengthBytes: 4 << 20),
                timeoutMilliseconds: 5000)
            let content = try read.decode(ReadObjectReply.self)
            #expect(content.lengthBytes == (1 << 20) - 5 - 4096 * 3)
            guard let copy = read.descriptors.take(content.contentFileDescriptor) else { throw Errno.badFileDescriptor }
            var page = [UInt8](repeating: 0, count: 4096)
            #expect(try page.withUnsafeMutableBytes { try Files.read(copy.number, into: $0, at: 4096) } == 4096)
            #expect(page == pattern.page(4))
            #expect(page.withUnsafeBytes { Files.write(copy.number, $0, at: 0) }.error == .notPermitted)
            #expect(try client.ask(Methods.getObject, ObjectAddress(objectId: object.objectId)).bufferObject == before)

            let status = try client.ask(Methods.status, NoParameters())
            #expect(status.version == "1.2.3" && status.pools == 1 && status.objects == 1)
            #expect(status.pages.backedUp == shrunk.backedUpPages && status.features["passthrough"]?.reason != nil)

            let recovered = try client.ask(Methods.recover, try #require(RecoverParameters(.pool(PoolAddress(name: "demo")))))
            #expect(recovered.recoveredPages == shrunk.backedUpPages && recovered.failedPages == 0)
            _ = try client.ask(Methods.pin, ObjectAddress(objectId: object.objectId))
            for index in 0..<255 {
                let range = UnsafeRawBufferPointer(start: memory.base + object.offsetBytes + index * 4096, count: 4096)
                #expect(Array(range) == pattern.page(index))
            }
            _ = try client.ask(Methods.destroyObject, ObjectAddress(objectId: object.objectId))
            _ = try client.ask(Methods.destroyPool, PoolAddress(name: "demo"))
            #expect(client.refusal(Methods.openPool, PoolAddress(name: "demo")) == "NoSuchPool")
        }
    }

    @Test func pinsBelongToTheirConnectionAndEndWithIt() async throws {
        try await withControl { control in
            let keeper = try control.client()
            _ = try keeper.ask(Methods.createPool, CreatePoolParameters(poolName: "p", sizeBytes: 1 << 20))
            let id: Int
            do {
                let client = try control.client()
                let object = try client.ask(
                    Methods.createObject, CreateObjectParameters(pool: PoolAddress(name: "p"), objectName: "o", sizeBytes: 4096))
                id = object.bufferObject.objectId
                _ = try client.ask(Methods.pin, ObjectAddress(objectId: id))
                #expect(try keeper.ask(Methods.getObject, ObjectAddress(objectId: id)).bufferObject.pinCount == 2)
                // Another connection's pins are not this one's to undo.
                #expect(keeper.refusal(Methods.unpin, ObjectAddress(objectId: id)) == "NotPinned")
                #expect(keeper.refusal(Methods.destroyObject, ObjectAddress(objectId: id)) == "Busy")
                #expect(keeper.refusal(Methods.destroyPool, PoolAddress(name: "p")) == "Busy")
                client.close()
            }
            let object = ObjectID(rawValue: UInt32(id))
            #expect(control.eventually { (try? control.engine.object(object).pinCount) == 0 })
            #expect(keeper.refusal(Methods.unpin, ObjectAddress(objectId: id)) == "NotPinned")
            _ = try keeper.ask(Methods.pin, ObjectAddress(objectId: id))
            // One's own pins do not stop one.
            _ = try keeper.ask(Methods.destroyObject, ObjectAddress(objectId: id))
            #expect(keeper.refusal(Methods.getObject, ObjectAddress(objectId: id)) == "NoSuchObject")
        }
    }

    @Test func whoCameByTheMemoryOfAPoolHoldsItUntilItGoes() async throws {
        try await withControl { control in
            let client = try control.client()
            let pool = try client.ask(Methods.createPool, CreatePoolParameters(poolName: "p", sizeBytes: 4096)).pool
            let second = try control.client()
            _ = try second.ask(Methods.openPool, PoolAddress(id: pool.poolId))
            #expect(control.service.heldPools.map(\.rawValue) == [UInt32(pool.poolId)])
            client.close()
            #expect(control.eventually { control.server.counters.open == 1 })
            #expect(control.service.heldPools.count == 1)
            second.close()
            #expect(control.eventually { control.service.heldPools.isEmpty })
        }
    }

    @Test func wrongNumbersAreRefusedByNameAndChangeNothing() async throws {
        try await withControl { control in
            let client = try control.client()
            _ = try client.ask(Methods.createPool, CreatePoolParameters(poolName: "p", sizeBytes: 1 << 20))
            let p = PoolAddress(name: "p")
            for size in [0, -4096, 4095, 4097, Int.min, Int.max, 1 << 60] {
                #expect(
                    client.refusal(Methods.createPool, CreatePoolParameters(poolName: "q", sizeBytes: size)) == "InvalidSize", "\(size)")
            }
            for size in [0, -1, Int.min, Int.max] {
                let parameters = CreateObjectParameters(pool: p, objectName: "o", sizeBytes: size)
                #expect(client.refusal(Methods.createObject, parameters) == "InvalidSize", "\(size)")
            }
            let large = CreateObjectParameters(pool: p, objectName: "o", sizeBytes: 2 << 20)
            #expect(client.refusal(Methods.createObject, large) == "OutOfSpace")
            for priority in [-1, 4, 256, 258, Int.max, Int.min] {
                let parameters = CreateObjectParameters(pool: p, objectName: "o", sizeBytes: 1, priority: priority)
                #expect(client.refusal(Methods.createObject, parameters) == "InvalidParameter priority", "\(priority)")
            }
            for name in ["", "a/b", "a\nb", String(repeating: "x", count: 65)] {
                #expect(client.refusal(Methods.createPool, CreatePoolParameters(poolName: name, sizeBytes: 4096)) == "InvalidName")
            }
            #expect(client.refusal(Methods.createPool, CreatePoolParameters(poolName: "p", sizeBytes: 4096)) == "NameTaken")
            for id in [0, -1, 1 << 32, Int.min] {
                #expect(client.refusal(Methods.pin, ObjectAddress(objectId: id)) == "InvalidParameter objectId")
                #expect(client.refusal(Methods.openPool, PoolAddress(id: id)) == "InvalidParameter poolId")
            }
            #expect(client.refusal(Methods.pin, ObjectAddress(objectId: 99)) == "NoSuchObject")
            #expect(client.refusal(Methods.openPool, PoolAddress(name: "p", ownerUid: -1)) == "InvalidParameter ownerUid")
            var both = p
            both.poolId = 1
            #expect(client.refusal(Methods.openPool, both) == "InvalidParameter poolId")
            let object = try client.ask(Methods.createObject, CreateObjectParameters(pool: p, objectName: "o", sizeBytes: 5000))
                .bufferObject
            let read = { (offset: Int, length: Int) in
                client.refusal(
                    Methods.readObject, ReadObjectParameters(objectId: object.objectId, offsetBytes: offset, lengthBytes: length))
            }
            #expect(read(-1, 1) == "InvalidParameter offsetBytes")
            #expect(read(0, 0) == "InvalidParameter lengthBytes")
            #expect(read(0, (4 << 20) + 1) == "InvalidParameter lengthBytes")
            #expect(read(5001, 1) == "InvalidSize")
            #expect(read(Int.max, 1) == "InvalidSize")
            for goal in [0, -1, Int.min] { #expect(client.refusal(Methods.shrink, ShrinkParameters(.goalBytes(goal))) == "InvalidSize") }
            var none = ShrinkParameters(.everything)
            none.everything = nil
            #expect(client.refusal(Methods.shrink, none) == "InvalidParameter ")
            let status = try client.ask(Methods.status, NoParameters())
            #expect(status.pools == 1 && status.objects == 1)
        }
    }

    @Test func listsGoOnInASeriesOrByAskingAgain() async throws {
        try await withControl { control in
            let client = try control.client()
            for i in 0..<130 { _ = try client.ask(Methods.createPool, CreatePoolParameters(poolName: "p\(i)", sizeBytes: 4096)) }
            _ = try client.ask(Methods.createPool, CreatePoolParameters(poolName: "big", sizeBytes: 4 << 20))
            for i in 0..<300 {
                let parameters = CreateObjectParameters(pool: PoolAddress(name: "big"), objectName: "o\(i)", sizeBytes: 1)
                _ = try client.ask(Methods.createObject, parameters)
            }
            let pools = try client.ask(Methods.listPools, ListPoolsParameters())
            #expect(pools.pools.count == 128)
            let rest = try client.ask(Methods.listPools, ListPoolsParameters(afterPoolId: pools.nextAfterPoolId))
            #expect(rest.pools.count == 3 && rest.nextAfterPoolId == nil)
            var sizes: [Int] = []
            var names: [String] = []
            try client.callMore(Methods.listObjects.fullName, ListObjectsParameters(pool: nil), timeoutMilliseconds: 5000) {
                (reply) throws(VarlinkFailure) in
                let list = try reply.decode(ListObjectsReply.self)
                sizes.append(list.bufferObjects.count)
                names += list.bufferObjects.map(\.objectName)
                #expect(list.nextAfterObjectId == nil)
                return .proceed
            }
            #expect(sizes == [128, 128, 44])
            #expect(names == (0..<300).map { "o\($0)" })
            let empty = try client.ask(Methods.listObjects, ListObjectsParameters(pool: PoolAddress(name: "p1")))
            #expect(empty.bufferObjects.isEmpty)
        }
    }

    @Test func aFullStoreIsToldWithWhatIsOutAndWhatIsNot() async throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "no full store is made over the socket") }
        try await withControl(storeBytes: 1 << 20) { control in
            let client = try control.client()
            let made = try client.call(
                Methods.createPool.fullName, CreatePoolParameters(poolName: "p", sizeBytes: 8 << 20), timeoutMilliseconds: 5000)
            guard let file = made.descriptors.take(0) else { throw Errno.badFileDescriptor }
            let memory = try MappedMemory(sharing: file.number, count: 8 << 20)
            let object = try client.ask(
                Methods.createObject, CreateObjectParameters(pool: PoolAddress(name: "p"), objectName: "o", sizeBytes: 8 << 20)
            ).bufferObject
            for i in memory.bytes.indices { memory.bytes[i] = UInt8(truncatingIfNeeded: i &* 7 &+ i >> 12) | 1 }
            _ = try client.ask(Methods.unpin, ObjectAddress(objectId: object.objectId))
            let shrunk = try client.ask(Methods.shrink, ShrinkParameters(.everything))
            #expect(shrunk.failure?.errorName == "io.shrinkd.BackupFull")
            #expect(shrunk.backedUpPages > 0 && shrunk.backedUpPages <= 256)
            let after = try client.ask(Methods.getObject, ObjectAddress(objectId: object.objectId)).bufferObject
            #expect(after.pages.backedUp == shrunk.backedUpPages && after.pages.resident == 2048 - shrunk.backedUpPages)
        }
    }

    @Test func progressComesInASeriesAndAVanishedClientStopsTheWork() async throws {
        // From the second run on a recover waits until it may go on; or half a minute.
        let isHeld = Monitor(false)
        let hold: FaultHook = { point, _, page in
            if point == .beforeCopyIn, page.rawValue > 0 {
                _ = isHeld.wait(deadline: MonotonicTime.now().advanced(milliseconds: 30_000)) { $0 ? nil : true }
            }
            return nil
        }
        try await withControl(storeBytes: 256 << 20, faults: hold) { control in
            let client = try control.client()
            let made = try client.call(
                Methods.createPool.fullName, CreatePoolParameters(poolName: "p", sizeBytes: 128 << 20), timeoutMilliseconds: 5000)
            guard let file = made.descriptors.take(0) else { throw Errno.badFileDescriptor }
            let memory = try MappedMemory(sharing: file.number, count: 128 << 20)
            let object = try client.ask(
                Methods.createObject, CreateObjectParameters(pool: PoolAddress(name: "p"), objectName: "o", sizeBytes: 128 << 20)
            ).bufferObject
            for page in 0..<(128 << 8) { memory.bytes.storeBytes(of: page + 1, toByteOffset: page * 4096, as: Int.self) }
            _ = try client.ask(Methods.unpin, ObjectAddress(objectId: object.objectId))
            var replies: [ShrinkReply] = []
            try client.callMore(Methods.shrink.fullName, ShrinkParameters(.everything), timeoutMilliseconds: 20_000) {
                (reply) throws(VarlinkFailure) in
                replies.append(try reply.decode(ShrinkReply.self))
                return .proceed
            }
            #expect(replies.count > 1, "no progress was told")
            #expect(replies.last?.backedUpPages == 128 << 8)
            let leaver = try control.client()
            let everything = try #require(RecoverParameters(.everything))
            isHeld.withLock { $0 = true }
            do throws(VarlinkFailure) {
                try leaver.callMore(Methods.recover.fullName, everything, timeoutMilliseconds: 20_000) { _ in .stop }
            } catch {}
            #expect(control.eventually { control.server.counters.open == 1 })
            isHeld.withLock { $0 = false }
            isHeld.notifyAll()
            // The run that is under way ends first; its pages are entered then.
            let address = ObjectAddress(objectId: object.objectId)
            func left() throws -> WirePageCounts { try client.ask(Methods.getObject, address).bufferObject.pages }
            #expect(control.eventually { (try? left()).map { $0.backedUp + $0.resident == 128 << 8 } ?? false })
            #expect(try left().backedUp > 0, "the work went on to its end for nobody")
        }
    }
}
