import ShrinkLinux
import Synchronization
import SystemPackage

/// One directory of a store: its segments, its signature (held locked), how it does.
final class StoreTier: Sendable {
    let number: Int
    let path: String
    let directory: SharedDescriptor
    let segments: SharedDescriptor
    /// True if the directory lies in memory: nothing there needs syncing, and room is a matter of memory.
    let inMemory: Bool
    /// The size of the large pages that a file gets there which is long enough from the start (tmpfs with `huge=within_size` or `always`); nil: small ones.
    let hugePageBytes: Int?
    private let signature: SharedDescriptor

    let errors = Atomic<Int>(0)
    private let lastError = Mutex<String>("")

    init(number: Int, path: String, directory: SharedDescriptor, signature: SharedDescriptor, inMemory: Bool) throws(Errno) {
        self.number = number
        self.path = path
        self.directory = directory
        self.signature = signature
        self.inMemory = inMemory
        do { try Files.makeDirectory("segments", at: directory.number) } catch {
            if error != .fileExists { throw error }
        }
        segments = SharedDescriptor(try Files.open("segments", [.readOnly, .directory, .noFollow], at: directory.number))
        hugePageBytes = inMemory ? Self.hugePageBytes(in: segments.number) : nil
    }

    private static func hugePageBytes(in directory: CInt) -> Int? {
        guard let file = try? Files.openUnnamed(in: directory), (try? Files.truncate(file.number, to: 64 << 20)) != nil,
            let status = try? Files.status(file.number), status.preferredBytes > basePageSize
        else { return nil }
        return status.preferredBytes
    }

    func note(_ what: String, _ error: Errno) {
        errors.add(1, ordering: .relaxed)
        lastError.withLock { $0 = "\(what): \(error)" }
    }

    var state: String {
        let count = errors.load(ordering: .relaxed)
        return count == 0 ? "ok" : "\(count) errors, last \(lastError.withLock { $0 })"
    }

    /// A directory's names outlive a power cut only after this.
    func syncNames() throws(Errno) {
        if !inMemory { try Files.sync(segments.number) }
    }

    static func segmentName(_ number: Int) -> String { String(number) }

    /// The room for more, as the file system and for a memory tier the machine's memory have it; bytes.
    func available(memoryFloorBytes: UInt64) throws(Errno) -> (available: UInt64, total: UInt64) {
        let system = try FileSystem(of: directory.number)
        guard inMemory else { return (system.availableBytes, system.totalBytes) }
        let memory = try MemoryInfo()
        let free = memory.availableWithSwap
        let offered = free > memoryFloorBytes ? free - memoryFloorBytes : 0
        return (min(system.availableBytes, offered), system.totalBytes)
    }
}
