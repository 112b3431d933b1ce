import ArgumentParser
import ShrinkEngine
import ShrinkLinux

/// Recover on touch beside zram on the same pages and beside the least that it can cost.
struct TouchMode: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "touch", abstract: "Compare recover on touch with zram lz4 and with a floor on the same pages.",
        discussion: """
            One thread touches pages that are out: all in order, and single ones at random. The packed layout through the mount; zram as swap of its own, \
            the better of page-cluster 0 and 3 in order, 0 at random; the floor is a loop in C that does nothing but read 4 KiB of the same store and place them. The \
            toucher has one processor, the handler of ours and of the floor another. Needs root; the device and every setting are put back.

            With --in-order it is touches in order alone, and each pass's time is printed on the monotonic clock, as `perf report --time` takes it:

              perf record -a -g -k CLOCK_MONOTONIC -o FILE shrinkbench touch --in-order
            """)

    @Option(help: "Take the pages from this file instead of the machine's shared libraries.") var data: String?
    @Option(help: "MiB of pages.") var size = 400
    @Option(help: "KiB of an object.") var objectSize = 4096
    @Option(help: "Runs; figures in order are medians, random touches of all runs are one histogram.") var runs = 5
    @Option(help: "Random touches of a run.") var touches = 2000
    @Option(help: "Codec of the store: lz4, zstd or zstd:LEVEL.") var codec = "lz4"
    @Flag(name: .customLong("in-order"), help: "Touch in order only, and say when.") var inOrderOnly = false
    @Flag(help: "Print one JSON document.") var json = false

    struct Report: Encodable {
        var dataBytes: Int
        var sequentialGibS: Double
        var zramSequentialGibS: Double
        var sequentialVsZram: Double
        var sequentialMicrosecondsPerPage: Double
        var sequentialCpuSecondsPerGib: Double
        var zramSequentialCpuSecondsPerGib: Double
        var randomP50Microseconds: Double
        var randomP99Microseconds: Double
        var floorP50Microseconds: Double
        var floorP99Microseconds: Double
        var zramP50Microseconds: Double
        var zramP99Microseconds: Double
        var randomP50VsFloor: Double
        var randomP99VsFloor: Double
        var randomP50VsZram: Double
        var randomP99VsZram: Double
        var faultsInOrder: Int
        var touches: Int
        var runs: Int
        var histogramsNanoseconds: [String: [Histogram.Bar]]

        enum CodingKeys: String, CodingKey {
            case dataBytes = "data_bytes"
            case sequentialGibS = "sequential_gib_s"
            case zramSequentialGibS = "zram_sequential_gib_s"
            case sequentialVsZram = "sequential_vs_zram"
            case sequentialMicrosecondsPerPage = "sequential_microseconds_per_page"
            case sequentialCpuSecondsPerGib = "sequential_cpu_seconds_per_gib"
            case zramSequentialCpuSecondsPerGib = "zram_sequential_cpu_seconds_per_gib"
            case randomP50Microseconds = "random_p50_microseconds"
            case randomP99Microseconds = "random_p99_microseconds"
            case floorP50Microseconds = "floor_p50_microseconds"
            case floorP99Microseconds = "floor_p99_microseconds"
            case zramP50Microseconds = "zram_p50_microseconds"
            case zramP99Microseconds = "zram_p99_microseconds"
            case randomP50VsFloor = "random_p50_vs_floor"
            case randomP99VsFloor = "random_p99_vs_floor"
            case randomP50VsZram = "random_p50_vs_zram"
            case randomP99VsZram = "random_p99_vs_zram"
            case faultsInOrder = "faults_in_order"
            case touches, runs
            case histogramsNanoseconds = "histograms_nanoseconds"
        }
    }

    func run() throws {
        guard size >= 16, size <= 1 << 16, runs > 0, runs <= 100, objectSize >= 4, touches > 0, touches <= size << 7 else {
            throw ValidationError(
                "give a size of 16 to 65536 MiB, 1 to 100 runs, objects of at least 4 KiB, touches of at most half the pages")
        }
        let pages = try RealPages(size: size << 20, file: data)
        let scratch = try Scratch()
        defer { scratch.cleanUp() }
        let store = try scratch.packedDirectory("store", sizeBytes: pages.count + (256 << 20))
        let server = try scratch.serve(store: store, ["--layout", "packed", "--codec", codec])
        let zram = try Zram(sizeBytes: pages.count * 2)
        defer { zram.remove() }
        let ours = try TouchedPool(directory: server.mount, data: pages, objectBytes: objectSize << 10)
        let floor = try TouchFloor(mount: server.mount, objects: ours.objectIDs, objectBytes: objectSize << 10, count: pages.count)
        let swapped = try PagedOutMemory(pages)
        try ThisProcess.placeThread(0, on: 0)
        defer { try? ThisProcess.placeThread(0, on: nil) }
        let other = ProcessorTime.cores - 1
        for name in ["shrink-fault", "touch-floor"] {
            for thread in try ThisProcess.threads(named: name) { try ThisProcess.placeThread(thread, on: other) }
        }
        var (inOrder, zramInOrder) = ([Double](), [0: [Double](), 3: [Double]()])
        var (random, floorRandom, zramRandom) = (Histogram(), Histogram(), Histogram())
        var (cpu, zramCPU) = ([Double](), [0: [Double](), 3: [Double]()])
        var faults = 0
        func ourCPU() -> UInt64 { ProcessorTime.ofThisProcess() + ((try? ProcessorTime.of(server.processID)) ?? 0) }
        func perGib(_ nanoseconds: UInt64) -> Double { Double(nanoseconds) / 1e9 / (Double(pages.count) / Double(1 << 30)) }
        var generator = SystemRandomNumberGenerator()
        for run in 0...runs {
            // The first run warms up.
            let counts = run > 0
            try ours.moveOut()
            let before = ours.faults
            let cpuBefore = ourCPU()
            let started = MonotonicTime.now()
            let nanoseconds = ours.touchAll()
            if counts { cpu.append(perGib(ourCPU() - cpuBefore)) }
            if inOrderOnly {
                print("in order \(clock(started)),\(clock(MonotonicTime.now()))  \(column(gibPerSecond(pages.count, nanoseconds))) GiB/s")
            }
            faults = ours.faults - before
            try ours.compare()
            if counts { inOrder.append(gibPerSecond(pages.count, nanoseconds)) }
            for cluster in [0, 3] {
                try zram.setPageCluster(cluster)
                try swapped.moveOut(zram)
                let cpuBefore = ProcessorTime.ofThisProcess()
                let nanoseconds = swapped.touchAll()
                if counts { zramCPU[cluster]?.append(perGib(ProcessorTime.ofThisProcess() - cpuBefore)) }
                if counts { zramInOrder[cluster]?.append(gibPerSecond(pages.count, nanoseconds)) }
            }
            if inOrderOnly { continue }
            try zram.setPageCluster(0)
            try ours.moveOut()
            try swapped.moveOut(zram)
            // Ours in one half, the floor in the other: what ours brings along is dropped from the store, where the floor reads.
            let content = pages.contentPages
            let first = Array(content.filter { $0 < pages.pageCount / 2 }.shuffled(using: &generator).prefix(touches))
            let second = Array(content.filter { $0 >= pages.pageCount / 2 }.shuffled(using: &generator).prefix(touches))
            // In small turns, so that what else the machine does meets all three.
            for start in stride(from: 0, to: touches, by: 100) {
                let end = min(start + 100, touches)
                if end > first.count || end > second.count { break }
                for page in first[start..<end] { random.add(ours.touch(page), if: counts) }
                for page in second[start..<end] { floorRandom.add(floor.touch(page), if: counts) }
                for page in first[start..<end] { zramRandom.add(swapped.touch(page), if: counts) }
            }
            try floor.compare(second, with: pages)
            floor.forget()
        }
        try floor.end()
        try ours.end()
        let zramBest = zramInOrder.values.map { median($0) }.max() ?? 0
        let zramLeastCPU = zramCPU.values.map { median($0) }.min() ?? 0
        let ratio = { (a: UInt64, b: UInt64) in rounded(Double(a) / Double(max(1, b))) }
        let report = Report(
            dataBytes: pages.count, sequentialGibS: rounded(median(inOrder)), zramSequentialGibS: rounded(zramBest),
            sequentialVsZram: rounded(median(inOrder) / zramBest),
            sequentialMicrosecondsPerPage: rounded(4096 / median(inOrder) / Double(1 << 30) * 1e6),
            sequentialCpuSecondsPerGib: rounded(median(cpu)), zramSequentialCpuSecondsPerGib: rounded(zramLeastCPU),
            randomP50Microseconds: Double(random.percentile(50)) / 1000, randomP99Microseconds: Double(random.percentile(99)) / 1000,
            floorP50Microseconds: Double(floorRandom.percentile(50)) / 1000,
            floorP99Microseconds: Double(floorRandom.percentile(99)) / 1000,
            zramP50Microseconds: Double(zramRandom.percentile(50)) / 1000, zramP99Microseconds: Double(zramRandom.percentile(99)) / 1000,
            randomP50VsFloor: ratio(random.percentile(50), floorRandom.percentile(50)),
            randomP99VsFloor: ratio(random.percentile(99), floorRandom.percentile(99)),
            randomP50VsZram: ratio(random.percentile(50), zramRandom.percentile(50)),
            randomP99VsZram: ratio(random.percentile(99), zramRandom.percentile(99)), faultsInOrder: faults, touches: touches, runs: runs,
            histogramsNanoseconds: ["ours": random.bars, "floor": floorRandom.bars, "zram": zramRandom.bars])
        if json { return try printJSON(report) }
        print(
            "recover on touch, packed (\(codec)), \(size) MiB (\(pages.source)), objects of \(objectSize) KiB, \(runs) runs of \(touches) random touches"
        )
        print(
            "in order     ours \(report.sequentialGibS) GiB/s (\(report.faultsInOrder) faults)   zram \(report.zramSequentialGibS)   ratio \(report.sequentialVsZram)   CPU s/GiB \(report.sequentialCpuSecondsPerGib) and \(report.zramSequentialCpuSecondsPerGib)"
        )
        if inOrderOnly { return }
        print("at random     ours    floor     zram   vs floor  vs zram")
        for (name, p) in [("p50 µs", 50.0), ("p99 µs", 99.0)] {
            let (a, b, c) = (random.percentile(p), floorRandom.percentile(p), zramRandom.percentile(p))
            print(
                "\(name)    \(column(Double(a) / 1000))\(column(Double(b) / 1000, width: 9))\(column(Double(c) / 1000, width: 9))\(column(ratio(a, b), width: 11))\(column(ratio(a, c), width: 9))"
            )
        }
        for (name, histogram) in [("ours", random), ("floor", floorRandom), ("zram", zramRandom)] { histogram.printed(name) }
    }

    private func clock(_ time: MonotonicTime) -> String {
        let fraction = String(time.nanoseconds % 1_000_000_000)
        return "\(time.nanoseconds / 1_000_000_000)." + String(repeating: "0", count: 9 - fraction.count) + fraction
    }
}
