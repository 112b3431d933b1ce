import Glibc
import ShrinkEngine
import ShrinkLinux
import SystemPackage
import TestSupport

/// An engine with one pool that is mapped twice: by the fixture, as a program that pins, and by a mapping that is registered for touch.
///
/// The faults are those of this process's own threads, and system calls of theirs are told too where the machine allows it.
final class TouchFixture {
    let base: EngineFixture
    let touched: MappedMemory
    let userfaults: OwnedDescriptor
    private(set) var mapping: MappingID

    var engine: Engine { base.engine }

    init(
        poolPages: Int = 4096, seed: UInt64 = 1, reach: Userfaults.Reach = .userMode,
        configure: (inout Engine.Configuration) -> Void = { _ in }
    ) throws {
        base = try EngineFixture(poolPages: poolPages, storeBytes: 128 << 20, seed: seed, configure: configure)
        let file = try base.engine.poolDescriptor(base.pool)
        touched = try MappedMemory(sharing: file.number, count: poolPages * basePageSize)
        userfaults = try Userfaults.open(reach)
        mapping = try base.engine.registerMapping(
            base.pool, userfaults: try userfaults.duplicate(),
            at: MappingPlace(address: UInt(bitPattern: touched.base), offset: .zero, length: ByteCount(touched.count)))
    }

    deinit {
        // A mapping with nobody to read its events waits for ever to be unmapped.
        let start = UInt(bitPattern: touched.base)
        try? Userfaults.unregister(userfaults.number, start..<start + UInt(touched.count))
    }

    /// As if another engine had taken the mapping over: what is known of it is what was kept.
    func readopt() throws {
        guard let left = engine.persistentMapping(mapping) else { throw Errno.noSuchFileOrDirectory }
        engine.unregisterMapping(mapping)
        try engine.adoptMapping(left)
    }

    func register() throws {
        mapping = try engine.registerMapping(
            base.pool, userfaults: try userfaults.duplicate(),
            at: MappingPlace(address: UInt(bitPattern: touched.base), offset: .zero, length: ByteCount(touched.count)))
    }

    /// A page of an object where it may be touched without a pin.
    func page(_ object: ObjectInfo, _ page: Int) -> UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(start: touched.base + object.offsetBytes.rawValue + page * basePageSize, count: basePageSize)
    }

    func matches(_ object: ObjectInfo, _ index: Int, zeroEvery: UInt64 = 5) -> Bool {
        let expected = base.pattern.page(Int(object.id.rawValue) << 20 | index, zeroEvery: zeroEvery)
        return page(object, index).elementsEqual(expected)
    }

    /// How a system call fares that is given the page: nil, or its error. EFAULT where the page's toucher would get SIGBUS, if the mapping's reach is full.
    func systemCall(on object: ObjectInfo, _ index: Int) throws -> Errno? {
        let target = try MemoryFile.make("target", size: basePageSize)
        return pwrite(target.number, page(object, index).baseAddress, basePageSize, 0) == basePageSize ? nil : Errno(rawValue: errno)
    }
}
