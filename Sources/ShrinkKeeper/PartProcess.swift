import ServiceSupport
import ShrinkLinux
import SystemPackage

/// One part as the keeper holds it: the socket it speaks to, what is kept for it, and its process while it runs.
final class PartProcess {
    let part: Part
    let command: KeeperPlan.Command
    let socket: NotifySocket
    var kept: DescriptorStore
    private(set) var process: ChildProcess?

    init(_ part: Part, _ command: KeeperPlan.Command, socketPath: String, limit: Int) throws(Errno) {
        self.part = part
        self.command = command
        socket = try NotifySocket(binding: socketPath)
        kept = DescriptorStore(limit: limit)
    }

    /// Starts the program with what is kept for it. Messages of an earlier incarnation that nobody read are dropped.
    func start(lifeline: CInt, unannounced: [CInt]) throws(Errno) {
        while let left = try socket.receive(from: 0) { _ = left }
        let inheritance = ChildInheritance(
            notifySocket: socket.path, store: kept, additional: [(Lifeline.name, lifeline)], unannounced: unannounced)
        // A session of its own: Ctrl-C would otherwise reach the file server at once and the engine twice.
        process = try ChildProcess(
            command.path, command.arguments, environment: inheritance.environment, descriptors: inheritance.descriptors, session: .own)
    }

    /// Reaps the process, which has ended.
    func reap() throws(Errno) -> ChildProcess.Ending? {
        defer { process = nil }
        return try process?.wait()
    }

    /// Forgets a process that cannot be waited for.
    func leaveBehind() { process = nil }
}
