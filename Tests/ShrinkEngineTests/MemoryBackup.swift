import ShrinkEngine
import ShrinkLinux
import SystemPackage

/// A backup whose objects are memory files: as fast as a backup can be, for histories of a million steps. It outlives engines, as a directory does.
final class MemoryBackup: Backup {
    private struct State {
        var files: [ObjectID: BackupFile] = [:]
        var next: UInt32 = 1
    }

    private let state = Monitor(State())
    private let available: UInt64

    init(availableBytes: UInt64 = .max) { available = availableBytes }

    func create(_ id: ObjectID, sizeBytes: Int, hints: BackupHints) throws(EngineError) {
        do throws(Errno) {
            let file = BackupFile(try MemoryFile.make("backup", size: sizeBytes), isStableOnlyWhenSynced: false)
            state.withLock { $0.files[id] = file }
        } catch { throw EngineError(.backupFailed, "no memory file", errno: error) }
    }

    func open(_ id: ObjectID) throws(EngineError) -> BackupFile {
        guard let file = state.withLock({ $0.files[id] }) else {
            throw EngineError(.backupFailed, "there is no \(id)", errno: .noSuchFileOrDirectory)
        }
        return file
    }

    func remove(_ id: ObjectID) throws(EngineError) { _ = state.withLock { $0.files.removeValue(forKey: id) } }

    func nextID() throws(EngineError) -> ObjectID {
        state.withLock { state in
            defer { state.next += 1 }
            return ObjectID(rawValue: state.next)
        }
    }

    func status() -> BackupStatus { BackupStatus(path: "memory", storedBytes: nil, availableBytes: available, features: []) }
    var availableBytes: UInt64 { available }
    var isMemory: Bool { true }
    func objects() throws(EngineError) -> [ObjectID] { state.withLock { $0.files.keys.sorted() } }
}
