import CShrinkLinux
import Glibc
public import SystemPackage

/// A child process of ours, addressed by pidfd so that a recycled pid is never signalled.
public final class ChildProcess: Sendable {
    public let processID: Int32
    private let descriptor: OwnedDescriptor

    /// How a child ended.
    public enum Ending: Sendable, Equatable, CustomStringConvertible {
        case exited(Int32)
        case signalled(Int32)

        public var description: String {
            switch self {
            case .exited(let code): "exit status \(code)"
            case .signalled(let number): "signal \(number)"
            }
        }
    }

    /// Whose terminal and process group a child belongs to.
    public enum Session: Sendable {
        /// The starter's: Ctrl-C on its terminal reaches the child too.
        case inherited
        /// One of its own: only the starter decides when the child hears a signal (setsid(2)).
        case own
    }

    /// Starts a program. `descriptors[i]` becomes fd 3+i of the child; standard streams are inherited unless given.
    /// The child starts with no signal blocked and default dispositions. The corresponding C function is `posix_spawn`.
    public init(
        _ path: String, _ arguments: [String], environment: [String], descriptors: [CInt] = [],
        standardInput: CInt? = nil, standardOutput: CInt? = nil, standardError: CInt? = nil,
        session: Session = .inherited
    ) throws(Errno) {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        if let fd = standardInput { posix_spawn_file_actions_adddup2(&actions, fd, 0) }
        if let fd = standardOutput { posix_spawn_file_actions_adddup2(&actions, fd, 1) }
        if let fd = standardError { posix_spawn_file_actions_adddup2(&actions, fd, 2) }
        // Passed descriptors may already sit on numbers 3…: move them out of the way first.
        var high: [CInt] = []
        defer { for fd in high { _ = close(fd) } }
        for fd in descriptors { high.append(try check(shl_duplicate_cloexec_above(fd, CInt(descriptors.count) + 16))) }
        for (i, fd) in high.enumerated() { posix_spawn_file_actions_adddup2(&actions, fd, CInt(3 + i)) }

        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var none = sigset_t()
        var all = sigset_t()
        sigemptyset(&none)
        sigfillset(&all)
        posix_spawnattr_setsigmask(&attributes, &none)
        posix_spawnattr_setsigdefault(&attributes, &all)
        let sessionFlag: CInt =
            switch session {
            case .inherited: 0
            case .own: SHL_SPAWN_SETSID.rawInt
            }
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | sessionFlag))

        var argv: [UnsafeMutablePointer<CChar>?] = ([path] + arguments).map { strdup($0) } + [nil]
        var envp: [UnsafeMutablePointer<CChar>?] = environment.map { strdup($0) } + [nil]
        defer { for p in argv + envp { free(p) } }
        var pid: pid_t = 0
        let code = posix_spawn(&pid, path, &actions, &attributes, &argv, &envp)
        if code != 0 { throw Errno(rawValue: code) }
        processID = pid
        descriptor = OwnedDescriptor(owning: try check(shl_pidfd_open(pid)))
    }

    /// Readable once the child has ended (pidfd_open(2)).
    public var endDescriptor: CInt { descriptor.number }

    /// A child that ended already is not an error. The corresponding C function is `pidfd_send_signal`.
    public func signal(_ number: CInt) {
        _ = shl_pidfd_send_signal(descriptor.number, number)
    }

    /// Waits for the end and reaps. Call it once. The corresponding C function is `waitpid`.
    public func wait() throws(Errno) -> Ending {
        var status: CInt = 0
        try retrying { waitpid(processID, &status, 0) }
        return status & 0x7f == 0 ? .exited((status >> 8) & 0xff) : .signalled(status & 0x7f)
    }

    /// As `wait()`, but nil if the child is still there after the timeout.
    public func wait(timeoutMilliseconds: CInt) throws(Errno) -> Ending? {
        guard try waitReadable(descriptor.number, timeoutMilliseconds: timeoutMilliseconds) else { return nil }
        return try wait()
    }
}

public enum ThisProcess {
    public static var userID: UInt32 { geteuid() }
    public static var groupID: UInt32 { getegid() }
    public static var processID: Int32 { getpid() }

    /// Writing to a closed pipe or socket is an error return, not a signal.
    public static func ignoreBrokenPipes() { shl_ignore_sigpipe() }

    /// The kernel kills this process when the thread that started it ends (PR_SET_PDEATHSIG).
    public static func dieWithParent() throws(Errno) { try check(shl_die_with_parent()) }

    /// Says that this process serves I/O that reclaim may wait for (PR_SET_IO_FLUSHER); needs CAP_SYS_RESOURCE.
    public static func declareIOFlusher() throws(Errno) { try check(shl_set_io_flusher()) }

    public static func environment(_ name: String) -> String? { getenv(name).map { String(cString: $0) } }

    /// Removes a variable so that children do not inherit it.
    public static func removeEnvironment(_ name: String) { unsetenv(name) }

    /// All `NAME=value` strings.
    public static var environmentStrings: [String] {
        var all: [String] = []
        var p = Glibc.environ
        while let entry = p.pointee {
            all.append(String(cString: entry))
            p += 1
        }
        return all
    }

    /// The absolute path of the running program. The corresponding C function is `readlink("/proc/self/exe")`.
    public static func executablePath() throws(Errno) -> String {
        var buffer = [CChar](repeating: 0, count: 4096)
        let n = try check(readlink("/proc/self/exe", &buffer, 4095))
        return String(decoding: buffer[0..<n].map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}

extension ThisProcess {
    /// Ends this process at once, as a crash would: nothing is written, closed or unwound. For tests of what a crash leaves.
    public static func endAbruptly() -> Never {
        kill(getpid(), SIGKILL)
        // The signal is fatal before kill(2) returns to its own process; this is for the compiler.
        while true { pause() }
    }
}
