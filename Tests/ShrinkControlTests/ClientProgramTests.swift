import Glibc
import ShrinkClient
import ShrinkEngine
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import TestSupport
import Testing
import Varlink

/// docs/clients.md's programs, and programs that behave badly, as processes of their own.
@Suite(.serialized) struct ClientProgramTests {
    /// Lets a documented program come to its pause, moves its object out, and lets it go on.
    private func run(_ program: RunningProgram, _ control: ControlFixture) throws -> String {
        let reached = control.eventually { program.said.contains("press Enter") }
        guard reached, let object = control.engine.objects(in: nil, limit: 1).first else {
            throw ProgramFailure(description: "the program did not come to its pause: \(program.said)")
        }
        let shrunk = control.engine.shrink(.object(object.id))
        #expect(shrunk.failure == nil && shrunk.backedUpPages >= 2047, "\(String(describing: shrunk.failure))")
        try program.pressEnter()
        #expect(try program.end() == .exited(0), "\(program.said)")
        #expect(control.engine.objects(in: nil, limit: 1).isEmpty, "the program destroyed its object")
        return program.said.split(separator: "\n").last.map(String.init) ?? ""
    }

    private static let lastLine = "content still there, 1000 squared is 1000000"

    @Test func theProgramInSwift() async throws {
        #expect(
            try ClientPrograms.documented("swift")
                == String(decoding: try Files.contents(of: ClientPrograms.root + "/Tests/ClientExample/main.swift"), as: UTF8.self))
        try await withControl { control in
            let program = try RunningProgram(Machine.program("client-example"), socket: control.path, library: "")
            #expect(try run(program, control) == Self.lastLine)
        }
    }

    @Test func theProgramInC() async throws {
        try await withControl { control in
            let programs = try ClientPrograms()
            let program = try RunningProgram(
                try programs.compile(try ClientPrograms.documented("c"), "squares"), socket: control.path, library: programs.prefix)
            #expect(try run(program, control) == Self.lastLine)
        }
    }

    @Test func theProgramInPython() async throws {
        guard let python = await onOwnThread({ try? PeerEnvironment.numpy() }) else {
            return Machine.lacks("python3 with venv, or the package index", so: "docs/clients.md's program in Python was not run")
        }
        try await withControl { control in
            let programs = try ClientPrograms()
            let file = try programs.write(try ClientPrograms.documented("python"), "squares.py")
            let program = try RunningProgram(python, [file], socket: control.path, library: programs.prefix)
            #expect(try run(program, control) == Self.lastLine)
        }
    }

    /// Every error of the C interface that a program can bring about alone.
    @Test func misuseFromC() async throws {
        try await withControl { control in
            let programs = try ClientPrograms()
            let program = try RunningProgram(try programs.compile(Self.misuse, "misuse"), socket: control.path, library: programs.prefix)
            #expect(try program.end() == .exited(0), "\(program.said)")
            #expect(program.said.hasSuffix("all as declared\n"), "\(program.said)")
        }
    }

    /// Memory without pins from C: what is out comes back on touch, for the program and for its system calls.
    @Test func touchFromC() async throws {
        try await withControl { control in
            let programs = try ClientPrograms()
            let program = try RunningProgram(try programs.compile(Self.touch, "touch"), socket: control.path, library: programs.prefix)
            #expect(control.eventually { program.said.contains("registered") }, "\(program.said)")
            let pool = try #require(control.engine.pools().first).id
            #expect(try control.engine.mappings(of: pool) == 1)
            let shrunk = control.engine.shrink(.all)
            #expect(shrunk.failure == nil && shrunk.backedUpPages >= 255, "\(String(describing: shrunk.failure))")
            let before = control.engine.touchCounts.recoveredPages
            try program.pressEnter()
            #expect(control.eventually { program.said.contains("unregistered") }, "\(program.said)")
            #expect(control.engine.touchCounts.recoveredPages > before)
            #expect(try control.engine.mappings(of: pool) == 0)
            // And a pin after the daemon was stopped.
            control.engine.endGates()
            try program.pressEnter()
            #expect(try program.end() == .exited(0), "\(program.said)")
            #expect(program.said.hasSuffix("all as declared\n"), "\(program.said)")
        }
    }

    /// The debug mode ends a program at the first use without a pin, although the page is there.
    @Test func aUseWithoutAPinEndsAProgramInTheDebugMode() async throws {
        try await withControl { control in
            let programs = try ClientPrograms()
            let path = try programs.compile(Self.unpinned, "unpinned")
            for (mode, ending) in [("", ChildProcess.Ending.exited(0)), ("0", .exited(0)), ("1", .signalled(SIGSEGV))] {
                let program = try RunningProgram(
                    path, socket: control.path, library: programs.prefix, environment: ["SHRINKD_DEBUG_PINS=" + mode])
                #expect(try program.end() == ending, "mode '\(mode)': \(program.said)")
                #expect(program.said.hasPrefix("pinned uses are fine\n"), "mode '\(mode)': \(program.said)")
            }
        }
    }

    /// SIGKILL in every state a client can be in: what it held is free, and another client of the same object keeps its pin.
    @Test func aClientKilledInEveryStateLeavesNothing() async throws {
        try await withControl { control in
            let programs = try ClientPrograms()
            let path = try programs.compile(Self.states, "states")
            let keeper = try ShrinkdClient(path: control.path)
            let pool = try keeper.pool("states", sizeBytes: 1 << 20)
            let shared = try pool.makeObject("shared", sizeBytes: 16_384)
            shared.unsafeBytes[0] = 1
            for state in ["connected", "opened", "born", "pinned", "pinning", "revoked"] {
                let program = try RunningProgram(path, [state, "\(shared.objectID)"], socket: control.path, library: programs.prefix)
                #expect(control.eventually { program.said.contains("ready") }, "\(state): \(program.said)")
                if state == "revoked" {
                    // Killed while the daemon waits for its answer.
                    let shrunk = Monitor<ShrinkResult?>(nil)
                    try DedicatedThread("shrink") {
                        let result = control.engine.shrink(.all)
                        shrunk.withLock { $0 = result }
                        shrunk.notifyAll()
                    }.detach()
                    #expect(control.eventually { program.said.contains("revoked") }, "\(program.said)")
                    try program.kill()
                    let result = shrunk.wait { $0 }
                    #expect(result.unansweredLeases + result.revokedLeases == 1)
                } else {
                    try program.kill()
                }
                #expect(control.eventually { control.engine.gateClients.count == 1 }, "\(state)")
                #expect(shared.accessCount == 1, "\(state): another client's pin is untouched")
                let objects = control.engine.objects(in: nil, limit: 100).filter { $0.id.rawValue != UInt32(shared.objectID) }
                for object in objects {
                    #expect(control.eventually { (try? control.engine.object(object.id).pinCount) == 0 }, "\(state)")
                    #expect(control.engine.shrink(.object(object.id)).failure == nil, "\(state)")
                    try control.engine.destroyObject(object.id)
                }
            }
            #expect(shared.unsafeBytes[0] == 1)
        }
    }

    private static let misuse = """
        #include <shrinkd.h>
        #include <stdio.h>
        #include <string.h>
        #include <sys/wait.h>
        #include <unistd.h>
        #define MUST(condition) do { if (!(condition)) { printf("line %d: " #condition ": %s\\n", __LINE__, shrinkd_error_message()); return 1; } } while (0)
        int main(void) {
            shrinkd_client *client; shrinkd_pool *pool; shrinkd_object *object, *twin;
            MUST(strlen(shrinkd_error_message()) > 0);
            MUST(shrinkd_connect("/nonexistent/socket", &client) == SHRINKD_ERROR_NOT_RUNNING && client == NULL);
            MUST(strstr(shrinkd_error_message(), "not running") != NULL);
            MUST(shrinkd_connect(NULL, NULL) == SHRINKD_ERROR_INVALID);
            MUST(shrinkd_connect(NULL, &client) == 0);
            MUST(shrinkd_pool_open(client, NULL, 4096, &pool) == SHRINKD_ERROR_INVALID && pool == NULL);
            MUST(shrinkd_pool_open(client, "p", 5, &pool) == SHRINKD_ERROR_INVALID);
            MUST(shrinkd_pool_open(NULL, "p", 4096, &pool) == SHRINKD_ERROR_INVALID);
            MUST(shrinkd_pool_open(client, "p", ~0ull, &pool) == SHRINKD_ERROR_INVALID);
            MUST(shrinkd_pool_open(client, "p", 1 << 20, &pool) == 0);
            MUST(shrinkd_object_create(pool, "o", 2 << 20, 0, &object) == SHRINKD_ERROR_NO_SPACE && object == NULL);
            MUST(shrinkd_object_create(pool, "o", 0, 0, &object) == SHRINKD_ERROR_INVALID);
            MUST(shrinkd_object_create(pool, "o", 4096, 64, &object) == SHRINKD_ERROR_INVALID);
            MUST(shrinkd_object_open(pool, 4711, &object) == SHRINKD_ERROR_NOT_FOUND);
            MUST(shrinkd_object_open(pool, ~0ull, &object) == SHRINKD_ERROR_NOT_FOUND);
            MUST(shrinkd_object_create(pool, "o", 5000, SHRINKD_PURGEABLE, &object) == 0);
            MUST(shrinkd_object_size(object) == 5000 && shrinkd_object_id(object) > 0);
            MUST(shrinkd_unpin(object) == 0);
            MUST(shrinkd_unpin(object) == SHRINKD_ERROR_NOT_PINNED);
            MUST(shrinkd_unpin(NULL) == SHRINKD_ERROR_INVALID && shrinkd_pin(NULL) == SHRINKD_ERROR_INVALID);
            MUST(shrinkd_object_id(NULL) == 0 && shrinkd_object_size(NULL) == 0 && shrinkd_object_bytes(NULL) == NULL);
            MUST(shrinkd_pin(object) == 1 && shrinkd_pin(object) == 1);
            MUST(shrinkd_unpin(object) == 0 && shrinkd_unpin(object) == 0);
            MUST(shrinkd_pin(object) == 1);
            pid_t child = fork();
            if (child == 0) _exit(shrinkd_unpin(object));
            int ending;
            MUST(waitpid(child, &ending, 0) == child && !(WIFEXITED(ending) && WEXITSTATUS(ending) == 0));
            MUST(shrinkd_unpin(object) == 0); /* a child has no part in its parent's pins */
            MUST(shrinkd_set_purgeable(object, 0) == 1 && shrinkd_set_leased(object, 1) == 0);
            MUST(shrinkd_object_open(pool, shrinkd_object_id(object), &twin) == 0);
            MUST(shrinkd_object_bytes(twin) == shrinkd_object_bytes(object));
            shrinkd_object_close(twin);
            MUST(shrinkd_pin(object) == 1);
            MUST(shrinkd_object_destroy(object) == 0);
            MUST(shrinkd_pin(object) == SHRINKD_ERROR_NOT_FOUND);
            MUST(shrinkd_unpin(object) == SHRINKD_ERROR_NOT_PINNED);
            MUST(shrinkd_on_revoke(client, NULL, NULL) == SHRINKD_ERROR_INVALID);
            shrinkd_object_close(object);
            MUST(shrinkd_object_create(pool, "o", 1, 0, &object) == 0);
            shrinkd_object_close(NULL); shrinkd_pool_close(NULL); shrinkd_disconnect(NULL);
            shrinkd_pool_close(pool);
            shrinkd_disconnect(client);
            MUST(shrinkd_pin(object) < 0);
            shrinkd_object_close(object);
            printf("all as declared\\n");
            return 0;
        }

        """

    private static let touch = """
        #include <shrinkd.h>
        #include <stdio.h>
        #include <string.h>
        #include <unistd.h>
        #define MUST(condition) do { if (!(condition)) { printf("line %d: " #condition ": %s\\n", __LINE__, shrinkd_error_message()); return 1; } } while (0)
        #define SIZE (1 << 20)
        int main(void) {
            shrinkd_client *client; shrinkd_pool *pool; shrinkd_object *object; shrinkd_mapping *mapping;
            MUST(shrinkd_connect(NULL, &client) == 0);
            MUST(shrinkd_mapping_register(NULL, &mapping) == SHRINKD_ERROR_INVALID && mapping == NULL);
            MUST(shrinkd_pool_open(client, "p", 2 * SIZE, &pool) == 0);
            MUST(shrinkd_mapping_register(pool, NULL) == SHRINKD_ERROR_INVALID);
            MUST(shrinkd_object_create(pool, "o", SIZE, 0, &object) == 0);
            MUST(shrinkd_unpin(object) == 0);
            MUST(shrinkd_mapping_register(pool, &mapping) == 0);
            unsigned char *bytes = shrinkd_mapping_bytes(mapping, object);
            MUST(bytes != NULL && bytes != shrinkd_object_bytes(object));
            MUST(shrinkd_mapping_bytes(NULL, object) == NULL && shrinkd_mapping_bytes(mapping, NULL) == NULL);
            for (int i = 0; i < SIZE; i++) bytes[i] = (unsigned char)(i * 7 + i / 4096);
            puts("registered"); fflush(stdout);
            getchar();
            for (int i = 0; i < SIZE / 2; i++) MUST(bytes[i] == (unsigned char)(i * 7 + i / 4096));
            if (shrinkd_mapping_serves_system_calls(mapping) == 1) {
                int ends[2];
                MUST(pipe(ends) == 0 && write(ends[1], bytes + SIZE - 4096, 4096) == 4096);
            }
            for (int i = SIZE / 2; i < SIZE; i++) MUST(bytes[i] == (unsigned char)(i * 7 + i / 4096));
            MUST(shrinkd_mapping_unregister(mapping) == 0);
            MUST(shrinkd_mapping_unregister(NULL) == SHRINKD_ERROR_INVALID);
            MUST(shrinkd_pin(object) == 1 && shrinkd_unpin(object) == 0);
            puts("unregistered"); fflush(stdout);
            getchar();
            MUST(shrinkd_pin(object) == SHRINKD_ERROR_STOPPED);
            MUST(strstr(shrinkd_error_message(), "was stopped") != NULL);
            printf("all as declared\\n");
            return 0;
        }

        """

    private static let unpinned = """
        #include <shrinkd.h>
        #include <stdio.h>
        #include <string.h>
        int main(void) {
            shrinkd_client *client; shrinkd_pool *pool; shrinkd_object *object, *twin;
            if (shrinkd_connect(NULL, &client) < 0 || shrinkd_pool_open(client, "p", 1 << 20, &pool) < 0) return 1;
            if (shrinkd_object_create(pool, "o", 5000, 0, &object) < 0) return 1;
            volatile char *bytes = shrinkd_object_bytes(object);
            memset((void *)bytes, 7, 5000); /* a new object is pinned */
            if (shrinkd_object_open(pool, shrinkd_object_id(object), &twin) < 0) return 1;
            if (shrinkd_pin(twin) != 1 || shrinkd_unpin(object) < 0) return 1;
            if (bytes[4999] != 7) return 1; /* its other handle has it pinned */
            if (shrinkd_unpin(twin) < 0 || shrinkd_pin(object) != 1 || bytes[0] != 7 || shrinkd_unpin(object) < 0) return 1;
            puts("pinned uses are fine"); fflush(stdout);
            bytes[4999] = 8;
            return shrinkd_object_destroy(object) < 0;
        }

        """

    private static let states = """
        #include <shrinkd.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>
        #include <unistd.h>
        static void say(const char *what) { puts(what); fflush(stdout); }
        static void hang(void *context, uint64_t object, uint64_t deadline) {
            (void)context; (void)object; (void)deadline;
            say("revoked");
            for (;;) pause();
        }
        int main(int argc, char **argv) {
            shrinkd_client *client; shrinkd_pool *pool; shrinkd_object *object, *shared;
            const char *state = argv[1];
            if (argc != 3 || shrinkd_connect(NULL, &client) < 0) return 1;
            if (strcmp(state, "connected") == 0) { say("ready"); for (;;) pause(); }
            if (shrinkd_pool_open(client, "states", 4096, &pool) < 0) return 1;
            if (shrinkd_object_open(pool, strtoull(argv[2], NULL, 10), &shared) < 0) return 1;
            if (strcmp(state, "opened") == 0) { say("ready"); for (;;) pause(); }
            if (shrinkd_pin(shared) != 1) return 1;
            if (shrinkd_object_create(pool, "own", 65536, strcmp(state, "revoked") == 0 ? SHRINKD_LEASED : 0, &object) < 0) return 1;
            memset(shrinkd_object_bytes(object), 7, 65536);
            if (strcmp(state, "revoked") == 0 && shrinkd_on_revoke(client, hang, NULL) < 0) return 1;
            if (strcmp(state, "pinned") == 0 && shrinkd_pin(object) != 1) return 1;
            if (strcmp(state, "pinning") == 0) {
                say("ready");
                for (;;) { shrinkd_unpin(object); shrinkd_pin(object); }
            }
            say("ready");
            for (;;) pause();
        }

        """
}
