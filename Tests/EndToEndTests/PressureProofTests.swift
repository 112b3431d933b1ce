import ShrinkClient
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import TestSupport
import Testing

/// The point of it all: where memory runs out, something is killed without shrinkd, and nothing with it.
///
/// A client with a pool, a hog, and in one of the two runs the daemons with their store on tmpfs, together in one memory cgroup that has room for
/// everything but the hog. The hog takes 96 MiB, 2 MiB at a time. Each run is a process of its own: the cgroup must not hold this one.
@Suite(.serialized) struct PressureProofTests {
    private static let poolBytes = 160 << 20
    private static let roomBytes = 40 << 20

    @Test func withShrinkdNothingIsKilledAndPoolAndStoreTogetherGetSmaller() async throws {
        guard let group = group() else { return }
        defer { group.remove() }
        let (path, scratch) = (group.path, try ScratchDirectory())
        let seenPath = scratch.file("seen")
        await #expect(processExitsWith: .success) { [path = path as String, seenPath = seenPath as String] in
            let group = MemoryGroup(path: path)
            try group.enter()
            let tmpfs = try ScratchMemoryFileSystem(sizeBytes: 256 << 20)
            let daemon = try DaemonProcess(
                store: tmpfs.path, arguments: ["--segment", "1M", "--low-watermark", "10%", "--high-watermark", "15%"], environment: [])
            let client = try ShrinkdClient(path: daemon.socket)
            let memory = try client.createPool("pool", sizeBytes: Self.poolBytes)
            let address = PoolAddress(id: memory.pool.poolId)
            var objects: [WireObject] = []
            for _ in 0..<Self.poolBytes >> 22 {
                let object = try client.call(
                    Methods.createObject, CreateObjectParameters(pool: address, objectName: "o", sizeBytes: 4 << 20)
                ).bufferObject
                guard let bytes = memory.bytes(of: object) else { throw Errno.ioError }
                PartlyRandom.fill(bytes, seed: UInt64(object.objectId), one: 4)
                _ = try client.call(Methods.unpin, ObjectAddress(objectId: object.objectId))
                objects.append(object)
            }
            func memoryOfPoolAndStore() throws -> Int {
                let pools = try client.call(Methods.listPools, ListPoolsParameters()).pools
                let status = try client.call(Methods.status, NoParameters())
                return pools.reduce(0) { $0 + $1.allocatedBytes } + (status.backup.bytesStored ?? 0)
            }
            let before = try memoryOfPoolAndStore()
            try group.limit(group.usageBytes + Self.roomBytes)
            let hog = try Hog(megabytes: 96)
            let ending = try hog.process.wait(timeoutMilliseconds: 120_000)
            let after = try memoryOfPoolAndStore()
            let pressure = try client.call(Methods.getPressure, NoParameters())
            // Of a process of its own only the status is reported: what it saw is written where its starter shows it.
            let seen =
                "pool and store: \(before >> 20) MiB before, \(after >> 20) MiB after; \(pressure.steps) steps; the hog: \(ending as Any)\n"
            try Files.replaceContents(of: seenPath, with: Array(seen.utf8))
            guard ending == .exited(0), group.killed == 0 else { throw Errno.noMemory }
            // What did not fit was given back, net of the store's growth.
            guard before - after > 40 << 20, pressure.steps > 0 else { throw Errno.invalidArgument }
            // And every byte is what it was.
            for object in objects {
                _ = try client.call(Methods.pin, ObjectAddress(objectId: object.objectId))
                guard let bytes = memory.bytes(of: object), PartlyRandom.isIntact(bytes, seed: UInt64(object.objectId), one: 4) else {
                    throw Errno.ioError
                }
                _ = try client.call(Methods.unpin, ObjectAddress(objectId: object.objectId))
            }
            client.close()
            guard try daemon.stop() == .exited(0) else { throw Errno.interrupted }
        }
        #expect(group.killed == 0)
        print((try? Files.contents(of: seenPath)).map { String(decoding: $0, as: UTF8.self) } ?? "it saw nothing")
    }

    @Test func withoutShrinkdTheSameEndsInAKill() async throws {
        guard let group = group() else { return }
        defer { group.remove() }
        let path = group.path
        await #expect(processExitsWith: .success) { [path = path as String] in
            let group = MemoryGroup(path: path)
            try group.enter()
            let file = try MemoryFile.make("pool", size: Self.poolBytes)
            let memory = try MappedMemory(sharing: file.number, count: Self.poolBytes)
            for start in stride(from: 0, to: Self.poolBytes, by: 4 << 20) {
                PartlyRandom.fill(
                    UnsafeMutableRawBufferPointer(rebasing: memory.bytes[start..<start + (4 << 20)]), seed: UInt64(start), one: 4)
            }
            try group.limit(group.usageBytes + Self.roomBytes)
            let hog = try Hog(megabytes: 96)
            let ending = try hog.process.wait(timeoutMilliseconds: 120_000)
            print("the hog: \(ending.map { "\($0)" } ?? "still there")")
            guard ending == .signalled(Signal.kill) else { throw Errno.invalidArgument }
        }
        #expect(group.killed == 1)
    }

    private func group() -> MemoryGroup? {
        guard Machine.isRoot, let group = try? MemoryGroup.make("-proof"), group.killed != nil else {
            Machine.lacks("a writable memory cgroup (version 1)", so: "the proof under pressure is not run")
            return nil
        }
        guard (try? Files.status(of: "/usr/bin/perl")) != nil else {
            Machine.lacks("perl", so: "the proof under pressure is not run")
            return nil
        }
        return group
    }
}

/// Takes private memory bit by bit, and is the first that the kernel kills.
private struct Hog: ~Copyable {
    let process: ChildProcess

    init(megabytes: Int) throws {
        let program = """
            open(F, ">", "/proc/self/oom_score_adj"); print F "1000"; close F;
            for (1..\(megabytes / 2)) { push @a, chr(65 + $_ % 26) x (2 << 20); select(undef, undef, undef, 0.2); }
            """
        process = try ChildProcess("/usr/bin/perl", ["-e", program], environment: ["LC_ALL=C"])
    }
}
