import Glibc
import Logging
import ShrinkEngine
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@Suite struct KernelSwapTests {
    @Test func aSecondMapperIsRefused() throws {
        let swap = KernelSwap()
        try swap.setMapper(processID: ThisProcess.processID, address: 0x1000, length: .mebibytes(1))
        do {
            try swap.setMapper(processID: ThisProcess.processID, address: 0x2000, length: .mebibytes(1))
            #expect(Bool(false), "two mappers")
        } catch { #expect(error.code == .busy) }
        swap.removeMapper()
        try swap.setMapper(processID: ThisProcess.processID, address: 0x2000, length: .mebibytes(1))
    }

    /// Without swap nothing goes, whatever process_madvise returns: mincore tells.
    @Test func whatIsCountedIsWhatMincoreSeesGo() throws {
        guard Machine.isRoot, let swap = try? ScratchSwap() else {
            return Machine.lacks("root or a zram device of its own", so: "paging out through the kernel's swap is not tested")
        }
        let tmpfs = try ScratchMemoryFileSystem(sizeBytes: 1 << 20)
        let backend = KernelSwap()
        let engine = try Engine(backup: try BackupDirectory(path: tmpfs.path), logger: quiet)
        let pages = 1024
        let pool = try engine.createPool(name: "swap", owner: 0, size: ByteCount(pages * basePageSize), backup: backend).id
        let file = try engine.poolDescriptor(pool)
        let memory = try MappedMemory(sharing: file.number, count: pages * basePageSize)
        let object = try engine.createObject(in: pool, name: "o", size: ByteCount(pages * basePageSize))
        let pattern = PagePattern(seed: 3)
        for page in 0..<pages {
            pattern.fill(
                UnsafeMutableRawBufferPointer(start: memory.base + page * basePageSize, count: basePageSize), index: page, zeroEvery: 0)
        }
        try engine.unpin(object.id)
        #expect(engine.shrink(.object(object.id)).failure?.code == .busy, "nobody has said that he maps it")

        try backend.setMapper(
            processID: ThisProcess.processID, address: UInt(bitPattern: memory.base), length: ByteCount(pages * basePageSize))
        // Not turned on yet: nothing goes, and nothing is claimed.
        if try MemoryInfo().swapFree == 0 {
            let vain = engine.shrink(.object(object.id))
            #expect(vain.freedBytes == .zero && vain.failure?.code == .backupFull)
            #expect(try PageOut.residentPages(memory.base, count: pages * basePageSize) == pages)
        }

        try swap.turnOn()
        defer { swap.turnOff() }
        let before = try PageOut.residentPages(memory.base, count: pages * basePageSize)
        let result = engine.shrink(.object(object.id))
        let after = try PageOut.residentPages(memory.base, count: pages * basePageSize)
        #expect(result.failure == nil && result.freedBytes == ByteCount((before - after) * basePageSize))
        #expect(after < before / 2, "\(before) pages in core before, \(after) after")
        #expect(try engine.object(object.id).pages.backedUp == 0, "words stay resident")
        // Pages in swap are data, and a hole among them ends it: neither is told from what is in core.
        try Files.punch(file.number, at: 700 * basePageSize, length: basePageSize)
        #expect(try Files.endOfData(file.number, from: 0, limit: 700 * basePageSize) == 700 * basePageSize)
        #expect(try Files.endOfData(file.number, from: 0, limit: pages * basePageSize) == 700 * basePageSize)
        #expect(try Files.endOfData(file.number, from: 701 * basePageSize, limit: pages * basePageSize) == pages * basePageSize)
        for page in 0..<pages where page != 700 {
            #expect(
                UnsafeRawBufferPointer(start: memory.base + page * basePageSize, count: basePageSize)
                    .elementsEqual(pattern.page(page, zeroEvery: 0)))
        }
        try engine.destroyPool(pool)
    }
}

/// A zram device of the test's own as swap.
private final class ScratchSwap {
    private let number: Int
    private var isOn = false

    init() throws {
        let text = String(decoding: try Files.contents(of: "/sys/class/zram-control/hot_add"), as: UTF8.self)
        guard let number = Int(text.split(separator: "\n").first ?? "") else { throw Errno.noSuchFileOrDirectory }
        self.number = number
        do {
            try Self.write("\(64 << 20)", "/sys/block/zram\(number)/disksize")
            try Self.run("/sbin/mkswap", ["/dev/zram\(number)"])
        } catch {
            try? Self.write("\(number)", "/sys/class/zram-control/hot_remove")
            throw error
        }
    }

    func turnOn() throws {
        try Self.run("/sbin/swapon", ["/dev/zram\(number)"])
        isOn = true
    }

    func turnOff() {
        if isOn { try? Self.run("/sbin/swapoff", ["/dev/zram\(number)"]) }
        isOn = false
    }

    deinit {
        turnOff()
        try? Self.write("1", "/sys/block/zram\(number)/reset")
        try? Self.write("\(number)", "/sys/class/zram-control/hot_remove")
    }

    private static func run(_ program: String, _ arguments: [String]) throws {
        let null = try Files.open("/dev/null", .writeOnly)
        let ending = try ChildProcess(program, arguments, environment: [], standardOutput: null.number, standardError: null.number).wait()
        guard ending == .exited(0) else { throw Errno.ioError }
    }

    private static func write(_ text: String, _ path: String) throws {
        let file = try Files.open(path, .writeOnly)
        try Array(text.utf8).withBytes { (bytes) throws(Errno) in
            if let error = Files.writeStream(file.number, bytes).error { throw error }
        }
    }
}
