import CShrinkLinux
import Glibc
public import SystemPackage

/// Signals read from a descriptor instead of interrupting the program (signalfd(2)).
///
/// Make it on the first thread before any other is started: a thread that does not block the signals takes them with their
/// default action. Children started with `ChildProcess` begin with nothing blocked.
public struct SignalDescriptor: ~Copyable, Sendable {
    private let descriptor: OwnedDescriptor

    /// The corresponding C functions are `pthread_sigmask` and `signalfd`.
    public init(_ signals: [CInt]) throws(Errno) {
        descriptor = OwnedDescriptor(owning: try check(shl_signal_descriptor(signals, signals.count)))
    }

    /// Poll this for input.
    public var number: CInt { descriptor.number }

    /// The number of the next waiting signal, or nil.
    public func next() throws(Errno) -> CInt? {
        var signal = shl_signal()
        guard try retrying({ shl_read_signal(descriptor.number, &signal) }) == 1 else { return nil }
        return CInt(signal.number)
    }
}

/// Numbers of the signals that the programs use (signal(7)).
public enum Signal {
    public static let hangUp: CInt = SIGHUP
    public static let interrupt: CInt = SIGINT
    public static let terminate: CInt = SIGTERM
    public static let kill: CInt = SIGKILL
    public static let stop: CInt = SIGSTOP
    /// Tells the engine that a restart follows: it leaves everything to the next one.
    public static let park: CInt = SIGUSR1
}

extension ThisProcess {
    /// Sends a signal to the process as a whole, as if somebody else had. The corresponding C function is `kill`.
    public static func signalItself(_ number: CInt) { _ = kill(getpid(), number) }

    /// How many descriptors this process may have (RLIMIT_NOFILE). The corresponding C function is `getrlimit`.
    public static func descriptorLimit() throws(Errno) -> DescriptorLimit {
        var (soft, hard): (UInt64, UInt64) = (0, 0)
        try check(shl_descriptor_limit(&soft, &hard))
        return DescriptorLimit(soft: soft, hard: hard)
    }

    /// The corresponding C function is `setrlimit`.
    public static func setDescriptorLimit(soft: UInt64) throws(Errno) { try check(shl_set_descriptor_limit(soft)) }

    /// Lifts the soft limit of open descriptors to the hard one.
    public static func raiseDescriptorLimit() throws(Errno) { try setDescriptorLimit(soft: try descriptorLimit().hard) }

    public struct DescriptorLimit: Sendable {
        public var soft: UInt64
        public var hard: UInt64
    }

    /// True if some process has this number now; it need not be the one that had it a moment ago.
    public static func processExists(_ processID: Int32) -> Bool { shl_process_exists(processID) == 1 }

    /// A pipe's two ends. The corresponding C function is `pipe2`.
    public static func pipe() throws(Errno) -> Pipe {
        var ends: (CInt, CInt) = (-1, -1)
        _ = try withUnsafeMutableBytes(of: &ends) { (raw) throws(Errno) in
            try check(shl_pipe2(raw.bindMemory(to: CInt.self).baseAddress!, O_CLOEXEC))
        }
        return Pipe(output: OwnedDescriptor(owning: ends.0), input: OwnedDescriptor(owning: ends.1))
    }

    public struct Pipe: ~Copyable {
        /// Read here: what was put in comes out.
        public var output: OwnedDescriptor
        public var input: OwnedDescriptor
    }
}

extension Files {
    /// True if two descriptors of this process are one open file (not merely the same file opened twice).
    /// Where the kernel does not tell, they count as different. The corresponding C function is `kcmp(KCMP_FILE)`.
    public static func areSameOpenFile(_ a: CInt, _ b: CInt) -> Bool { shl_same_open_file(a, b) == 1 }

    /// All of `bytes` in one write(2), for lines that several processes send to one file. What does not fit is dropped.
    public static func appendOnce(_ fd: CInt, _ bytes: UnsafeRawBufferPointer) {
        _ = try? retrying { Glibc.write(fd, bytes.baseAddress, bytes.count) }
    }

    /// Reads what is there, up to the buffer's size; 0 is the end. Waits if nothing is there. The corresponding C function is `read`.
    public static func readNext(_ fd: CInt, into buffer: UnsafeMutableRawBufferPointer) throws(Errno) -> Int {
        try retrying { Glibc.read(fd, buffer.baseAddress, buffer.count) }
    }
}

extension UnixSocket {
    /// Every datagram received from now on names its sender's process (SO_PASSCRED, unix(7)).
    public static func receiveCredentials(_ fd: CInt) throws(Errno) { try check(shl_pass_credentials(fd)) }
}

extension Mounts {
    /// Aborts a FUSE connection, so that every caller stuck in it returns with an error; then detaches the mount.
    /// Never asks the server anything; needs CAP_SYS_ADMIN. The corresponding C function is `umount2(MNT_FORCE | MNT_DETACH)`.
    public static func abortAndDetach(_ target: String) throws(Errno) {
        try retrying { shl_unmount(target, SHL_MNT_FORCE_DETACH.rawInt) }
    }
}

extension Files {
    /// The absolute path without links, `.` or `..`; everything named must be there. The corresponding C function is `realpath`.
    public static func realPath(_ path: String) throws(Errno) -> String {
        guard let resolved = realpath(path, nil) else { throw lastErrno }
        defer { free(resolved) }
        return String(cString: resolved)
    }
}
