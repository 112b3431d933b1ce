import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@testable import ShrinkEngine

/// What one uid or one pool may take, and that its limit is nobody else's.
@Suite struct UserLimitTests {
    private func fixture(_ limits: (inout UserLimits) -> Void) throws -> EngineFixture {
        var user = UserLimits()
        limits(&user)
        return try EngineFixture { configuration in
            configuration.userLimits = user
            configuration.unlimitedUser = 0
        }
    }

    private func refusal<R>(_ body: () throws -> R) -> EngineError? {
        do {
            _ = try body()
            return nil
        } catch { return error as? EngineError }
    }

    @Test func oneUserCannotTakeAllPools() throws {
        let fixture = try EngineFixture { $0.unlimitedUser = 0 }
        let engine = fixture.engine
        var made = 0
        while refusal({ try engine.createPool(name: "p\(made)", owner: 7, size: ByteCount(basePageSize)) }) == nil { made += 1 }
        #expect(made == 64)
        let error = refusal { try engine.createPool(name: "one more", owner: 7, size: ByteCount(basePageSize)) }
        #expect(error?.code == .limitReached && error?.message.contains("uid 7") == true)
        #expect(refusal { try engine.createPool(name: "p", owner: 8, size: ByteCount(basePageSize)) } == nil, "others go on")
        try engine.destroyPool(try engine.pool(named: "p0", owner: 7).id)
        #expect(refusal { try engine.createPool(name: "p0", owner: 7, size: ByteCount(basePageSize)) } == nil)
        #expect(engine.userUsage().map(\.owner) == [0, 7, 8])
        #expect(engine.userUsage(of: 7).pools == 64 && engine.userUsage(of: 7).limits?.pools == 64)
        #expect(engine.userUsage(of: 0).limits == nil)
    }

    @Test func bytesAndObjectsOfAUserAreLimited() throws {
        let fixture = try fixture { limits in
            limits.poolBytes = .mebibytes(1)
            limits.objects = 3
        }
        let engine = fixture.engine
        let first = try engine.createPool(name: "a", owner: 7, size: ByteCount(512 << 10))
        let second = try engine.createPool(name: "b", owner: 7, size: ByteCount(512 << 10))
        #expect(refusal { try engine.createPool(name: "c", owner: 7, size: ByteCount(basePageSize)) }?.code == .limitReached)
        for pool in [first, first, second] { _ = try engine.createObject(in: pool.id, name: "o", size: ByteCount(1)) }
        let error = refusal { try engine.createObject(in: second.id, name: "o", size: ByteCount(1)) }
        #expect(error?.code == .limitReached && error?.message.contains("uid 7") == true)
        #expect(refusal { try fixture.makeObject(pages: 1) } == nil)
        let usage = engine.userUsage(of: 7)
        #expect(usage.objects == 3 && usage.poolBytes == .mebibytes(1))
        #expect(engine.brokenInvariants() == [])
    }

    /// The backup of one user ends at its limit; the pages beyond stay in memory whole, and others go out as ever.
    @Test func theBackupOfAUserIsLimited() throws {
        let fixture = try fixture { $0.backedUpBytes = ByteCount(10 * basePageSize) }
        let engine = fixture.engine
        let pool = try engine.createPool(name: "a", owner: 7, size: .mebibytes(1)).id
        let file = try engine.poolDescriptor(pool)
        let memory = try MappedMemory(sharing: file.number, count: 1 << 20)
        var limited: [ObjectInfo] = []
        for _ in 0..<4 {
            let object = try engine.createObject(in: pool, name: "o", size: ByteCount(8 * basePageSize))
            for page in 0..<8 {
                (memory.base + object.offsetBytes.rawValue + page * basePageSize).storeBytes(of: UInt64(page + 1), as: UInt64.self)
            }
            try engine.unpin(object.id)
            limited.append(object)
        }
        let free = try (0..<4).map { _ in try fixture.makeObject(pages: 8, zeroEvery: 0) }
        let result = engine.shrink(.all)
        #expect(result.failure?.code == .limitReached && result.failure?.message.contains("uid 7") == true)
        #expect(engine.userUsage(of: 7).backedUpBytes.rawValue == 10 * basePageSize)
        #expect(try free.allSatisfy { try engine.object($0.id).pages.backedUp == 8 }, "another user's pages are not held up")
        var content = [UInt8](repeating: 0, count: basePageSize)
        for object in limited {
            for page in 0..<8 {
                _ = try content.withUnsafeMutableBytes { try engine.read(object.id, at: ByteCount(page * basePageSize), into: $0) }
                #expect(content[0] == UInt8(page + 1))
            }
        }
        // What comes back makes room again.
        #expect(engine.recover(.pool(pool)).failure == nil)
        #expect(engine.shrink(.object(limited[3].id)).failure == nil)
        #expect(engine.brokenInvariants() == [])
    }

    @Test func aPoolHasTheLimitsItWasMadeWith() throws {
        let fixture = try EngineFixture()
        let engine = fixture.engine
        let limits = PoolLimits(objects: 2, backedUpBytes: ByteCount(3 * basePageSize))
        let pool = try engine.createPool(name: "small", owner: 0, size: .mebibytes(1), limits: limits)
        #expect(pool.limits == limits)
        let object = try engine.createObject(in: pool.id, name: "o", size: ByteCount(8 * basePageSize))
        let file = try engine.poolDescriptor(pool.id)
        let memory = try MappedMemory(sharing: file.number, count: 1 << 20)
        for page in 0..<8 {
            memory.base.storeBytes(of: 1, toByteOffset: object.offsetBytes.rawValue + page * basePageSize, as: UInt64.self)
        }
        try engine.unpin(object.id)
        _ = try engine.createObject(in: pool.id, name: "o", size: ByteCount(1))
        #expect(refusal { try engine.createObject(in: pool.id, name: "o", size: ByteCount(1)) }?.code == .limitReached)
        #expect(engine.shrink(.object(object.id)).failure?.code == .limitReached)
        #expect(try engine.object(object.id).pages.backedUp == 3)
        // A later engine knows them too.
        let kept = try engine.persistentDescriptors(of: pool.id)
        let second = try Engine(backup: fixture.backup, logger: quiet)
        let adopted = try second.adoptPool(file: try kept.file.duplicate(), ledger: try kept.ledger.duplicate()).pool
        #expect(try second.pool(adopted).limits == limits)
    }
}
