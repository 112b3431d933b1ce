import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@testable import ShrinkEngine

/// Rows of the kernel's tests that need a look inside (reference §3).
@Suite struct KernelRowTests {
    @Test func resource_manager_init_basic() throws {
        let engine = try Engine(backup: MemoryBackup(), logger: quiet)
        let pool = try engine.createPool(name: "p", owner: 0, size: .mebibytes(1))
        #expect(pool.allocatedBytes == .zero && pool.freeBytes == .mebibytes(1) && pool.objectCount == 0 && pool.pages == PageCounts())
        #expect(engine.state.withLock { $0.lru.count } == 0 && engine.brokenInvariants() == [])
    }

    /// A new object has its backup, made with it, and nothing in it; destroying takes it away.
    @Test func tt_create_basic() throws {
        let backup = MemoryBackup()
        let engine = try Engine(backup: backup, logger: quiet)
        let pool = try engine.createPool(name: "p", owner: 0, size: .mebibytes(1)).id
        let object = try engine.createObject(in: pool, name: "o", size: ByteCount(5 * basePageSize))
        #expect(try backup.objects() == [object.id])
        #expect(object.pages == PageCounts(empty: 5) && object.pinCount == 1)
        try engine.unpin(object.id)
        try engine.destroyObject(object.id)
        #expect(try backup.objects() == [])
    }

    /// Not to wait is not to wait, also with a ticket, and the older ticket's wish is known all the same.
    @Test func reserve_no_wait_ticket() throws {
        let engine = try Engine(backup: MemoryBackup(), logger: quiet)
        let pool = try engine.createPool(name: "p", owner: 0, size: .mebibytes(1)).id
        let id = try engine.createObject(in: pool, name: "o", size: ByteCount(1)).id
        let other = try engine.createObject(in: pool, name: "o", size: ByteCount(1)).id
        guard let older = engine.state.withLock({ $0.tickets.make() }), let younger = engine.state.withLock({ $0.tickets.make() }),
            case .reserved(let slot) = engine.reserve(id, .never, ticket: younger)
        else { return #expect(Bool(false)) }
        #expect(engine.reserve(id, .never) == .busy)
        #expect(engine.reserve(id, .never, ticket: younger) == .alreadyHeld)
        #expect(engine.reserve(id, .never, ticket: older) == .busy)
        #expect(engine.reserve(other, .never, ticket: younger) == .deadlock, "it has to let go first")
        engine.release(slot)
        guard case .reserved(let free) = engine.reserve(other, .never, ticket: younger) else { return #expect(Bool(false)) }
        engine.release(free)
        engine.state.withLock { state in
            state.tickets.end(older)
            state.tickets.end(younger)
        }
    }
}
