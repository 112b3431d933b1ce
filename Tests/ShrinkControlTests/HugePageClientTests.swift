import ShrinkClient
import ShrinkEngine
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import TestSupport
import Testing

/// Pools of huge pages from C and Python, the way docs/clients.md says.
@Suite(.serialized) struct HugePageClientTests {
    private static let untried = "pools of huge pages are not tried from other languages"

    /// Each program fills 4 MiB in a pool "huge", unpins, waits for a line, pins again and checks.
    private func run(_ program: RunningProgram, _ control: ControlFixture) throws {
        let reached = control.eventually { program.said.contains("press Enter") }
        guard reached, let object = control.engine.objects(in: nil, limit: 1).first else {
            throw ProgramFailure(description: "the program did not come to its pause: \(program.said)")
        }
        #expect(object.pageBytes.rawValue == HugePages.pageBytes && object.pageCount == 2)
        let shrunk = control.engine.shrink(.object(object.id))
        #expect(shrunk.failure == nil && shrunk.returnedHugePageBytes?.rawValue == 2 * HugePages.pageBytes)
        try program.pressEnter()
        #expect(try program.end() == .exited(0), "\(program.said)")
        #expect(program.said.hasSuffix("all there\n"), "\(program.said)")
    }

    @Test func fromC() async throws {
        guard let reserve = try await HugePageReserve.take(16, so: Self.untried) else { return }
        defer { reserve.release() }
        try await withControl { control in
            let programs = try ClientPrograms()
            let path = try programs.compile(Self.source, "huge")
            try run(try RunningProgram(path, socket: control.path, library: programs.prefix), control)
        }
    }

    @Test func fromPython() async throws {
        guard let python = await onOwnThread({ try? PeerEnvironment.numpy() }) else {
            return Machine.lacks("python3 with venv, or the package index", so: "huge pages were not tried from Python")
        }
        guard let reserve = try await HugePageReserve.take(16, so: Self.untried) else { return }
        defer { reserve.release() }
        try await withControl { control in
            let programs = try ClientPrograms()
            let file = try programs.write(Self.script, "huge.py")
            try run(try RunningProgram(python, [file], socket: control.path, library: programs.prefix), control)
        }
    }

    /// A call by hand: what the parameter does, and what an ordinary pool says of itself.
    @Test func theParameter() async throws {
        guard let reserve = try await HugePageReserve.take(16, so: Self.untried) else { return }
        defer { reserve.release() }
        try await withControl { control in
            let client = try control.client()
            let huge = try client.ask(Methods.createPool, CreatePoolParameters(poolName: "h", sizeBytes: 8 << 20, huge: true)).pool
            #expect(huge.pageBytes == HugePages.pageBytes && huge.freeBytes == 8 << 20)
            let plain = try client.ask(Methods.createPool, CreatePoolParameters(poolName: "p", sizeBytes: 8 << 20, huge: false)).pool
            #expect(plain.pageBytes == nil, "who knows no other pages is told of none")
            #expect(
                client.refusal(Methods.createPool, CreatePoolParameters(poolName: "x", sizeBytes: 3 << 20, huge: true)) == "InvalidSize")
            let object = try client.ask(
                Methods.createObject, CreateObjectParameters(pool: PoolAddress(id: huge.poolId), objectName: "o", sizeBytes: 1)
            ).bufferObject
            #expect(object.roundedBytes == HugePages.pageBytes && object.sizeBytes == 1 && object.pages.resident == 1)
            #expect(
                client.refusal(
                    Methods.createObject, CreateObjectParameters(pool: PoolAddress(id: huge.poolId), objectName: "o", sizeBytes: 9 << 20))
                    == "OutOfSpace")
            // Without free huge pages, and with the room in the pool.
            let hoard = try HugePageHoard()
            let wanted = CreateObjectParameters(pool: PoolAddress(id: huge.poolId), objectName: "o", sizeBytes: 4 << 20)
            #expect(client.refusal(Methods.createObject, wanted) == "OutOfMemory")
            hoard.letGo()
            _ = try client.ask(Methods.createObject, wanted)
            #expect(control.engine.pools().map(\.isHuge) == [true, false])
        }
    }

    private static let source = """
        #include <shrinkd.h>
        #include <stdio.h>
        #include <stdlib.h>
        #define MUST(condition) do { if (!(condition)) { printf("line %d: " #condition ": %s\\n", __LINE__, shrinkd_error_message()); return 1; } } while (0)
        int main(void) {
            shrinkd_client *client; shrinkd_pool *pool, *other; shrinkd_object *object;
            MUST(shrinkd_connect(NULL, &client) == 0);
            MUST(shrinkd_pool_open_huge(client, "huge", 3 << 20, &pool) == SHRINKD_ERROR_INVALID && pool == NULL);
            MUST(shrinkd_pool_open_huge(client, "huge", 8 << 20, &pool) == 0);
            MUST(shrinkd_pool_page_size(pool) == 2 << 20);
            MUST(shrinkd_pool_open(client, "huge", 8 << 20, &other) == SHRINKD_ERROR_INVALID && other == NULL);
            MUST(shrinkd_object_create(pool, "numbers", 4 << 20, 0, &object) == 0);
            unsigned *numbers = shrinkd_object_bytes(object);
            MUST(((unsigned long)numbers & ((2 << 20) - 1)) == 0);
            for (unsigned i = 0; i < 1 << 20; i++) numbers[i] = i * 7;
            MUST(shrinkd_unpin(object) == 0);
            printf("press Enter\\n"); fflush(stdout); getchar();
            MUST(shrinkd_pin(object) == 1);
            for (unsigned i = 0; i < 1 << 20; i++) MUST(numbers[i] == i * 7);
            MUST(shrinkd_object_destroy(object) == 0);
            shrinkd_object_close(object); shrinkd_pool_close(pool); shrinkd_disconnect(client);
            puts("all there");
            return 0;
        }

        """

    private static let script = """
        import ctypes
        import numpy

        library = ctypes.CDLL("libshrinkd.so.1")
        library.shrinkd_error_message.restype = ctypes.c_char_p
        library.shrinkd_object_bytes.restype = ctypes.c_void_p
        library.shrinkd_pool_page_size.restype = ctypes.c_uint64


        def must(result):
            if result < 0:
                raise SystemExit(library.shrinkd_error_message().decode())
            return result


        client, pool, item = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
        must(library.shrinkd_connect(None, ctypes.byref(client)))
        must(library.shrinkd_pool_open_huge(client, b"huge", ctypes.c_uint64(8 << 20), ctypes.byref(pool)))
        assert library.shrinkd_pool_page_size(pool) == 2 << 20
        must(library.shrinkd_object_create(pool, b"numbers", ctypes.c_uint64(4 << 20), 0, ctypes.byref(item)))
        memory = (ctypes.c_uint64 * (1 << 19)).from_address(library.shrinkd_object_bytes(item))
        numbers = numpy.frombuffer(memory, dtype=numpy.uint64)
        numbers[:] = numpy.arange(1 << 19, dtype=numpy.uint64)
        must(library.shrinkd_unpin(item))
        input("press Enter\\n")
        assert must(library.shrinkd_pin(item)) == 1
        assert (numbers == numpy.arange(1 << 19, dtype=numpy.uint64)).all()
        must(library.shrinkd_object_destroy(item))
        print("all there")

        """
}
