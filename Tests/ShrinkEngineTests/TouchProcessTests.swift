import Glibc
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@testable import ShrinkEngine

/// Clients that are processes of their own: forked, killed, or out to do harm.
@Suite(.serialized) struct TouchProcessTests {
    /// A pool with one object of content, and a client process that has it mapped and registered.
    private final class Client {
        let pool: PoolID
        let object: ObjectInfo
        private(set) var mapping = MappingID(rawValue: 0)
        private let engine: Engine
        let process: ChildProcess
        private var input: OwnedDescriptor?
        private let output: OwnedDescriptor

        init(_ engine: Engine, _ name: String, pages: Int = 64) throws {
            self.engine = engine
            pool = try engine.createPool(name: name, owner: 0, size: ByteCount(256 * basePageSize)).id
            object = try engine.createObject(in: pool, name: "o", size: ByteCount(pages * basePageSize))
            let file = try engine.poolDescriptor(pool)
            let memory = try MappedMemory(sharing: file.number, count: 256 * basePageSize)
            let pattern = PagePattern(seed: 5)
            let first = object.offsetBytes.rawValue / basePageSize
            for page in 0..<pages {
                pattern.fill(
                    UnsafeMutableRawBufferPointer(start: memory.base + (first + page) * basePageSize, count: basePageSize), index: page)
            }
            var sum: UInt64 = 0
            for i in 0..<pages * 512 {
                sum = (sum &* 31) &+ memory.base.load(fromByteOffset: first * basePageSize + i * 8, as: UInt64.self)
            }
            try engine.unpin(object.id)
            let toChild = try ThisProcess.pipe()
            let fromChild = try ThisProcess.pipe()
            let sockets = try UnixSocket.pair()
            let (a, b, c, d) = (toChild.output.number, fromChild.input.number, file.number, sockets.second.number)
            process = try ChildProcess(
                Machine.program("touch-trial"), ["client", "256", "\(first)", "\(pages)", "\(sum)"], environment: ["PATH=/usr/bin:/bin"],
                descriptors: [c, d], standardInput: a, standardOutput: b)
            input = try toChild.input.duplicate()
            output = try fromChild.output.duplicate()
            guard try waitReadable(sockets.first.number, timeoutMilliseconds: 20_000) else { throw Errno.timedOut }
            var address: UInt64 = 0
            let socket = sockets.first.number
            let received = try withUnsafeMutableBytes(of: &address) { (bytes) throws(Errno) in
                try UnixSocket.receive(socket, into: bytes)
            }
            guard let received, received.descriptors.count == 1 else { throw Errno.badMessage }
            mapping = try engine.registerMapping(
                pool, userfaults: OwnedDescriptor(owning: received.descriptors[0]),
                at: MappingPlace(address: UInt(address), offset: .zero, length: ByteCount(256 * basePageSize)))
        }

        func send(_ command: Unicode.Scalar) {
            var byte = UInt8(ascii: command)
            if let input = input?.number { _ = write(input, &byte, 1) }
        }

        /// The answer, or nil if none comes in time.
        func answer(milliseconds: CInt = 20_000) throws -> Character? {
            guard try waitReadable(output.number, timeoutMilliseconds: milliseconds) else { return nil }
            var byte: UInt8 = 0
            return read(output.number, &byte, 1) == 1 ? Character(Unicode.Scalar(byte)) : nil
        }

        func kill() throws {
            process.signal(SIGKILL)
            _ = try process.wait()
        }

        deinit {
            input = nil
            if ((try? process.wait(timeoutMilliseconds: 5000)) ?? nil) == nil { try? kill() }
        }
    }

    private func engine(_ store: ScratchMemoryFileSystem) throws -> Engine {
        var configuration = Engine.Configuration()
        configuration.clientsAreStrangers = true
        return try Engine(backup: try BackupDirectory(path: store.path), configuration: configuration, logger: quiet)
    }

    @Test func aForkedChildIsServedToo() throws {
        let store = try ScratchMemoryFileSystem(sizeBytes: 32 << 20)
        let engine = try engine(store)
        let client = try Client(engine, "forked")
        for command in ["f", "s", "f"] as [Unicode.Scalar] {
            #expect(engine.shrink(.all).failure == nil)
            #expect(try engine.pool(client.pool).allocatedBytes == .zero)
            client.send(command)
            #expect(try client.answer() == "=", "\(command)")
        }
        if !Machine.isRoot { Machine.lacks("root", so: "forks are not told, their children not served") }
        // Children that are gone are noticed when their pages go out, and forgotten.
        #expect(engine.shrink(.all).failure == nil)
        #expect(try engine.mappings(of: client.pool) == 1)
        engine.unregisterMapping(client.mapping)
        #expect(try engine.mappings(of: client.pool) == 0)
    }

    /// A damaged store: a plain touch of the page that is gone ends the program with SIGBUS; no zeros, and no wait.
    @Test func aPlainTouchOfALostPageIsSIGBUS() throws {
        let store = try ScratchMemoryFileSystem(sizeBytes: 32 << 20)
        let engine = try engine(store)
        let client = try Client(engine, "unlucky")
        client.send("b")
        #expect(try client.answer() == "=", "nothing is lost yet")
        #expect(engine.shrink(.all).failure == nil)
        let data = try Files.open(store.path + "/objects/\(client.object.id.rawValue)/data", .readWrite)
        // The pattern's fifth page and the next: none of them is one of zeros.
        let lost = try #require(
            (0..<63).first { page in (try? Files.nextData(data.number, from: page * basePageSize)) == page * basePageSize })
        try Files.punch(data.number, at: lost * basePageSize, length: basePageSize)
        client.send("b")
        #expect(try client.process.wait(timeoutMilliseconds: 60_000) == .signalled(SIGBUS))
        #expect(engine.touchCounts.poisonedPages >= 1)
        engine.unregisterMapping(client.mapping)
    }

    @Test func aClientThatIsKilledHurtsNobody() throws {
        let store = try ScratchMemoryFileSystem(sizeBytes: 64 << 20)
        let engine = try engine(store)
        let good = try Client(engine, "good")
        for round in 0..<8 {
            let victim = try Client(engine, "victim \(round)")
            victim.send("k")
            let stop = Monitor(false)
            let victimPool = victim.pool
            try withDedicatedThreads { threads in
                threads.start("mover") {
                    while !stop.withLock({ $0 }) {
                        _ = engine.shrink(.all)
                        _ = engine.recover(.pool(victimPool))
                    }
                }
                // Let it be in the middle of something.
                let before = engine.touchCounts.faults
                let limit = MonotonicTime.now().advanced(milliseconds: 10_000)
                while engine.touchCounts.faults < before + 20 * round, MonotonicTime.now() < limit {
                    if let ending = try victim.process.wait(timeoutMilliseconds: 1) {
                        stop.withLock { $0 = true }
                        #expect(Bool(false), "the victim ended by itself: \(ending), \(engine.touchCounts)")
                        return
                    }
                }
                try victim.kill()
                good.send("s")
                #expect(try good.answer() == "=", "round \(round)")
                stop.withLock { $0 = true }
            }
            #expect(engine.shrink(.all).failure == nil)
            engine.unregisterMapping(victim.mapping)
            try engine.destroyPool(victim.pool)
        }
        good.send("s")
        #expect(try good.answer() == "=")
        #expect(engine.brokenInvariants() == [])
    }

    @Test func aWriteToThePoolFromAPageThatIsOutIsServed() throws {
        guard (try? Userfaults.open(.full)) != nil else {
            return Machine.lacks("a full userfaultfd", so: "writes to the pool's file from its own missing pages were not tried")
        }
        let store = try ScratchMemoryFileSystem(sizeBytes: 32 << 20)
        let engine = try engine(store)
        let client = try Client(engine, "writer")
        for _ in 0..<20 {
            #expect(engine.shrink(.all).failure == nil)
            client.send("w")
            // Out and back while it holds the file's lock over its faults.
            _ = engine.recover(.all)
            _ = engine.shrink(.all)
            #expect(try client.answer() == "=")
        }
        client.send("s")
        #expect(try client.answer() == "=")
    }

    @Test func aClientThatHoldsItsPoolsLockStallsThatPoolAlone() throws {
        guard (try? Userfaults.open(.full)) != nil else {
            return Machine.lacks("a full userfaultfd", so: "no client could hold its pool's lock")
        }
        let store = try ScratchMemoryFileSystem(sizeBytes: 32 << 20)
        let engine = try engine(store)
        let good = try Client(engine, "good")
        let evil = try Client(engine, "evil")
        let other = try engine.createObject(in: evil.pool, name: "other", size: ByteCount(16 * basePageSize))
        evil.send("x")
        #expect(try evil.answer() == "x")
        // Whatever is asked comes back, and names what is wrong; the other pool goes on.
        let limit = MonotonicTime.now().advanced(milliseconds: 30_000)
        while engine.stalledPools().isEmpty, MonotonicTime.now() < limit { _ = engine.shrink(.object(evil.object.id)) }
        #expect(engine.stalledPools().map(\.pool) == [evil.pool])
        let refused = engine.shrink(.object(evil.object.id)).failure
        #expect(refused?.code == .busy)
        #expect(refused?.message.contains("stalled") == true, "\(String(describing: refused))")
        _ = try engine.object(evil.object.id)
        for _ in 0..<3 {
            #expect(engine.shrink(.pool(good.pool)).failure == nil)
            #expect(try engine.pool(good.pool).allocatedBytes == .zero)
            good.send("s")
            #expect(try good.answer() == "=")
            _ = engine.shrink(.all)
        }
        // Its end frees everything.
        try evil.kill()
        let freed = MonotonicTime.now().advanced(milliseconds: 30_000)
        while !engine.stalledPools().isEmpty, MonotonicTime.now() < freed { usleep(5000) }
        #expect(engine.stalledPools().isEmpty)
        engine.unregisterMapping(evil.mapping)
        try engine.unpin(other.id)
        #expect(engine.shrink(.pool(evil.pool)).failure == nil)
        #expect(engine.recover(.pool(evil.pool)).failure == nil)
        #expect(engine.brokenInvariants() == [])
        try engine.destroyPool(evil.pool)
    }
}
