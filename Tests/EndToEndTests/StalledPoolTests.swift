import Glibc
import ShrinkClient
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import TestSupport
import Testing
import Varlink

/// A program that writes to its pool's file from a page of the pool that is out, when nobody serves its faults: it holds the file's lock for as long as it lives.
@Suite(.serialized) struct StalledPoolTests {
    /// The program, a child process that has the pool's memory and says where.
    private final class Program {
        let child: ChildProcess
        let userfaults: SharedDescriptor
        let address: Int
        private let input: OwnedDescriptor
        private let output: OwnedDescriptor

        init(_ memory: CInt, pages: Int, _ object: WireObject) throws {
            let toChild = try ThisProcess.pipe()
            let fromChild = try ThisProcess.pipe()
            let sockets = try UnixSocket.pair()
            let (a, b, c) = (toChild.output.number, fromChild.input.number, sockets.second.number)
            child = try ChildProcess(
                Machine.program("touch-trial"),
                ["client", "\(pages)", "\(object.offsetBytes / basePageSize)", "\(object.sizeBytes / basePageSize)", "0"],
                environment: ["PATH=/usr/bin:/bin"], descriptors: [memory, c], standardInput: a, standardOutput: b)
            input = try toChild.input.duplicate()
            output = try fromChild.output.duplicate()
            let socket = sockets.first.number
            guard try waitReadable(socket, timeoutMilliseconds: 60_000) else { throw Errno.timedOut }
            var place: UInt64 = 0
            let received = try withUnsafeMutableBytes(of: &place) { (bytes) throws(Errno) in try UnixSocket.receive(socket, into: bytes) }
            guard let received, received.descriptors.count == 1 else { throw Errno.badMessage }
            userfaults = SharedDescriptor(OwnedDescriptor(owning: received.descriptors[0]))
            address = Int(place)
        }

        deinit {
            child.signal(SIGKILL)
            _ = try? child.wait()
        }

        /// Writes to the pool's file, behind the object, from the object's own memory.
        func writeToTheFile() {
            var byte = UInt8(ascii: "p")
            _ = write(input.number, &byte, 1)
        }

        /// Whether that came to its end in time.
        func hasWritten(milliseconds: CInt) throws -> Bool {
            guard try waitReadable(output.number, timeoutMilliseconds: milliseconds) else { return false }
            var byte: UInt8 = 0
            return read(output.number, &byte, 1) == 1
        }
    }

    @Test func itsPoolStallsAndIsNamedAndItsEndFreesEverything() throws {
        guard (try? Userfaults.open(.full)) != nil else {
            return Machine.lacks("a full userfaultfd", so: "no client could hold its pool's lock under a whole daemon")
        }
        let daemon = try DaemonProcess()
        let control = Control(daemon: daemon)
        let pages = 256
        let evil = try PoolClient(daemon, pool: "evil", sizeBytes: pages * basePageSize, seed: testSeed("stalled"))
        let good = try PoolClient(daemon, pool: "good", sizeBytes: pages * basePageSize, seed: 2)
        let (object, other) = (try evil.makeObject(pages: 64, zeroEvery: 0), try good.makeObject(pages: 64, zeroEvery: 0))
        try evil.unpin(object)
        try good.unpin(other)
        let memory = try evil.client.call(Methods.openPool, PoolAddress(id: evil.memory.pool.poolId), descriptor: { $0.poolFileDescriptor })
        let program = try Program(memory.descriptor.number, pages: pages, object)
        // Registered, so that its pages are missing and not zeros when they are out; then the registration ends with its connection.
        do {
            let registrar = try VarlinkClient(path: daemon.socket)
            _ = try registrar.call(
                Methods.registerMapping.fullName,
                RegisterMappingParameters(
                    pool: PoolAddress(id: evil.memory.pool.poolId), userfaultFileDescriptor: 0, address: program.address, offsetBytes: 0,
                    lengthBytes: pages * basePageSize), descriptors: [program.userfaults], timeoutMilliseconds: 60_000)
            registrar.close()
        }
        // As long as the daemon has not heard of that end, it serves, and all is well.
        // Whoever wants its pool moved when it is stuck is told why it can't be, within bounds.
        var refused: Control.Outcome?
        for _ in 0..<50 where refused == nil {
            #expect(try control("shrink", "--pool", "evil").status == 0)
            program.writeToTheFile()
            if try program.hasWritten(milliseconds: 1_000) { continue }
            let outcome = try control("recover", "--pool", "evil")
            if outcome.output.contains("stalled") { refused = outcome }
            // Only slow: it comes to its end yet.
            if refused == nil { try #require(try program.hasWritten(milliseconds: 60_000)) }
        }
        let stuck = try #require(refused, "the daemon serves a mapping whose connection is gone")
        #expect(stuck.status != 0)

        // Status names it.
        var status = try control("status")
        #expect(status.status == 0 && status.output.contains("\"pool_memory\""), "\(status)")
        #expect(status.output.contains("(evil)") && status.output.contains("until that process ends"), "\(status.output)")
        let text = try runProgram(Machine.program("shrinkctl"), ["status", "--socket", daemon.socket])
        #expect(text.output.contains("pool_memory: no (") && text.output.contains("(evil)"), "\(text.output)")
        // All others go on: the other pool, new ones, and looking at this one.
        for _ in 0..<3 {
            #expect(try control("shrink", "--pool", "good").number("backed_up_pages") == 64)
            #expect(try control("recover", "--pool", "good").number("recovered_pages") == 64)
        }
        #expect(try good.mismatches(other, zeroEvery: 0) == [])
        #expect(try control("pool", "create", "new", "--size", "1M").status == 0)
        #expect(try control("object", "list").status == 0)
        #expect(try control("pool", "list").output.contains("\"evil\""))

        // Killing it frees everything, and nothing was lost.
        program.child.signal(SIGKILL)
        try daemon.waitFor("the stall to end", seconds: 60) { try !control("status").output.contains("(evil)") }
        status = try control("status")
        try daemon.waitFor("the pool to move again", seconds: 60) { try control("recover", "--pool", "evil").status == 0 }
        #expect(try evil.mismatches(object, zeroEvery: 0) == [])
        #expect(try control("shrink", "--pool", "evil").status == 0)
        try evil.pin(object)
        #expect(evil.mappedMismatches(object, zeroEvery: 0) == [])
        #expect(try daemon.stop() == .exited(0))
    }
}
