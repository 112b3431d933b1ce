import ShrinkLinux
import SystemPackage

/// Where a mounted backupfs offers windows: memory files that its server decompresses into and the engine has mapped, and compresses out of, so that pages
/// are not copied through the FUSE device.
///
/// One for each connection to a server: windows of one that is gone are useless, and known by it.
public final class BackupWindows: Sendable {
    private let root: SharedDescriptor
    private let next = Monitor(0)

    /// More than there are threads that copy.
    private static let limit = 16

    init(root: SharedDescriptor) { self.root = root }

    /// A window of the caller's own; nil if none can be had, then pages are read the ordinary way.
    func open() -> BackupWindow? {
        for _ in 0..<Self.limit {
            let number = next.withLock { next -> Int in
                defer { next = (next + 1) % Self.limit }
                return next
            }
            do throws(Errno) {
                let file = try Files.open(".window-\(number)", [.readWrite, .noFollow], at: root.number)
                return try BackupWindow(file)
            } catch {
                // Another thread's, another engine's, or one that nobody closed for an engine that died a moment ago.
                if error != .resourceBusy { return nil }
            }
        }
        return nil
    }
}

/// One window, mapped.
final class BackupWindow: @unchecked Sendable {
    // Sendable: one thread at a time has it filled and reads it.
    let file: OwnedDescriptor
    private let memory: MappedMemory

    static let sizeBytes = EngineLimits.runPages * basePageSize

    fileprivate init(_ file: consuming OwnedDescriptor) throws(Errno) {
        guard try Files.status(file.number).sizeBytes >= Self.sizeBytes else { throw .invalidArgument }
        memory = try MappedMemory(sharing: file.number, count: Self.sizeBytes)
        // Entered now: while memory is short nothing is to be allocated for it.
        for offset in stride(from: 0, to: Self.sizeBytes, by: basePageSize) { readByte(memory.base + offset) }
        self.file = file
    }

    var base: UnsafeMutableRawPointer { memory.base }
}
