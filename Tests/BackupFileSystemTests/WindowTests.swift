import Glibc
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// Windows of a real mount: what copy_file_range(2) puts into one is what a read would have given, without a copy through the FUSE device.
@Suite(.serialized) struct WindowTests {
    private static let sizeBytes = 1 << 20

    /// A window, open and mapped.
    fileprivate final class Window: @unchecked Sendable {
        // Sendable: one thread uses it at a time.
        let file: OwnedDescriptor
        let memory: MappedMemory

        init(_ server: BackupFileSystemProcess, _ number: Int = 0) throws {
            let file = try Files.open(server.file(".window-\(number)"), .readWrite)
            memory = try MappedMemory(sharing: file.number, count: WindowTests.sizeBytes)
            self.file = file
        }

        func fill(from source: CInt, at offset: Int, to place: Int = 0, count: Int) throws(Errno) -> Int {
            try Files.copyRange(from: source, at: offset, to: file.number, at: place, count: count)
        }

        func bytes(_ range: Range<Int>) -> [UInt8] { Array(UnsafeRawBufferPointer(memory.bytes)[range]) }
    }

    fileprivate func withWindows(_ arguments: [String], _ body: (BackupFileSystemProcess) throws -> Void) throws {
        guard Machine.isRoot else { return Machine.lacks("root", so: "windows, which need passthrough, are not tested") }
        let memory = try ScratchMemoryFileSystem(sizeBytes: 256 << 20)
        try withExtendedLifetime(memory) {
            try withBackupFileSystem(store: memory.path, arguments: ["--layout", "packed", "--segment", "1M"] + arguments) { server in
                let verdict = try server.statistic("windows") ?? "nothing said"
                if verdict.hasPrefix("no: the kernel does not offer") {
                    return Machine.lacks("FUSE passthrough", so: "windows are not tested")
                }
                try body(server)
            }
        }
    }

    private static func content(_ seed: UInt64, pages: Int) -> [UInt8] {
        var generator = SeededGenerator(seed: seed)
        var bytes: [UInt8] = []
        for _ in 0..<pages {
            let word = generator.next()
            switch word % 4 {
            case 0: bytes += [UInt8](repeating: 0, count: basePageSize)
            case 1: bytes += (0..<basePageSize).map { _ in UInt8(truncatingIfNeeded: generator.next()) }
            default: bytes += (0..<basePageSize).map { UInt8(truncatingIfNeeded: word >> UInt64($0 % 8 * 8)) &+ UInt8($0 / 512) }
            }
        }
        return bytes
    }

    @Test func whatIsCopiedIsWhatAReadGives() throws {
        let seed = testSeed("windows")
        try withWindows([]) { server in
            #expect(try server.statistic("windows") == "yes")
            let data = try server.makeObject(1, sizeBytes: 2048 * basePageSize)
            let content = Self.content(seed, pages: 2048)
            try write(content, to: data.number, at: 0)
            let window = try Window(server)
            let reads = try server.statistic("requests.read").flatMap { Int($0) }
            var generator = SeededGenerator(seed: seed)
            for round in 0..<300 {
                let count = Int.random(in: 1...Self.sizeBytes, using: &generator)
                let place = Int.random(in: 0...Self.sizeBytes - count, using: &generator)
                let offset = Int.random(in: 0..<content.count - count, using: &generator)
                #expect(try window.fill(from: data.number, at: offset, to: place, count: count) == count)
                #expect(window.bytes(place..<place + count) == Array(content[offset..<offset + count]), "round \(round)")
            }
            #expect(try server.statistic("requests.copy_file_range") == "300")
            // Only `stats` itself was read.
            let others = try server.statistic("requests.read").flatMap { Int($0) } ?? 0
            #expect(others - (reads ?? 0) < 20)
            #expect(try server.statistic("open.windows") == "1")

            // Behind the window's end there is nothing, at the object's end less, behind it nothing.
            #expect(try window.fill(from: data.number, at: 0, to: Self.sizeBytes - 5000, count: 9000) == 5000)
            #expect(throws: Errno.fileTooLarge) { _ = try window.fill(from: data.number, at: 0, to: Self.sizeBytes, count: 10) }
            #expect(try window.fill(from: data.number, at: content.count - 100, count: 4096) == 100)
            #expect(try window.fill(from: data.number, at: content.count, count: 4096) == 0)
        }
    }

    @Test func whatIsCopiedOutOfAWindowIsWritten() throws {
        let seed = testSeed("windows")
        try withWindows([]) { server in
            let data = try server.makeObject(1, sizeBytes: 1024 * basePageSize)
            var model = [UInt8](repeating: 0, count: 1024 * basePageSize)
            let window = try Window(server)
            let writes = try server.statistic("requests.write")
            var generator = SeededGenerator(seed: seed)
            for round in 0..<100 {
                let content = Self.content(generator.next(), pages: 256)
                window.memory.bytes.copyBytes(from: content)
                // Also parts of pages, and over pages that are there.
                let grain = Bool.random(using: &generator) ? basePageSize : 1
                let count = Int.random(in: 1...Self.sizeBytes / grain, using: &generator) * grain
                let place = Int.random(in: 0...(Self.sizeBytes - count) / grain, using: &generator) * grain
                let offset = Int.random(in: 0...(model.count - count) / grain, using: &generator) * grain
                #expect(try Files.copyRange(from: window.file.number, at: place, to: data.number, at: offset, count: count) == count)
                model.replaceSubrange(offset..<offset + count, with: content[place..<place + count])
                #expect(try read(data.number, at: 0, count: model.count) == model, "round \(round)")
            }
            #expect(try server.statistic("requests.write") == writes)
            // It may make the object longer, and takes from the window what there is.
            #expect(
                try Files.copyRange(from: window.file.number, at: Self.sizeBytes - 100, to: data.number, at: model.count, count: 4096)
                    == 100)
            #expect(try Files.status(data.number).sizeBytes == model.count + 100)
        }
    }

    @Test func aWindowBelongsToOneOpenFileAndIsNotListed() throws {
        try withWindows([]) { server in
            let data = try server.makeObject(1, sizeBytes: 4096)
            try write([UInt8](repeating: 7, count: 4096), to: data.number, at: 0)
            do {
                let window = try Window(server, 5)
                #expect(openError(server.file(".window-5"), .readWrite) == .resourceBusy)
                let other = try Window(server, 15)
                #expect(try window.fill(from: data.number, at: 0, count: 4096) == 4096)
                #expect(other.bytes(0..<4096).allSatisfy { $0 == 0 })
                #expect(try server.statistic("open.windows") == "2")
            }
            // The kernel tells the server of a close a moment after it (FUSE_RELEASE has no answer that anybody waits for).
            let limit = MonotonicTime.now().advanced(milliseconds: 30_000)
            while try server.statistic("open.windows") != "0", MonotonicTime.now() < limit {}
            #expect(try server.statistic("open.windows") == "0")
            // A new one shows nothing of the one before.
            #expect(try Window(server, 5).bytes(0..<4096).allSatisfy { $0 == 0 })
            for name in [".window-16", ".window-05", ".window--1", ".window-", ".window"] {
                #expect(openError(server.file(name), .readWrite) == .noSuchFileOrDirectory)
            }
            #expect(openError(server.file(".window-0"), .readOnly) == .invalidArgument)
            #expect(try server.names("").sorted() == ["objects", "stats"])
            // Nobody makes it longer or shorter.
            let window = try Window(server)
            #expect(throws: Errno.self) { try Files.truncate(window.file.number, to: 0) }
            #expect(
                Files.write(
                    window.file.number, UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(window.memory.bytes)[..<1]),
                    at: Self.sizeBytes
                ).error != nil)
            #expect(try Files.status(window.file.number).sizeBytes == Self.sizeBytes)
        }
    }

    @Test func aDamagedPageIsAnErrorAndOtherCopiesAreTheKernels() throws {
        try withWindows([]) { server in
            let data = try server.makeObject(1, sizeBytes: 64 * basePageSize)
            let content = (0..<64 * basePageSize).map { UInt8(truncatingIfNeeded: $0 &* 2_654_435_761 >> 13) }
            try write(content, to: data.number, at: 0)
            // From object to object, as cp does it.
            let copy = try server.makeObject(2, sizeBytes: 0)
            var copied = 0
            while copied < content.count {
                let n = try Files.copyRange(from: data.number, at: copied, to: copy.number, at: copied, count: content.count - copied)
                #expect(n > 0)
                guard n > 0 else { break }
                copied += n
            }
            #expect(try read(copy.number, at: 0, count: content.count) == content)
            let window = try Window(server)
            let segments = server.storeDirectory + "/segments"
            let names = try runProgram("/bin/ls", [segments]).output.split(separator: "\n")
            for name in names {
                let segment = try Files.open(segments + "/" + name, .readWrite)
                let size = try Files.status(segment.number).sizeBytes
                for offset in stride(from: 256, to: size, by: 1024) { try write([0xa5, 0x5a], to: segment.number, at: offset) }
            }
            #expect(throws: Errno.ioError) { _ = try window.fill(from: data.number, at: 0, count: 64 * basePageSize) }
            #expect(try server.statistic("pid") != nil, "the server lives")
        }
    }

    @Test func whereThereArePlainReasonsThereAreNoWindowsAndTheyAreSaid() throws {
        for (argument, reason) in [("--no-passthrough", "passthrough was turned off"), ("--allow-faults", "faults are allowed")] {
            try withWindows([argument]) { server in
                let verdict = try server.statistic("windows") ?? ""
                #expect(verdict.hasPrefix("no: " + reason), "\(verdict)")
                #expect(openError(server.file(".window-0"), .readWrite) == .notSupported)
            }
        }
        guard Machine.isRoot else { return }
        try withMount(.passthrough) { server in
            if let reason = try server.reasonAgainstPassthrough() {
                return Machine.lacks("passthrough", so: "raw is not tested: \(reason)")
            }
            #expect(try server.statistic("windows") == "no: the kernel reads the store's files itself")
        }
    }
}

extension WindowTests {
    /// Kernels with FUSE_COPY_FILE_RANGE_64 ask for that first; told that there is none by two threads at once, they take it that there is none of the
    /// older kind either.
    @Test func firstCopiesBySeveralThreadsAtOnceAllReachTheServer() throws {
        for _ in 0..<8 {
            try withWindows([]) { server in
                let data = try server.makeObject(1, sizeBytes: 64 * basePageSize)
                try write([UInt8](repeating: 7, count: 64 * basePageSize), to: data.number, at: 0)
                let windows = try (0..<4).map { try Window(server, $0) }
                let failures = Monitor(0)
                let waiting = Monitor(0)
                let source = data.number
                let threads = try windows.map { window in
                    try DedicatedThread("copies") {
                        waiting.withLock { $0 += 1 }
                        waiting.notifyAll()
                        waiting.wait { $0 == 4 ? () : nil }
                        for _ in 0..<10 {
                            do throws(Errno) {
                                guard try window.fill(from: source, at: 0, count: 64 * basePageSize) == 64 * basePageSize else {
                                    throw .ioError
                                }
                            } catch { failures.withLock { $0 += 1 } }
                        }
                    }
                }
                for thread in threads { thread.join() }
                #expect(failures.withLock { $0 } == 0)
                #expect(try server.statistic("requests.copy_file_range") == "40")
            }
        }
    }
}
