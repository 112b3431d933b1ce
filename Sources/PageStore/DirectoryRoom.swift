import ShrinkLinux
import SystemPackage

/// What a directory's file system offers. Where that is memory, the machine's limits it too: its pages compete with what they were moved out for.
func roomOfDirectory(_ directory: CInt) -> StoreRoom {
    guard let fileSystem = try? FileSystem(of: directory) else { return StoreRoom(totalBytes: 0, availableBytes: 0) }
    guard fileSystem.kind == .memory, let memory = try? MemoryInfo() else {
        return StoreRoom(totalBytes: fileSystem.totalBytes, availableBytes: fileSystem.availableBytes)
    }
    let floor = max(64 << 20, memory.total / 64)
    let free = memory.availableWithSwap
    let available = min(fileSystem.availableBytes, free > floor ? free - floor : 0)
    return StoreRoom(totalBytes: fileSystem.totalBytes == 0 ? memory.total : fileSystem.totalBytes, availableBytes: available)
}
