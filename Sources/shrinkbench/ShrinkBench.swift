import ArgumentParser

/// Measures shrink and recover beside a peer or a limit, in one run on the same data.
@main
struct ShrinkBench: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "shrinkbench",
        abstract: "Measure shrink and recover beside a peer, in one run on the same pages.",
        discussion: """
            Every figure is a median of several runs, and every claim a ratio of two figures of the same run: machines are shared and noisy. \
            Content is compared after each run; a difference ends the program with exit code 1.
            """,
        subcommands: [
            RawMode.self, PackedMode.self, PhasesMode.self, MemoryMode.self, EngineMode.self, BackendsMode.self, GateMode.self,
            TouchMode.self,
        ])
}
