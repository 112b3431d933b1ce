import ShrinkEngine
import ShrinkLinux
import Synchronization
import SystemPackage
import TestSupport

/// A device that is asleep until somebody holds it.
final class WatchedGate: PowerGate {
    private let state = Monitor((isAwake: false, canWake: true, holds: 0))

    var isAwake: Bool { state.withLock { $0.isAwake } }
    var holds: Int { state.withLock { $0.holds } }
    func sleep() { state.withLock { $0.isAwake = false } }
    func breakDown() { state.withLock { $0.canWake = false } }

    func hold() -> Bool {
        state.withLock { state in
            guard state.canWake else { return false }
            state.isAwake = true
            state.holds += 1
            return true
        }
    }

    func release() { state.withLock { $0.holds -= 1 } }
    func wakeLater() {}
}

/// A directory that counts who uses it, also while its device sleeps, and can be made to fail.
final class WatchedBackup: Backup {
    private let directory: BackupDirectory
    private let gate: WatchedGate?
    /// Openings of objects, and those with nobody holding the device awake.
    let opens = Atomic(0)
    let opensAsleep = Atomic(0)
    let isBroken = Atomic(false)

    init(_ directory: BackupDirectory, _ gate: WatchedGate? = nil) {
        self.directory = directory
        self.gate = gate
    }

    var power: (any PowerGate)? { gate }

    func create(_ id: ObjectID, sizeBytes: Int, hints: BackupHints) throws(EngineError) {
        try directory.create(id, sizeBytes: sizeBytes, hints: hints)
    }

    func open(_ id: ObjectID) throws(EngineError) -> BackupFile {
        opens.add(1, ordering: .relaxed)
        if let gate, gate.holds == 0 { opensAsleep.add(1, ordering: .relaxed) }
        if isBroken.load(ordering: .relaxed) { throw EngineError(.backupFailed, "it is broken", errno: .ioError) }
        return try directory.open(id)
    }

    func remove(_ id: ObjectID) throws(EngineError) { try directory.remove(id) }
    func nextID() throws(EngineError) -> ObjectID { try directory.nextID() }
    func status() -> BackupStatus { directory.status() }
    var availableBytes: UInt64 { directory.availableBytes }
    var isMemory: Bool { directory.isMemory }
    func objects() throws(EngineError) -> [ObjectID] { try directory.objects() }
}

extension Engine {
    /// An unpinned object whose pages all have a byte that is not zero.
    func makeFilledObject(in pool: PoolID, pages: Int) throws -> ObjectInfo {
        let file = try poolDescriptor(pool)
        let memory = try MappedMemory(sharing: file.number, count: try self.pool(pool).sizeBytes.rawValue)
        let object = try createObject(in: pool, name: "o", size: ByteCount(pages * basePageSize))
        for page in 0..<pages {
            memory.base.storeBytes(of: 7, toByteOffset: object.offsetBytes.rawValue + page * basePageSize, as: UInt8.self)
        }
        try unpin(object.id)
        return object
    }
}
