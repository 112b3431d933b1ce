import AllocationCount
import Glibc
import Logging
import ShrinkEngine
import ShrinkLinux
import SystemPackage

private let smallRuns = 4
private let largeRuns = 32
private let poolBytes = 2 * largeRuns * EngineLimits.runPages * basePageSize

func runTrial(_ arguments: [String]) {
    guard arguments.count == 2 else { exit(64) }
    guard allocation_count() != .max else { exit(77) }
    do { try run(arguments[0], arguments[1]) } catch {
        complain("\(error)")
        exit(1)
    }
}

private func run(_ directory: String, _ plan: String) throws {
    var configuration = Engine.Configuration()
    configuration.memoryFloor = .mebibytes(1)
    switch plan {
    case "plain", "touched": break
    case "guarded": configuration.clientsAreStrangers = true
    case "limited": configuration.maximumResident = ByteCount(2 * poolBytes)
    default: exit(64)
    }
    let engine = try Engine(
        backup: try BackupDirectory(path: directory), configuration: configuration,
        logger: Logger(label: "trial") { _ in SwiftLogNoOpLogHandler() })
    let pool = try engine.createPool(name: "p", owner: 0, size: ByteCount(poolBytes)).id
    let file = try engine.poolDescriptor(pool)
    let memory = try MappedMemory(sharing: file.number, count: poolBytes)
    let touched = try MappedMemory(sharing: file.number, count: poolBytes)
    let userfaults = try plan == "touched" ? SharedDescriptor(Userfaults.open(.userMode)) : nil
    if let userfaults {
        _ = try engine.registerMapping(
            pool, userfaults: try userfaults.duplicate(),
            at: MappingPlace(address: UInt(bitPattern: touched.base), offset: .zero, length: ByteCount(poolBytes)))
    }
    var objects: [ObjectInfo] = []
    for runs in [smallRuns, largeRuns] {
        objects.append(try engine.createObject(in: pool, name: "o", size: ByteCount(runs * EngineLimits.runPages * basePageSize)))
        try engine.unpin(objects[objects.count - 1].id)
    }
    // What the runtime and the C library make once is made now.
    for object in objects {
        for page in 0..<object.pageCount {
            (memory.base + object.offsetBytes.rawValue + page * basePageSize).storeBytes(of: UInt64(page + 1), as: UInt64.self)
        }
        try check(engine.shrink(.object(object.id)).failure)
        try check(engine.recover(.object(object.id)).failure)
    }
    try measureObjects(engine)
    try measure("shrink", objects) { try check(engine.shrink(.object($0.id)).failure) }
    try measure("recover", objects) { try check(engine.recover(.object($0.id)).failure) }
    for object in objects { try engine.setPurgeable(object.id, true) }
    try measure("purge", objects) { try check(engine.shrink(.object($0.id)).failure) }
    // A mapping with nobody to read its events waits for ever to be unmapped.
    let start = UInt(bitPattern: touched.base)
    if let userfaults { try? Userfaults.unregister(userfaults.number, start..<start + UInt(poolBytes)) }
    exit(0)
}

/// Pools of few and of many objects, a page each.
private func measureObjects(_ engine: Engine) throws {
    var pools: [PoolID] = []
    for (name, count) in [("warm", 4), ("few", 4), ("many", 68)] {
        let pool = try engine.createPool(name: name, owner: 0, size: ByteCount(count * basePageSize)).id
        let file = try engine.poolDescriptor(pool)
        let memory = try MappedMemory(sharing: file.number, count: count * basePageSize)
        for _ in 0..<count {
            let object = try engine.createObject(in: pool, name: "o", size: ByteCount(basePageSize))
            (memory.base + object.offsetBytes.rawValue).storeBytes(of: 7, as: UInt8.self)
            try engine.unpin(object.id)
        }
        pools.append(pool)
    }
    for name in ["shrink-objects", "recover-objects"] {
        var counts: [UInt64] = []
        for pool in pools {
            let before = allocation_count()
            try check(name == "shrink-objects" ? engine.shrink(.pool(pool)).failure : engine.recover(.pool(pool)).failure)
            counts.append(allocation_count() - before)
        }
        say("\(name) \(counts[1]) \(counts[2]) 64")
    }
}

private func measure(_ name: String, _ objects: [ObjectInfo], _ body: (ObjectInfo) throws -> Void) throws {
    var counts: [UInt64] = []
    for object in objects {
        let before = allocation_count()
        try body(object)
        counts.append(allocation_count() - before)
    }
    say("\(name) \(counts[0]) \(counts[1]) \(largeRuns - smallRuns)")
}

/// Fails with what an operation tells.
private func check(_ failure: EngineError?) throws {
    if let failure { throw failure }
}

private func say(_ text: String) { put(1, text) }
private func complain(_ text: String) { put(2, text) }
private func put(_ descriptor: CInt, _ text: String) {
    let bytes = Array((text + "\n").utf8)
    _ = bytes.withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) }
}
