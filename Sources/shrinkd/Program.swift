import ArgumentParser
import ShrinkLinux

/// Which of the daemon's faces was asked for.
///
/// By hand and not by subcommands of one parser: that parser would take `--runtime-dir` and `--backup`, which both faces know, for the
/// outer one wherever they stand.
@main
enum Program {
    static func main() {
        let arguments = CommandLine.arguments.dropFirst()
        if arguments.first == EngineCommand.configuration.commandName {
            EngineCommand.main(Array(arguments.dropFirst()))
        } else {
            KeeperCommand.main(Array(arguments))
        }
    }
}
