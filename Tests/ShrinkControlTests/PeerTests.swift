import Glibc
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import TestSupport
import Testing
import Varlink

/// Two Varlink clients that others wrote (PyPI `varlink`, and `asyncvarlink`, which takes descriptors) drive our server.
///
/// They live in a virtual environment beside the build products, made once.
@Suite(.serialized) struct PeerTests {
    @Test func varlinksOwnClientReadsTheInterfaceAndCalls() async throws {
        guard let python = await onOwnThread({ try? PeerEnvironment.python() }) else { return PeerEnvironment.told() }
        try await withControl { control in
            let address = "unix:" + control.path
            let info = try run(python, ["-m", "varlink.cli", "info", address])
            #expect(info.contains("Vendor: shrinkd") && info.contains("io.shrinkd"), "\(info)")
            // This parses the interface's text and prints it formatted: every method must have survived.
            let help = try run(python, ["-m", "varlink.cli", "help", address + "/io.shrinkd"])
            #expect(help.contains("method ReadObject(") && help.contains("error Busy") && help.contains("[string]Feature"), "\(help)")
            let made = try run(
                python, ["-m", "varlink.cli", "call", address + "/io.shrinkd.CreatePool", #"{"poolName":"py","sizeBytes":1048576}"#])
            #expect(made.contains(#""poolName": "py""#), "\(made)")
            let listed = try run(python, ["-m", "varlink.cli", "call", "-m", address + "/io.shrinkd.ListPools", "{}"])
            #expect(listed.contains(#""poolName": "py""#), "\(listed)")
            let refused = try Ran(python, ["-m", "varlink.cli", "call", address + "/io.shrinkd.OpenPool", #"{"poolName":"no"}"#]).output
            #expect(refused.contains("io.shrinkd.NoSuchPool"), "\(refused)")
        }
    }

    @Test func anAsynchronousClientTakesTheMemoryOfAPool() async throws {
        guard let python = await onOwnThread({ try? PeerEnvironment.python() }) else { return PeerEnvironment.told() }
        try await withControl { control in
            let output = try run(python, ["-c", Self.script, control.path])
            #expect(output == "1048576 bytes, written and read back: page 3\nInvalidParameter sizeBytes\nseries of 2\n", "\(output)")
        }
    }

    /// Makes a pool and an object, maps the memory, writes a page of the object, reads it back through ReadObject.
    private static let script = """
        import asyncio, enum, mmap, os, sys, typing, dataclasses
        import asyncvarlink as av

        @dataclasses.dataclass
        class Pages:
            resident: int
            zero: int
            backedUp: int
            empty: int

        @dataclasses.dataclass
        class Pool:
            poolId: int
            poolName: str
            ownerUid: int
            sizeBytes: int
            freeBytes: int
            allocatedBytes: int
            objectCount: int
            objectLimit: int | None
            backedUpLimitBytes: int | None
            pages: Pages

        @dataclasses.dataclass
        class BufferObject:
            objectId: int
            objectName: str
            poolId: int
            poolName: str
            ownerUid: int
            sizeBytes: int
            roundedBytes: int
            offsetBytes: int
            priority: int
            pinCount: int
            purgeable: bool
            purged: bool
            purgeGeneration: int
            leased: bool
            pages: Pages

        class CreatePoolReply(typing.TypedDict):
            pool: Pool
            poolFileDescriptor: av.FileDescriptor

        class ReadReply(typing.TypedDict):
            contentFileDescriptor: av.FileDescriptor
            lengthBytes: int

        class ListReply(typing.TypedDict):
            pools: list[Pool]
            nextAfterPoolId: int | None

        class Shrinkd(av.VarlinkInterface, name="io.shrinkd"):
            @av.varlinkmethod
            def CreatePool(self, *, poolName: str, sizeBytes: int) -> CreatePoolReply: ...
            @av.varlinkmethod(return_parameter="bufferObject")
            def CreateObject(self, *, poolName: str, objectName: str, sizeBytes: int) -> BufferObject: ...
            @av.varlinkmethod
            def ReadObject(self, *, objectId: int, offsetBytes: int, lengthBytes: int) -> ReadReply: ...
            @av.varlinkmethod
            def ListPools(self, *, afterPoolId: int | None = None) -> typing.Iterator[ListReply]: ...

        async def main():
            transport, protocol = await av.connect_unix_varlink(av.VarlinkClientProtocol, sys.argv[1])
            proxy = protocol.make_proxy(Shrinkd)
            made = await proxy.CreatePool(poolName="py", sizeBytes=1 << 20)
            with made as (reply):
                memory = mmap.mmap(reply["poolFileDescriptor"].fileno(), reply["pool"].sizeBytes)
            thing = (await proxy.CreateObject(poolName="py", objectName="o", sizeBytes=40960))["bufferObject"]
            at = thing.offsetBytes + 3 * 4096
            memory[at:at + 6] = b"page 3"
            read = await proxy.ReadObject(objectId=thing.objectId, offsetBytes=3 * 4096, lengthBytes=6)
            with read as (reply):
                text = os.pread(reply["contentFileDescriptor"].fileno(), 100, 0).decode()
            print(len(memory), "bytes, written and read back:", text)
            try:
                await proxy.CreatePool(poolName="bad", sizeBytes=1 << 63)
            except av.VarlinkErrorReply as error:
                print(error.name.split(".")[-1], error.paramstojson()["parameter"])
            for i in range(200):
                made = await proxy.CreatePool(poolName=f"p{i}", sizeBytes=4096)
                with made: pass
            n = 0
            async for reply in proxy.ListPools():
                n += 1
            print("series of", n)
            transport.close()

        asyncio.run(main())
        """
}

/// How a program ended, and what it printed on both streams.
struct Ran {
    var ending: ChildProcess.Ending
    var output: String

    /// Runs a program, bounded in time.
    init(
        _ program: String, _ arguments: [String], environment: [String] = ["PATH=/usr/bin:/bin", "HOME=/nonexistent", "LANG=C.UTF-8"]
    ) throws {
        let file = try MemoryFile.make("output", size: 0)
        let child = try ChildProcess(
            program, arguments, environment: environment,
            standardOutput: file.number, standardError: file.number)
        guard let ending = try child.wait(timeoutMilliseconds: 60_000) else {
            child.signal(SIGKILL)
            _ = try child.wait()
            throw Errno.timedOut
        }
        var bytes = [UInt8](repeating: 0, count: try Files.status(file.number).sizeBytes)
        _ = try bytes.withUnsafeMutableBytes { try Files.read(file.number, into: $0, at: 0) }
        self.ending = ending
        output = String(decoding: bytes, as: UTF8.self)
    }
}

/// What a program printed; it must succeed.
func run(_ program: String, _ arguments: [String]) throws -> String {
    let ran = try Ran(program, arguments)
    #expect(ran.ending == .exited(0), "\(program) \(arguments.first ?? ""): \(ran.ending)\n\(ran.output)")
    return ran.output
}

enum PeerEnvironment {
    static let packages = ["varlink==31.0.0", "asyncvarlink==0.3.3"]

    /// The interpreter of an environment that has both packages.
    static func python() throws -> String { try python("varlink-peers", packages, imports: "varlink, asyncvarlink") }

    /// One that has numpy.
    static func numpy() throws -> String { try python("numpy-client", ["numpy==2.4.6"], imports: "numpy") }

    /// A half-made one is made anew.
    private static func python(_ name: String, _ packages: [String], imports: String) throws -> String {
        let directory = Machine.productsDirectory + "/" + name
        let python = directory + "/bin/python3"
        func isComplete() -> Bool { (try? Ran(python, ["-c", "import " + imports]).ending) == .exited(0) }
        if isComplete() { return python }
        _ = try Ran("/bin/rm", ["-rf", "--", directory])
        _ = try Ran("/usr/bin/python3", ["-m", "venv", directory])
        _ = try Ran(python, ["-m", "pip", "install", "-q", "--disable-pip-version-check", "--timeout", "15", "--retries", "1"] + packages)
        guard isComplete() else { throw Errno.noSuchFileOrDirectory }
        return python
    }

    static func told() { Machine.lacks("python3 with venv, or the package index", so: "no independent Varlink client was tried") }
}
