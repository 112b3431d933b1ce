import ShrinkClient
import ShrinkLinux
import ShrinkProtocol
import Synchronization
import SystemPackage
import TestSupport
import Testing

@testable import ShrinkEngine

/// Answers revocations of one client on whatever thread asks.
final class Listener: Sendable {
    private let engine: Engine
    private let client: GateClientID
    private let answer: @Sendable (Revocation) -> Bool

    /// `answer` false: never acknowledged.
    init(_ engine: Engine, _ client: GateClientID, _ answer: @escaping @Sendable (Revocation) -> Bool) {
        self.engine = engine
        self.client = client
        self.answer = answer
        listen(nil)
    }

    private func listen(_ done: UInt64?) {
        engine.awaitRevocation(
            client, acknowledging: done,
            RevocationWait { revocation in
                guard let revocation else { return }
                // Not on the asking thread: it waits.
                try? DedicatedThread("device") {
                    if self.answer(revocation) { self.listen(revocation.id) }
                }.detach()
            })
    }
}

@Suite(.serialized) struct LeaseTests {
    @Test func leasedPagesGoOnlyAfterTheUserHasLetGo() throws {
        let fixture = try EngineFixture()
        let engine = fixture.engine
        let object = try fixture.makeObject(pages: 16, zeroEvery: 0)
        let user = try GateUser(engine)
        let gate = user.gate(try engine.attachGate(object.id, client: user.id))
        #expect(gate.pin() != nil)
        try engine.setLease(object.id, true)
        #expect(try engine.object(object.id).isLeased)
        let asked = Monitor<[Revocation]>([])
        let listener = Listener(engine, user.id) { revocation in
            asked.withLock { $0.append(revocation) }
            return gate.unpin()
        }
        let result = engine.shrink(.object(object.id))
        #expect(result.failure == nil && result.revokedLeases == 1 && result.unansweredLeases == 0)
        #expect(result.freedBytes.rawValue == 16 * basePageSize && result.kernelFreedBytes != nil)
        #expect(asked.withLock { $0.map(\.object) } == [object.id])
        #expect(try engine.pinGate(object.id, client: user.id).retained)
        #expect(try fixture.mismatches(object, zeroEvery: 0) == [])
        // As part of more, and of a number of bytes.
        let plain = try fixture.makeObject(pages: 4, zeroEvery: 0)
        let part = engine.shrink(.bytes(ByteCount(4 * basePageSize)))
        #expect(part.revokedLeases == 0 && part.freedBytes.rawValue == 4 * basePageSize, "the rest is enough")
        #expect(try engine.object(plain.id).pages.backedUp == 4)
        let all = engine.shrink(.all)
        #expect(all.revokedLeases == 1 && all.skippedObjects == 0 && all.freedBytes.rawValue == 16 * basePageSize)
        #expect(engine.leaseCounters() == LeaseCounters(leasedObjects: 1, revocations: 2, answered: 2, unanswered: 0))
        // Unpinned, it goes without being asked for.
        #expect(engine.recover(.all).failure == nil)
        #expect(engine.shrink(.all).revokedLeases == 0)
        #expect(asked.withLock { $0.count } == 2)
        withExtendedLifetime(listener) {}
        #expect(engine.brokenInvariants() == [])
    }

    @Test func whoDoesNotAnswerKeepsItsMemory() throws {
        let fixture = try EngineFixture { $0.revocationMilliseconds = 100 }
        let engine = fixture.engine
        let object = try fixture.makeObject(pages: 4, zeroEvery: 0)
        let user = try GateUser(engine)
        let gate = user.gate(try engine.attachGate(object.id, client: user.id))
        #expect(gate.pin() != nil)
        try engine.setLease(object.id, true)
        // Nobody listens: nothing to wait for.
        #expect(engine.shrink(.object(object.id)).failure?.code == .busy)
        #expect(engine.leaseCounters().unanswered == 1 && engine.leaseCounters().revocations == 0)
        // Listens, and hangs.
        let hung = Monitor(0)
        let listener = Listener(engine, user.id) { _ in
            hung.withLock { $0 += 1 }
            hung.notifyAll()
            return false
        }
        let result = engine.shrink(.all)
        #expect(result.unansweredLeases == 1 && result.freedBytes == .zero && result.failure == nil)
        let refusal = engine.shrink(.object(object.id)).failure
        #expect(refusal?.code == .busy)
        // Its thread may still be on its way.
        #expect(hung.wait(deadline: MonotonicTime.now().advanced(milliseconds: 60_000)) { $0 > 0 ? true : nil } == true)
        #expect(hung.withLock { $0 } == 1, "asked once, as long as it does not come back")
        #expect(gate.pins == 1)
        #expect(try fixture.mismatches(object, zeroEvery: 0) == [])
        // It acknowledges without unpinning: its word is not enough.
        let liar = Listener(engine, user.id) { _ in true }
        let lied = engine.shrink(.object(object.id))
        #expect(lied.failure?.code == .busy && gate.pins == 1)
        // It dies: what it held is free.
        engine.removeGateClient(user.id)
        #expect(engine.shrink(.object(object.id)).failure == nil)
        #expect(hung.withLock { $0 } == 1)
        withExtendedLifetime((listener, liar)) {}
    }

    @Test func aDyingClientEndsTheWaitForIt() throws {
        let fixture = try EngineFixture { $0.revocationMilliseconds = 60_000 }
        let engine = fixture.engine
        let object = try fixture.makeObject(pages: 4, zeroEvery: 0)
        let user = try GateUser(engine)
        let gate = user.gate(try engine.attachGate(object.id, client: user.id))
        #expect(gate.pin() != nil)
        try engine.setLease(object.id, true)
        let listener = Listener(engine, user.id) { _ in
            engine.removeGateClient(user.id)
            return false
        }
        let started = MonotonicTime.now()
        #expect(engine.shrink(.object(object.id)).failure == nil)
        #expect(MonotonicTime.now().nanoseconds(since: started) < 50_000_000_000)
        withExtendedLifetime(listener) {}
    }

    /// Punching pages that a device holds frees nothing: the file shrinks, the machine's free memory does not. Asking first frees them.
    ///
    /// Measured in a memory cgroup of the child's own, where nobody else takes or gives: a page is charged there until the kernel has it back.
    @Test func onlyAskingGivesTheKernelItsMemoryBack() async throws {
        do throws(Errno) { try FixedBuffers(UnsafeMutableRawBufferPointer(start: nil, count: 0)).unregister() } catch {
            if error == Errno(rawValue: 38) || error == .notPermitted {
                return Machine.lacks("io_uring (\(error))", so: "leases are not tried against pages that the kernel holds")
            }
        }
        guard Machine.isRoot, let group = try? MemoryGroup.make("-lease") else {
            return Machine.lacks("a writable memory cgroup (version 1)", so: "leases are not tried against pages that the kernel holds")
        }
        group.remove()
        await #expect(processExitsWith: .success) {
            let bytes = 64 << 20
            let group = try MemoryGroup.make("-lease")
            defer { group.remove() }
            try group.enter()
            let naive = try freed(bytes, isLeased: false, group)
            let asked = try freed(bytes, isLeased: true, group)
            print("of \(bytes) bytes the kernel got back \(naive.kernel) the naive way, \(asked.kernel) after asking; told \(asked.told)")
            guard naive.file == bytes, asked.file == bytes, naive.kernel < bytes / 8, asked.kernel > bytes / 8 * 7 else {
                throw Errno.ioError
            }
        }
    }
}

/// What a pool's file lost, what the kernel got back, and what the engine says of that, when an object goes that an io_uring has registered.
private func freed(_ bytes: Int, isLeased: Bool, _ group: MemoryGroup) throws -> (file: Int, kernel: Int, told: Int) {
    let fixture = try EngineFixture(poolPages: bytes / basePageSize)
    let engine = fixture.engine
    let user = try GateUser(engine)
    let object = try engine.createObject(in: fixture.pool, name: "buffers", size: ByteCount(bytes))
    let gate = user.gate(try engine.attachGate(object.id, client: user.id, takingOver: 1))
    // Given up rather than copied, so that no store takes what is freed.
    try engine.setPurgeable(object.id, true)
    for page in 0..<object.pageCount { fixture.bytes(object, page)[0] = 1 }
    let memory = UnsafeMutableRawBufferPointer(start: fixture.bytes(object, 0).baseAddress, count: bytes)
    let device = Monitor(DeviceHold(try FixedBuffers(memory)))
    defer { device.withLock { $0.letGo() } }
    let before = try group.usageBytes
    /// Waits a bounded time for what is freed a little later.
    func gained() throws -> Int {
        let deadline = MonotonicTime.now().advanced(milliseconds: isLeased ? 10_000 : 1_000)
        while before - (try group.usageBytes) < bytes / 8 * 7, MonotonicTime.now() < deadline {
            _ = Monitor(()).wait(deadline: .now().advanced(milliseconds: 5)) { _ in Void?.none }
        }
        return before - (try group.usageBytes)
    }
    guard isLeased else {
        // Unpinned although the device still has it: what a program does that knows nothing of leases.
        guard gate.unpin() else { throw Errno.invalidArgument }
        let result = engine.shrink(.object(object.id))
        guard result.failure == nil else { throw Errno.ioError }
        return (result.freedBytes.rawValue, try gained(), 0)
    }
    try engine.setLease(object.id, true)
    let listener = Listener(engine, user.id) { _ in
        device.withLock { $0.letGo() }
        return gate.unpin()
    }
    let result = engine.shrink(.object(object.id))
    guard result.failure == nil, result.revokedLeases == 1 else { throw Errno.ioError }
    withExtendedLifetime(listener) {}
    return (result.freedBytes.rawValue, try gained(), result.kernelFreedBytes?.rawValue ?? 0)
}

private struct DeviceHold: ~Copyable {
    private var buffers: FixedBuffers?

    init(_ buffers: consuming FixedBuffers) { self.buffers = consume buffers }

    mutating func letGo() { if let buffers = buffers.take() { try? buffers.unregister() } }
}
