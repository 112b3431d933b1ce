import CTouchFloor
import Glibc
import ShrinkEngine
import ShrinkLinux

/// A mapping of its own whose faults a loop in C serves from the same store.
final class TouchFloor {
    private let memory: MappedMemory
    private let file: OwnedDescriptor
    private let userfaults: OwnedDescriptor
    private let stop: Wakeup
    private let thread: DedicatedThread
    private let outcome = Monitor<CInt?>(nil)

    init(mount: String, objects: [ObjectID], objectBytes: Int, count: Int) throws {
        file = try MemoryFile.makeSealed("touch-floor", size: count)
        memory = try MappedMemory(sharing: file.number, count: count)
        userfaults = try Userfaults.open(.userMode)
        try Userfaults.begin(userfaults.number, [.missingInSharedMemory])
        let start = UInt(bitPattern: memory.base)
        try Userfaults.register(userfaults.number, start..<start + UInt(count), .missing)
        stop = try Wakeup()
        var files: [CInt] = []
        for id in objects { files.append(try Files.open("\(mount)/objects/\(id.rawValue)/data", .readOnly).release()) }
        let (fd, stopFD, pagesPerFile) = (userfaults.number, stop.number, UInt64(objectBytes / basePageSize))
        let ready = Monitor(false)
        thread = try DedicatedThread("touch-floor") { [outcome, files] in
            ready.withLock { $0 = true }
            ready.notifyAll()
            let buffer = UnsafeMutableRawPointer.allocate(byteCount: basePageSize, alignment: basePageSize)
            let result = touch_floor_serve(fd, stopFD, UInt64(start), files, pagesPerFile, buffer)
            buffer.deallocate()
            for file in files { _ = close(file) }
            outcome.withLock { $0 = result }
        }
        // The thread has its name then, by which it is placed.
        ready.wait { $0 ? () : nil }
    }

    func touch(_ page: Int) -> UInt64 {
        let started = MonotonicTime.now()
        readByte(memory.base + page * basePageSize)
        return MonotonicTime.now().nanoseconds(since: started)
    }

    func compare(_ pages: [Int], with data: RealPages) throws {
        for page in pages {
            let offset = page * basePageSize
            guard memcmpEqual(memory.base + offset, data.bytes.baseAddress! + offset, basePageSize) else {
                throw BenchError("the floor's content differs")
            }
        }
    }

    /// All pages are missing again.
    func forget() { try? Files.punch(file.number, at: 0, length: memory.count) }

    func end() throws {
        stop.signal()
        thread.join()
        let result = outcome.withLock { $0 }
        guard result == 0 else { throw BenchError("the floor's loop ended with errno \(result ?? -1)") }
        let start = UInt(bitPattern: memory.base)
        try Userfaults.unregister(userfaults.number, start..<start + UInt(memory.count))
    }
}
