import ArgumentParser
import ShrinkEngine
import ShrinkLinux

/// Our half of `packed` alone: what each phase costs and when it ran, for a profiler.
struct PhasesMode: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "phases", abstract: "Shrink and recover through the mount, with the CPU time of each phase; for profiling.",
        discussion: """
            Prints when each phase ran on the monotonic clock, in seconds, as `perf report --time` takes it:

              perf record -a -g -k CLOCK_MONOTONIC -o FILE shrinkbench phases
              perf report -i FILE --time BEGIN,END
            """)

    @Option(help: "Take the pages from this file instead of the machine's shared libraries.") var data: String?
    @Option(help: "MiB of pages to move.") var size = 800
    @Option(help: "KiB of an object.") var objectSize = 4096
    @Option(help: "Runs; figures are medians.") var runs = 5
    @OptionGroup var copyOptions: CopyOptions
    @Option(help: "Layout of the store: packed or raw.") var layout = "packed"
    @Option(help: "Codec of the store: lz4, zstd or zstd:LEVEL.") var codec = "lz4"
    @Option(help: "Page size policy of the store's tmpfs, as tmpfs(5) has it: within_size, always, never.") var huge = "within_size"

    func run() throws {
        guard size > 0, size <= 1 << 16, runs > 0, runs <= 100, objectSize >= 4 else {
            throw ValidationError("give a size of 1 to 65536 MiB, 1 to 100 runs and objects of at least 4 KiB")
        }
        let pages = try RealPages(size: size << 20, file: data)
        let gib = Double(pages.count) / Double(1 << 30)
        let scratch = try Scratch()
        defer { scratch.cleanUp() }
        let store = try scratch.memoryDirectory(
            "store", sizeBytes: pages.count + (256 << 20), options: layout == "packed" ? "huge=" + huge : nil)
        let server = try scratch.serve(store: store, ["--layout", layout] + (layout == "packed" ? ["--codec", codec] : []))
        let engine = try EngineRun(
            directory: server.mount, data: pages, objectBytes: objectSize << 10, copyOptions.copying, server: server.processID)
        _ = try engine.pass()
        var out: [Double] = [], back: [Double] = [], outCPU: [Double] = [], backCPU: [Double] = [], backServer: [Double] = []
        for _ in 0..<runs {
            let figures = try engine.pass()
            let (shrink, recover) = (figures.shrinkPhase, figures.recoverPhase)
            out.append(gibPerSecond(pages.count, figures.shrinkNanoseconds))
            back.append(gibPerSecond(pages.count, figures.recoverNanoseconds))
            outCPU.append(Double(shrink.cpuNanoseconds) / 1e9 / gib)
            backCPU.append(Double(recover.cpuNanoseconds) / 1e9 / gib)
            backServer.append(Double(recover.serverNanoseconds) / 1e9 / gib)
            print(
                "shrink \(text(shrink))  recover \(text(recover))  \(column(out.last ?? 0)) \(column(back.last ?? 0)) GiB/s"
            )
        }
        try engine.end()
        print("\(layout) \(size) MiB, \(copyOptions.copying.text), medians of \(runs) runs")
        print("shrink \(column(median(out))) GiB/s, CPU s/GiB \(column(median(outCPU)))")
        print(
            "recover\(column(median(back))) GiB/s, CPU s/GiB \(column(median(backCPU))), of which in the server \(column(median(backServer)))"
        )
    }

    private func text(_ phase: EngineRun.Phase) -> String { seconds(phase.began) + "," + seconds(phase.ended) }

    private func seconds(_ time: MonotonicTime) -> String {
        let fraction = String(time.nanoseconds % 1_000_000_000)
        return "\(time.nanoseconds / 1_000_000_000)." + String(repeating: "0", count: 9 - fraction.count) + fraction
    }
}
