import ArgumentParser
import Glibc
import PageStore
import ServiceSupport
import ShrinkLinux

/// `backupfs check`: is what a store holds what was put there?
struct Check: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Verify a store that nobody serves, down to every page's checksum.",
        discussion: """
            One line per finding. Exit status: 0 nothing found, or all of it repaired; 1 something is wrong; else as `backupfs serve`. A raw store \
            keeps no checksums: only whether it opens is checked.
            """,
        version: productVersion)

    @Argument(help: ArgumentHelp("The store's directory; further tiers are found if they lie where they did.", valueName: "DIR"))
    var directories: [String]

    @Flag(help: "Drop the pages that are provably bad, after asking. What is dropped does not come back.")
    var repair = false

    @Flag(help: "With --repair: don't ask.")
    var yes = false

    func validate() throws {
        if yes, !repair { throw ValidationError("--yes is for --repair") }
    }

    func run() throws {
        let status: ExitStatus
        do throws(StoreError) { status = try check() } catch {
            Console.tell("backupfs: \(error)\n", STDERR_FILENO)
            status = ExitStatus(error.code)
        }
        throw ExitCode(status)
    }

    private func check() throws(StoreError) -> ExitStatus {
        if StoreLayout.found(in: directories[0]) == .raw {
            let store = try RawStore(directories[0])
            store.close()
            print("\(directories[0]): a raw store; it opens, and it has no checksums to verify")
            return .success
        }
        let check = try PackedStoreCheck(directories: directories)
        for finding in check.findings { print(finding) }
        print(
            "\(check.objectCount) objects, \(check.pageCount) pages, \(check.blockCount) blocks of \(check.verifiedBytes) bytes verified: \(check.findings.count) findings"
        )
        guard !check.findings.isEmpty else { return .success }
        let repairable = check.findings.count { $0.remedy != .none }
        guard repair, repairable > 0 else { return .findings }
        guard try agreed(repairable) else {
            print("nothing was changed")
            return .findings
        }
        let done = try check.repair()
        print("\(done) of \(check.findings.count) repaired")
        return done == check.findings.count ? .success : .findings
    }

    private func agreed(_ count: Int) throws(StoreError) -> Bool {
        if yes { return true }
        guard isatty(STDIN_FILENO) == 1 else {
            throw StoreError(.usage, "--repair asks before it drops anything, and nobody can answer here; give --yes as well")
        }
        // Behind what print(_:) still holds back there is none: to a terminal it writes line by line.
        Console.tell("Repair \(count) of them? Pages that are dropped are gone for good. [y/N] ", STDOUT_FILENO)
        return ["y", "yes"].contains(readLine()?.lowercased() ?? "")
    }
}

private enum Console {
    /// Unbuffered, to a standard descriptor.
    static func tell(_ text: String, _ descriptor: CInt) {
        Array(text.utf8).withUnsafeBytes { _ = Files.writeStream(descriptor, $0) }
    }
}
