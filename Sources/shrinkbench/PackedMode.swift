import ArgumentParser
import ShrinkEngine
import ShrinkLinux

/// The packed layout through the mount beside zram lz4 on the same pages.
struct PackedMode: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "packed", abstract: "Compare the packed layout through the mount with zram lz4 on the same pages.",
        discussion: """
            zram is swap of its own here: pages go out by MADV_PAGEOUT and come back by touch, with one thread (as kswapd has) and with as many as \
            cores; its best of page-cluster 0 and 3 counts, second pass. Needs root; the device and every setting are put back.
            """)

    @Option(help: "Take the pages from this file instead of the machine's shared libraries.") var data: String?
    @Option(help: "MiB of pages to move.") var size = 800
    @Option(help: "KiB of an object.") var objectSize = 4096
    @Option(help: "Runs; figures are medians.") var runs = 5
    @OptionGroup var copyOptions: CopyOptions
    @Option(help: "Codec of the store: lz4, zstd or zstd:LEVEL.") var codec = "lz4"
    @Flag(help: "Print one JSON document.") var json = false

    struct Report: Encodable {
        var dataBytes: Int
        var zeroPages: Int
        var shrinkGibS: Double
        var recoverGibS: Double
        var cpuSecondsPerGib: Double
        var storedBytes: Int
        var zram1tShrinkGibS: Double
        var zram1tRecoverGibS: Double
        var zramBestShrinkGibS: Double
        var zramBestRecoverGibS: Double
        var zramCpuSecondsPerGib: Double
        var recoverCpuSecondsPerGib: Double
        var zramRecoverCpuSecondsPerGib: Double
        var zramStoredBytes: Int
        var zramCompressedBytes: Int
        var zramPagesLeft: Int
        var shrinkVsZram1t: Double
        var recoverVsZram1t: Double
        var shrinkVsZram: Double
        var recoverVsZram: Double
        var cpuVsZram: Double
        var storedVsZram: Double
        var objectBytes: Int
        var codec: String
        var runs: Int

        enum CodingKeys: String, CodingKey {
            case dataBytes = "data_bytes"
            case zeroPages = "zero_pages"
            case shrinkGibS = "shrink_gib_s"
            case recoverGibS = "recover_gib_s"
            case cpuSecondsPerGib = "cpu_seconds_per_gib"
            case storedBytes = "stored_bytes"
            case zram1tShrinkGibS = "zram_1t_shrink_gib_s"
            case zram1tRecoverGibS = "zram_1t_recover_gib_s"
            case zramBestShrinkGibS = "zram_best_shrink_gib_s"
            case zramBestRecoverGibS = "zram_best_recover_gib_s"
            case zramCpuSecondsPerGib = "zram_cpu_seconds_per_gib"
            case recoverCpuSecondsPerGib = "recover_cpu_seconds_per_gib"
            case zramRecoverCpuSecondsPerGib = "zram_recover_cpu_seconds_per_gib"
            case zramStoredBytes = "zram_stored_bytes"
            case zramCompressedBytes = "zram_compressed_bytes"
            case zramPagesLeft = "zram_pages_left"
            case shrinkVsZram1t = "shrink_vs_zram_1t"
            case recoverVsZram1t = "recover_vs_zram_1t"
            case shrinkVsZram = "shrink_vs_zram"
            case recoverVsZram = "recover_vs_zram"
            case cpuVsZram = "cpu_vs_zram"
            case storedVsZram = "stored_vs_zram"
            case objectBytes = "object_bytes"
            case codec, runs
        }
    }

    /// One way to run zram, over the runs.
    private struct Series {
        var out: [Double] = []
        var back: [Double] = []
        var cpu: [Double] = []
        var backCPU: [Double] = []
    }

    func run() throws {
        guard size > 0, size <= 1 << 16, runs > 0, runs <= 100, objectSize >= 4 else {
            throw ValidationError("give a size of 1 to 65536 MiB, 1 to 100 runs and objects of at least 4 KiB")
        }
        let pages = try RealPages(size: size << 20, file: data)
        let gib = Double(pages.count) / Double(1 << 30)
        let scratch = try Scratch()
        defer { scratch.cleanUp() }
        let store = try scratch.packedDirectory("store", sizeBytes: pages.count + (256 << 20))
        let server = try scratch.serve(store: store, ["--layout", "packed", "--codec", codec])
        let zram = try Zram(sizeBytes: pages.count * 2)
        defer { zram.remove() }
        let cores = max(2, ProcessorTime.cores)
        var series: [String: Series] = [:]
        var ours = Series()
        var stored = 0
        var last: SwappedMemory.Figures?
        let engine = try EngineRun(
            directory: server.mount, data: pages, objectBytes: objectSize << 10, copyOptions.copying,
            server: server.processID)
        _ = try engine.pass()
        let swapped = try SwappedMemory(pages)
        _ = try swapped.pass(threads: 1, zram: zram)
        for _ in 0..<runs {
            let figures = try engine.pass()
            ours.cpu.append(Double(figures.shrinkPhase.cpuNanoseconds) / 1e9 / gib)
            ours.backCPU.append(Double(figures.recoverPhase.cpuNanoseconds) / 1e9 / gib)
            ours.out.append(gibPerSecond(pages.count, figures.shrinkNanoseconds))
            ours.back.append(gibPerSecond(pages.count, figures.recoverNanoseconds))
            stored = figures.shrink.storedBytes.rawValue
            for threads in [1, cores] {
                for cluster in [0, 3] {
                    try zram.setPageCluster(cluster)
                    let figures = try swapped.pass(threads: threads, zram: zram)
                    let key = "\(threads)/\(cluster)"
                    series[key, default: Series()].out.append(gibPerSecond(pages.count, figures.outNanoseconds))
                    series[key, default: Series()].back.append(gibPerSecond(pages.count, figures.backNanoseconds))
                    series[key, default: Series()].cpu.append(Double(figures.outCPUNanoseconds) / 1e9 / gib)
                    series[key, default: Series()].backCPU.append(Double(figures.backCPUNanoseconds) / 1e9 / gib)
                    last = figures
                }
            }
        }
        try engine.end()
        guard let last else { throw BenchError("no run was made") }
        func best(_ threads: Int, _ path: KeyPath<Series, [Double]>) -> Double {
            [0, 3].map { median(series["\(threads)/\($0)"]?[keyPath: path] ?? []) }.max() ?? 0
        }
        let out1 = best(1, \.out), back1 = best(1, \.back)
        let out = max(out1, best(cores, \.out)), back = max(back1, best(cores, \.back))
        let zramCPU = [0, 3].map { median(series["1/\($0)"]?.cpu ?? []) }.min() ?? 0
        let zramBackCPU = [0, 3].map { median(series["1/\($0)"]?.backCPU ?? []) }.min() ?? 0
        let report = Report(
            dataBytes: pages.count, zeroPages: pages.zeroPages, shrinkGibS: rounded(median(ours.out)),
            recoverGibS: rounded(median(ours.back)),
            cpuSecondsPerGib: rounded(median(ours.cpu)), storedBytes: stored, zram1tShrinkGibS: rounded(out1),
            zram1tRecoverGibS: rounded(back1),
            zramBestShrinkGibS: rounded(out), zramBestRecoverGibS: rounded(back), zramCpuSecondsPerGib: rounded(zramCPU),
            recoverCpuSecondsPerGib: rounded(median(ours.backCPU)),
            zramRecoverCpuSecondsPerGib: rounded(zramBackCPU),
            zramStoredBytes: last.usedBytes, zramCompressedBytes: last.compressedBytes, zramPagesLeft: last.pagesLeft,
            shrinkVsZram1t: rounded(median(ours.out) / out1), recoverVsZram1t: rounded(median(ours.back) / back1),
            shrinkVsZram: rounded(median(ours.out) / out), recoverVsZram: rounded(median(ours.back) / back),
            cpuVsZram: rounded(median(ours.cpu) / zramCPU), storedVsZram: rounded(Double(stored) / Double(last.usedBytes)),
            objectBytes: objectSize << 10, codec: codec, runs: runs)
        if json { return try printJSON(report) }
        print(
            "packed layout (\(codec)), \(size) MiB (\(pages.source)), \(pages.zeroPages * 100 / pages.pageCount) % zero pages, objects of \(objectSize) KiB,"
        )
        print(
            "\(copyOptions.copying.text), medians of \(runs) runs; zram lz4, best of page-cluster 0 and 3, \(last.pagesLeft) pages it did not push out"
        )
        print("                 ours   zram 1t  zram best   vs 1t  vs best")
        print(
            "shrink GiB/s \(column(median(ours.out)))\(column(out1, width: 10))\(column(out, width: 11))\(column(report.shrinkVsZram1t))\(column(report.shrinkVsZram, width: 9))"
        )
        print(
            "recover GiB/s\(column(median(ours.back)))\(column(back1, width: 10))\(column(back, width: 11))\(column(report.recoverVsZram1t))\(column(report.recoverVsZram, width: 9))"
        )
        print("CPU s/GiB out\(column(median(ours.cpu)))\(column(zramCPU, width: 10))           \(column(report.cpuVsZram))")
        print("CPU s/GiB in \(column(median(ours.backCPU)))\(column(zramBackCPU, width: 10))")
        print(
            "stored MiB   \(column(Double(stored) / 1_048_576))\(column(Double(last.usedBytes) / 1_048_576, width: 10))           \(column(report.storedVsZram))"
        )
    }
}
