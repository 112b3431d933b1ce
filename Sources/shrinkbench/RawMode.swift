import ArgumentParser
import ShrinkEngine
import ShrinkLinux

/// The cost of the mount: the same engine on backupfs (raw layout, store on tmpfs) and on a bare tmpfs directory.
struct RawMode: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "raw", abstract: "Compare the raw layout through the mount with a bare tmpfs directory.",
        discussion: "Needs root (mounts tmpfs and backupfs). Ratios of 1 mean that the mount costs nothing.")

    @Option(help: "Take the pages from this file instead of the machine's shared libraries.") var data: String?
    @Option(help: "MiB of pages to move.") var size = 800
    @Option(help: "KiB of an object.") var objectSize = 4096
    @Option(help: "Runs; figures are medians.") var runs = 5
    @Option(help: "Threads that copy.") var workers = 3
    @Option(help: "Measure this directory instead of a backupfs of our own.") var directory: String?
    @Flag(help: "Print one JSON document.") var json = false

    struct Report: Encodable {
        var dataBytes: Int
        var zeroPages: Int
        var passthrough: String
        var mountShrinkGibS: Double
        var bareShrinkGibS: Double
        var shrinkRatio: Double
        var mountRecoverGibS: Double
        var bareRecoverGibS: Double
        var recoverRatio: Double
        var objectBytes: Int
        var runs: Int
    }

    func validate() throws {
        guard size > 0, size <= 1 << 16, runs > 0, runs <= 100, objectSize >= 4, workers > 0, workers <= 64 else {
            throw ValidationError("give a size of 1 to 65536 MiB, 1 to 100 runs, objects of at least 4 KiB and 1 to 64 workers")
        }
    }

    func run() throws {
        let pages = try RealPages(size: size << 20, file: data)
        let scratch = try Scratch()
        defer { scratch.cleanUp() }
        let bareDirectory = try scratch.memoryDirectory("bare", sizeBytes: pages.count + (256 << 20))
        let measured: String
        if let directory {
            measured = directory
        } else {
            let store = try scratch.memoryDirectory("store", sizeBytes: pages.count + (256 << 20))
            measured = try scratch.serve(store: store).mount
        }
        let bare = try EngineRun(directory: bareDirectory, data: pages, objectBytes: objectSize << 10, Copying(workers: workers))
        let mounted = try EngineRun(directory: measured, data: pages, objectBytes: objectSize << 10, Copying(workers: workers))
        var shrinkMount: [Double] = [], shrinkBare: [Double] = [], recoverMount: [Double] = [], recoverBare: [Double] = []
        // One pass of each to warm up, then by turns, so that noise meets both alike.
        _ = try bare.pass()
        _ = try mounted.pass()
        for _ in 0..<runs {
            let b = try bare.pass()
            let m = try mounted.pass()
            shrinkBare.append(gibPerSecond(pages.count, b.shrinkNanoseconds))
            recoverBare.append(gibPerSecond(pages.count, b.recoverNanoseconds))
            shrinkMount.append(gibPerSecond(pages.count, m.shrinkNanoseconds))
            recoverMount.append(gibPerSecond(pages.count, m.recoverNanoseconds))
        }
        let feature = mounted.engine.status().features.first { $0.name == "passthrough" }
        let report = Report(
            dataBytes: pages.count, zeroPages: pages.zeroPages,
            passthrough: feature?.isAvailable == true ? "yes" : "no: \(feature?.reason ?? "not told")",
            mountShrinkGibS: rounded(median(shrinkMount)), bareShrinkGibS: rounded(median(shrinkBare)),
            shrinkRatio: rounded(median(shrinkMount) / median(shrinkBare)), mountRecoverGibS: rounded(median(recoverMount)),
            bareRecoverGibS: rounded(median(recoverBare)), recoverRatio: rounded(median(recoverMount) / median(recoverBare)),
            objectBytes: objectSize << 10, runs: runs)
        try mounted.end()
        try bare.end()
        if json { return try printJSON(report) }
        print(
            "raw layout, \(size) MiB (\(pages.source)), \(pages.zeroPages * 100 / pages.pageCount) % zero pages, objects of \(objectSize) KiB,"
        )
        print("\(workers) workers, medians of \(runs) runs, passthrough: \(report.passthrough)")
        print("              mount     bare    ratio")
        print("shrink GiB/s \(column(median(shrinkMount)))\(column(median(shrinkBare)))\(column(report.shrinkRatio))")
        print("recover GiB/s\(column(median(recoverMount)))\(column(median(recoverBare)))\(column(report.recoverRatio))")
    }
}
