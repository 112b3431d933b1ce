import CLZ4
import Glibc
import PageStore
import ShrinkLinux
import Synchronization
import SystemPackage

// Steers the work on the packed store: writes and reads a file's pages through it, beside the compressor alone.
//
//     packed-bench DIRECTORY FILE [MEBIBYTES] [CODEC] [BLOCKPAGES]

private struct Sample {
    var gibPerSecond: Double
    var cpuSecondsPerGiB: Double
}

private func cpuSeconds() -> Double {
    var usage = rusage()
    getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
    return Double(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) + Double(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6
}

/// Runs `body` for every megabyte below `count`, taken in turn by the threads.
private func measure(threads: Int, megabytes count: Int, _ body: @escaping @Sendable (Int) -> Void) -> Sample {
    let next = Atomic<Int>(0)
    let start = MonotonicTime.now()
    let cpu = cpuSeconds()
    let nextBox = NextBox(next)
    var running: [DedicatedThread] = []
    for _ in 0..<threads {
        let thread = try? DedicatedThread("bench") {
            while true {
                let i = nextBox.take()
                if i >= count { return }
                body(i)
            }
        }
        if let thread { running.append(thread) }
    }
    for thread in running { thread.join() }
    let seconds = Double(MonotonicTime.now().nanoseconds(since: start)) / 1e9
    let gib = Double(count) / 1024
    return Sample(gibPerSecond: gib / seconds, cpuSecondsPerGiB: (cpuSeconds() - cpu) / gib)
}

private final class NextBox: Sendable {
    private let next: Atomic<Int>
    init(_ next: consuming Atomic<Int>) { self.next = next }
    func take() -> Int { next.add(1, ordering: .relaxed).oldValue }
}

private struct Memory: @unchecked Sendable {
    // Sendable: threads use disjoint parts.
    let base: UnsafeMutableRawPointer
}

func runPackedBench() {
    let arguments = CommandLine.arguments
    guard arguments.count >= 3 else {
        print("packed-bench DIRECTORY FILE [MEBIBYTES] [CODEC] [BLOCKPAGES]")
        exit(2)
    }
    do {
        var options = PackedOptions()
        if arguments.count > 4, let codec = PackedCodec(arguments[4]) { options.codec = codec }
        if arguments.count > 5, let pages = Int(arguments[5]) { options.blockPages = pages }
        options.report = { print($0) }
        let file = try Files.open(arguments[2], .readOnly)
        let wanted = arguments.count > 3 ? Int(arguments[3]) ?? 256 : 256
        let megabytes = min(wanted, try Files.status(file.number).sizeBytes >> 20)
        let source = try MappedMemory(anonymous: megabytes << 20, populated: true)
        _ = try Files.read(file.number, into: source.bytes, at: 0)
        let target = try MappedMemory(anonymous: megabytes << 20, populated: true)
        let from = Memory(base: source.base)
        let into = Memory(base: target.base)
        let store = try PackedStore(directories: [arguments[1]], options: options)
        print("\(megabytes) MiB of \(arguments[2]), \(options.codec), blocks of \(options.blockPages) pages")
        var nextID = store.highestID
        for threads in [1, 2, 1, 2] {
            if case .lz4(let acceleration) = options.codec {
                let blockBytes = options.blockPages * basePageSize
                let alone = measure(threads: threads, megabytes: megabytes) { i in
                    let state = UnsafeMutableRawPointer.allocate(byteCount: Int(LZ4_sizeofState()), alignment: 64)
                    let out = UnsafeMutableRawPointer.allocate(byteCount: 1 << 20, alignment: 64)
                    for offset in stride(from: 0, to: 1 << 20, by: blockBytes) {
                        _ = LZ4_compress_fast_extState(
                            state, (from.base + (i << 20) + offset).assumingMemoryBound(to: CChar.self),
                            out.assumingMemoryBound(to: CChar.self),
                            CInt(blockBytes), CInt(blockBytes - blockBytes / 16), acceleration)
                    }
                    state.deallocate()
                    out.deallocate()
                }
                show("\(threads) threads  lz4 alone", alone)
            }
            // Objects of 4 MiB, as buffers are.
            var objects: [PackedObject] = []
            for _ in 0..<(megabytes + 3) / 4 {
                nextID += 1
                guard let id = StoredObjectID(rawValue: nextID) else { continue }
                let object = try store.create(id)
                try object.setSize(4 << 20)
                objects.append(object)
            }
            let all = objects
            let out = measure(threads: threads, megabytes: megabytes) { i in
                do throws(Errno) {
                    let n = try all[i / 4].write(
                        UnsafeRawBufferPointer(start: from.base + (i << 20), count: 1 << 20), at: (i % 4) << 20, .buffered)
                    if n != 1 << 20 { print("short write of \(n)") }
                } catch { print("write: \(error)") }
            }
            show("\(threads) threads  write", out)
            let space = store.space
            let back = measure(threads: threads, megabytes: megabytes) { i in
                do throws(Errno) {
                    _ = try all[i / 4].read(
                        into: UnsafeMutableRawBufferPointer(start: into.base + (i << 20), count: 1 << 20), at: (i % 4) << 20)
                } catch { print("read: \(error)") }
            }
            show("\(threads) threads  read", back)
            let same = memcmp(source.base, target.base, megabytes << 20) == 0
            var generator = SystemRandomNumberGenerator()
            let start = MonotonicTime.now()
            let reads = 20000
            for _ in 0..<reads {
                let page = Int(generator.next() % UInt64(megabytes << 8))
                _ = try all[page / 1024].read(into: UnsafeMutableRawBufferPointer(start: into.base, count: 4096), at: (page % 1024) << 12)
            }
            let microseconds = Double(MonotonicTime.now().nanoseconds(since: start)) / 1000 / Double(reads)
            let filled = store.facts().first { $0.key == "same_filled_pages" }?.value ?? "?"
            print(
                "  stored \(space.storedBytes >> 20) MiB of \(space.pageCount >> 8) (\(filled) pages same-filled), one page \(rounded(microseconds)) us, content \(same ? "same" : "DIFFERS")"
            )
            objects = []
            for object in all { try store.remove(object.id) }
            _ = consume all
        }
        store.close()
    } catch {
        print("\(error)")
        exit(1)
    }
}

private func rounded(_ value: Double) -> Double { (value * 100).rounded() / 100 }

private func show(_ what: String, _ sample: Sample) {
    print("  \(what): \(rounded(sample.gibPerSecond)) GiB/s, \(rounded(sample.cpuSecondsPerGiB)) CPU s/GiB")
}
