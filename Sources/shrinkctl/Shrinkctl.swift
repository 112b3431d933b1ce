import ArgumentParser
import Glibc
import ServiceSupport
import ShrinkClient

@main
struct Shrinkctl: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "shrinkctl",
        abstract: "Pools of buffer objects, and the movement of their pages out to the backup and back.",
        discussion: """
            The socket is --socket PATH, else $SHRINKD_SOCKET, else $XDG_RUNTIME_DIR/shrinkd/io.shrinkd for users,
            else /run/shrinkd/io.shrinkd.

            Sizes are bytes, or take a binary suffix: 64K, 512M, 2G.

            --json prints exactly one JSON document on standard output; progress and diagnostics go to standard error.

            EXIT STATUS
              0   done
              1   the operation failed, or was done in part
              64  wrong usage: no target, or more than one; a malformed size
              66  an input file cannot be read
              69  shrinkd is not running
              73  an output file cannot be made
              74  reading or writing a file failed
              76  what listens at the socket is no shrinkd of this version
              77  not permitted
            """,
        version: version,
        subcommands: [
            StatusCommand.self, PoolCommand.self, ObjectCommand.self, PagesCommand.self, ShrinkCommand.self, RecoverCommand.self,
            FaultCommand.self, WatchCommand.self, TellCommand.self, AbortMountCommand.self,
        ])

    static let version = productVersion

    static func main() {
        let arguments = GlobalOptions.movedBehindTheCommand(Array(CommandLine.arguments.dropFirst()))
        do {
            var command = try parseAsRoot(arguments)
            try command.run()
        } catch let failure as CommandFailure {
            end(failure, arguments)
        } catch {
            // Help and version are errors to the parser, too.
            if exitCode(for: error).isSuccess { exit(withError: error) }
            end(CommandFailure(message(for: error) + " (see --help)", exitCode: 64, name: "usage"), arguments)
        }
    }

    private static func end(_ failure: CommandFailure, _ arguments: [String]) -> Never {
        Console.complain(failure.message)
        if arguments.contains("--json"), !failure.isReported { Console.printJSON(ErrorDocument(failure)) }
        Glibc.exit(failure.exitCode)
    }
}

/// Options of every command.
struct GlobalOptions: ParsableArguments {
    @Flag(name: .long, help: "Print one JSON document on standard output.")
    var json = false

    @Option(name: .long, help: ArgumentHelp("The daemon's socket.", valueName: "path"))
    var socket: String?

    func validate() throws {
        if socket == "" { throw ValidationError("--socket '' is no socket; give its path, or leave the flag out") }
    }

    func connect() throws(CommandFailure) -> ShrinkdClient {
        do throws(ShrinkdError) { return try ShrinkdClient(path: socket) } catch { throw CommandFailure(error) }
    }

    /// `shrinkctl --json status` means the same as `shrinkctl status --json`: what stands before the command goes to the end.
    static func movedBehindTheCommand(_ arguments: [String]) -> [String] {
        var rest = arguments[...]
        var leading: [String] = []
        while let first = rest.first {
            if first == "--json" || first.hasPrefix("--socket=") {
                leading.append(rest.removeFirst())
            } else if first == "--socket", rest.count > 1 {
                leading += rest.prefix(2)
                rest = rest.dropFirst(2)
            } else {
                break
            }
        }
        let end = rest.firstIndex(of: "--") ?? rest.endIndex
        return rest[..<end] + leading + rest[end...]
    }
}
