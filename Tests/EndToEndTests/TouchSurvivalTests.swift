import Glibc
import ShrinkClient
import ShrinkEngine
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import TestSupport
import Testing
import Varlink

/// Mappings that are registered for touch, over the engine's death: nobody calls anything, and nobody reads zeros.
@Suite(.serialized) struct TouchSurvivalTests {
    private static let pages = 256

    /// A pool whose memory this process uses on touch, with one object whose pages are known.
    private struct Touched {
        let client: ShrinkdClient
        let mapping: TouchMapping
        let object: WireObject
        let pattern = PagePattern(seed: 11)

        init(_ socket: String, pool: String = "touched") throws {
            client = try ShrinkdClient(path: socket)
            let address = PoolAddress(id: try client.createPool(pool, sizeBytes: 4 << 20).pool.poolId)
            mapping = try client.mapForTouch(address)
            object = try client.call(
                Methods.createObject,
                CreateObjectParameters(pool: address, objectName: "o", sizeBytes: TouchSurvivalTests.pages * basePageSize)
            ).bufferObject
            for page in 0..<TouchSurvivalTests.pages { pattern.fill(bytes(page), index: page, zeroEvery: 0) }
            _ = try client.call(Methods.unpin, ObjectAddress(objectId: object.objectId))
        }

        func bytes(_ page: Int) -> UnsafeMutableRawBufferPointer {
            guard let all = mapping.bytes(of: object) else { fatalError("an object beyond its pool") }
            return UnsafeMutableRawBufferPointer(rebasing: all[page * basePageSize..<(page + 1) * basePageSize])
        }

        func shrink() throws {
            let reply = try client.call(Methods.shrink, ShrinkParameters(.object(object.objectId)))
            if let failure = reply.failure { throw ShrinkdError(failure) }
        }

        var firstWrong: Int? {
            (0..<TouchSurvivalTests.pages).first { !bytes($0).elementsEqual(pattern.page($0, zeroEvery: 0)) }
        }
    }

    @Test func aTouchWaitsForTheNextEngineAndGoesOn() throws {
        let daemon = try DaemonProcess()
        let touched = try Touched(daemon.socket)
        let descriptors = try Control(daemon: daemon)("status").number("survival.descriptors")
        for round in 1...3 {
            try touched.shrink()
            let engine = try #require(daemon.process(of: "engine"))
            // Held still, so that the touch meets nobody; then killed with the fault unread.
            Glibc.kill(engine, SIGSTOP)
            let result = Monitor<Int??>(nil)
            try DedicatedThread("touching") {
                let wrong = touched.firstWrong
                result.withLock { $0 = .some(wrong) }
                result.notifyAll()
            }.detach()
            Glibc.kill(engine, SIGKILL)
            let wrong: Int?? = result.wait(deadline: .now().advanced(milliseconds: 60_000)) { $0 }
            #expect(wrong == .some(nil), "round \(round): \(daemon.said.suffix(2000))")
            if wrong == nil { return }
            try daemon.waitFor("the client to be back") { touched.client.reconnections == round }
            #expect(touched.mapping.registrationFailure == nil)
            #expect(try Control(daemon: daemon)("status").number("survival.descriptors") == descriptors, "kept once, not once a restart")
        }
        try touched.mapping.unregister(from: touched.client)
        #expect(try Control(daemon: daemon)("status").number("survival.descriptors") == descriptors.map { $0 - 1 })
        #expect(try daemon.stop() == .exited(0))
    }

    /// A client without a library that gave its only userfaultfd away: what the starter keeps is all there is between its memory and zeros.
    @Test func whoGaveItsOnlyUserfaultfdAwayIsServedByTheNextEngineAtOnce() throws {
        let engine = try StartedEngine(limit: 16)
        let scratch = try ScratchDirectory()
        let arming = scratch.file("kill-point")
        try Files.replaceContents(of: arming, with: Array("\(FaultPoint.touchBeforeCopyIn.rawValue):1".utf8))
        #expect(try engine.start(environment: ["SHRINKD_ENGINE_KILL_POINT=" + arming]), "\(engine.said)")
        let owner = try Touched(engine.socket)
        let file = try owner.client.openPool(PoolAddress(name: "touched"))
        let raw = try VarlinkClient(path: engine.socket)
        let opened = try raw.call(Methods.openPool.fullName, PoolAddress(name: "touched"), timeoutMilliseconds: 20_000)
        guard let descriptor = opened.descriptors.take(0) else { throw DaemonProcess.Failure(description: "no pool came") }
        let memory = try MappedMemory(sharing: descriptor.number, count: file.pool.sizeBytes)
        let range = UInt(bitPattern: memory.base)..<UInt(bitPattern: memory.base) + UInt(memory.count)
        let reply = try raw.call(
            Methods.registerMapping.fullName,
            RegisterMappingParameters(
                pool: PoolAddress(name: "touched"), userfaultFileDescriptor: 0, address: Int(range.lowerBound), offsetBytes: 0,
                lengthBytes: memory.count), descriptors: [SharedDescriptor(try Userfaults.open(.userMode))], timeoutMilliseconds: 20_000
        ).decode(RegisterMappingReply.self)
        #expect(engine.names.filter { $0.hasPrefix("uffd-") } == ["uffd-1", "uffd-2"])
        try owner.shrink()
        let base = UInt(bitPattern: memory.base) + UInt(owner.object.offsetBytes)
        let pattern = owner.pattern
        let result = Monitor<Int??>(nil)
        try DedicatedThread("touching") {
            let wrong = (0..<Self.pages).first { page in
                !UnsafeRawBufferPointer(start: UnsafeRawPointer(bitPattern: base + UInt(page * basePageSize)), count: basePageSize)
                    .elementsEqual(pattern.page(page, zeroEvery: 0))
            }
            result.withLock { $0 = .some(wrong) }
            result.notifyAll()
        }.detach()
        // The engine has read the fault when it dies, so that it does not come again by itself.
        #expect(try engine.end(nil) == .signalled(SIGKILL), "\(engine.said)")
        #expect(result.withLock { $0 } == nil, "nobody serves it now, and it is not zeros")
        #expect(try engine.start(["--session-grace", "3600"]), "\(engine.said)")
        let wrong: Int?? = result.wait(deadline: .now().advanced(milliseconds: 60_000)) { $0 }
        #expect(wrong == .some(nil), "its session waits, and its memory is served: \(engine.said)")
        #expect(reply.mappingId == 2 && engine.names.contains("uffd-2"))
        withExtendedLifetime(memory) {}
    }

    /// What the next engine does not find with its starter the client tells it by itself.
    @Test func aMappingThatTheNextEngineDoesNotKnowIsRegisteredAgain() throws {
        let engine = try StartedEngine(limit: 16)
        #expect(try engine.start(), "\(engine.said)")
        let touched = try Touched(engine.socket)
        try touched.shrink()
        try engine.end()
        engine.drop("uffd-1")
        #expect(try engine.start(), "\(engine.said)")
        let result = Monitor<Int??>(nil)
        try DedicatedThread("touching") {
            let wrong = touched.firstWrong
            result.withLock { $0 = .some(wrong) }
            result.notifyAll()
        }.detach()
        let wrong: Int?? = result.wait(deadline: .now().advanced(milliseconds: 60_000)) { $0 }
        #expect(wrong == .some(nil), "\(engine.said)")
        #expect(engine.names.filter { $0.hasPrefix("uffd-") }.count == 1)
        if wrong == nil { return }
        try touched.mapping.unregister(from: touched.client)
    }

    /// The grace, made short: a client that lives and does not come back loses what it had; its threads wait for whoever registers the mapping next.
    @Test func aClientThatDoesNotComeBackLosesPinsGatesAndMappings() throws {
        let engine = try StartedEngine(limit: 16)
        #expect(try engine.start(), "\(engine.said)")
        let touched = try Touched(engine.socket)
        let raw = try VarlinkClient(path: engine.socket)
        func ask<P, R>(_ client: VarlinkClient, _ method: WireMethod<P, R>, _ parameters: P, _ descriptors: [SharedDescriptor] = []) throws
            -> R
        {
            try client.call(method.fullName, parameters, descriptors: descriptors, timeoutMilliseconds: 20_000).decode(R.self)
        }
        let object = ObjectAddress(objectId: touched.object.objectId)
        let file = try touched.client.poolFile("touched")
        let place = try MappedMemory(sharing: file.number, count: touched.mapping.pool.sizeBytes)
        let userfaults = SharedDescriptor(try Userfaults.open(.userMode))
        let range = UInt(bitPattern: place.base)..<UInt(bitPattern: place.base) + UInt(place.count)
        defer { try? Userfaults.unregister(userfaults.number, range) }
        let parameters = RegisterMappingParameters(
            pool: PoolAddress(id: touched.mapping.pool.poolId), userfaultFileDescriptor: 0, address: Int(range.lowerBound), offsetBytes: 0,
            lengthBytes: place.count)
        let id = try ask(raw, Methods.registerMapping, parameters, [userfaults]).mappingId
        let token = try ask(raw, Methods.openSession, NoParameters())
        #expect(token.graceMilliseconds == 60_000)
        _ = try ask(raw, Methods.pin, object)
        try engine.end()
        #expect(try engine.start(["--session-grace", "1"]), "\(engine.said)")
        // Watched on a connection of its own: the one who touches comes back by itself.
        let limit = MonotonicTime.now().advanced(milliseconds: 60_000)
        while engine.names.contains("uffd-\(id)"), MonotonicTime.now() < limit { usleep(5000) }
        #expect(!engine.names.contains("uffd-\(id)") && engine.names.contains("uffd-1"), "\(engine.names)")
        let next = try VarlinkClient(path: engine.socket)
        #expect(try ask(next, Methods.openSession, NoParameters()).graceMilliseconds == 1000)
        while try ask(next, Methods.getObject, object).bufferObject.pinCount > 0, MonotonicTime.now() < limit { usleep(5000) }
        #expect(try ask(next, Methods.getObject, object).bufferObject.pinCount == 0)
        #expect(throws: VarlinkFailure.self, "its session is gone") {
            _ = try ask(next, Methods.resumeSession, ResumeSessionParameters(sessionToken: token.sessionToken))
        }
        try touched.shrink()
        let base = UInt(bitPattern: place.base) + UInt(touched.object.offsetBytes)
        let seen = Monitor<UInt8?>(nil)
        try DedicatedThread("touching") {
            let byte = UnsafePointer<UInt8>(bitPattern: base)!.pointee
            seen.withLock { $0 = byte }
            seen.notifyAll()
        }.detach()
        #expect(seen.wait(deadline: .now().advanced(milliseconds: 200)) { $0 } == nil, "nobody serves it, and it is not zeros")
        _ = try ask(next, Methods.registerMapping, parameters, [userfaults])
        #expect(seen.wait(deadline: .now().advanced(milliseconds: 60_000)) { $0 } == touched.pattern.page(0, zeroEvery: 0)[0])
        #expect(touched.firstWrong == nil)
    }

    @Test func aMappingThatWouldNotBeKeptIsRefused() throws {
        // The state, the listener, a pool's two files, and one mapping.
        let engine = try StartedEngine(limit: 5)
        #expect(try engine.start(), "\(engine.said)")
        let touched = try Touched(engine.socket)
        let refused = #expect(throws: ShrinkdError.self) { _ = try touched.client.mapForTouch(PoolAddress(name: "touched")) }
        #expect(
            refused?.code == .limitReached && refused?.message.contains("FileDescriptorStoreMax") == true, "\(String(describing: refused))")
        #expect(engine.names.filter { $0.hasPrefix("uffd-") } == ["uffd-1"])
        // One that ends makes room.
        try touched.mapping.unregister(from: touched.client)
        let second = try touched.client.mapForTouch(PoolAddress(name: "touched"))
        #expect(engine.names.filter { $0.hasPrefix("uffd-") } == ["uffd-2"])
        try second.unregister(from: touched.client)
    }

    /// Its connection's end takes a mapping out of the store, also the end of a process that dies while no engine lives.
    @Test func aClientsEndLeavesNothingInTheStore() throws {
        let engine = try StartedEngine(limit: 32)
        #expect(try engine.start(), "\(engine.said)")
        func waitForNone(_ what: Comment) {
            let limit = MonotonicTime.now().advanced(milliseconds: 60_000)
            while engine.names.contains(where: { $0.hasPrefix("uffd-") }), MonotonicTime.now() < limit { usleep(5000) }
            #expect(!engine.names.contains { $0.hasPrefix("uffd-") }, what)
        }
        let touched = try Touched(engine.socket)
        #expect(engine.names.contains("uffd-1"))
        touched.client.close()
        waitForNone("a closed connection")
        let survivor = try SurvivorProcess(socket: engine.socket, pool: "p", seed: 1)
        let limit = MonotonicTime.now().advanced(milliseconds: 60_000)
        while !survivor.isReady, MonotonicTime.now() < limit { usleep(5000) }
        #expect(engine.names.contains { $0.hasPrefix("uffd-") })
        try engine.end()
        survivor.process.signal(SIGKILL)
        #expect(try survivor.process.wait() == .signalled(9))
        #expect(try engine.start(), "\(engine.said)")
        waitForNone("a process that died meanwhile")
    }
}

extension ShrinkdClient {
    /// The pool's file, for a mapping of the test's own.
    fileprivate func poolFile(_ name: String) throws -> SharedDescriptor {
        SharedDescriptor(try call(Methods.openPool, PoolAddress(name: name)) { $0.poolFileDescriptor }.descriptor)
    }
}
