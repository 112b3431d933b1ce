import ArgumentParser

/// Which of the daemon's faces was asked for.
///
/// By hand and not by subcommands of one parser: that parser would take `--runtime-dir` and `--backup`, which both faces know, for the
/// outer one wherever they stand.
@main
enum Program {
    static func main() { KeeperCommand.main() }
}
