public import ShrinkLinux
public import SystemPackage

/// Tells the starter of this process how it is doing: systemd, or a keeper that speaks the same protocol (sd_notify(3)).
///
/// The protocol is one datagram of `NAME=value` lines to the socket in `$NOTIFY_SOCKET`; descriptors travel with it.
/// Without that variable every call does nothing: nobody asked.
public struct Notifier: Sendable {
    private let socketPath: String?

    /// The starter that the environment names.
    public init(environment socketPath: String? = ThisProcess.environment("NOTIFY_SOCKET")) {
        self.socketPath = socketPath
    }

    /// True if somebody wants to hear.
    public var isListening: Bool { socketPath != nil }

    /// Start-up is done: requests will be served.
    public func ready(status: String? = nil) throws(Errno) { try send(["READY=1"] + Self.statusLine(status)) }

    /// The configuration is being read again; `ready` says that it is done (Type=notify-reload).
    public func reloading() throws(Errno) {
        try send(["RELOADING=1", "MONOTONIC_USEC=\(MonotonicTime.now().nanoseconds / 1000)"])
    }

    /// Shutdown has begun.
    public func stopping(status: String? = nil) throws(Errno) { try send(["STOPPING=1"] + Self.statusLine(status), [], .mayBeMissed) }

    /// One line for `systemctl status`.
    public func status(_ text: String) throws(Errno) { try send(Self.statusLine(text), [], .mayBeMissed) }

    /// Asks for so much more time to start or stop (EXTEND_TIMEOUT_USEC=), and says why.
    public func extendTimeout(seconds: Int, status: String) throws(Errno) {
        try send(["EXTEND_TIMEOUT_USEC=\(seconds * 1_000_000)"] + Self.statusLine(status), [], .mayBeMissed)
    }

    /// As above, without a word why.
    public func extendTimeout(microseconds: UInt64) throws(Errno) { try send(["EXTEND_TIMEOUT_USEC=\(microseconds)"], [], .mayBeMissed) }

    /// The work goes on (WatchdogSec=). Send it only when the threads that do the work made progress.
    public func watchdog() throws(Errno) { try send(["WATCHDOG=1"], [], .mayBeMissed) }

    /// Gives descriptors to the starter to keep over a restart; they come back through `InheritedDescriptors` under `name`.
    ///
    /// FDPOLL=0 always: otherwise the starter polls the descriptor and wakes for nearly every request on a FUSE device.
    public func store(_ descriptors: [CInt], name: String) throws(Errno) {
        try send(["FDSTORE=1", "FDNAME=\(name)", "FDPOLL=0"], descriptors)
    }

    /// Takes descriptors of that name out of the starter's store.
    public func removeStored(name: String) throws(Errno) { try send(["FDSTOREREMOVE=1", "FDNAME=\(name)"]) }

    /// Waits until everything sent before was taken (BARRIER=1), `seconds` at most; false if it was not. For a helper that ends right afterwards.
    public func barrier(seconds: Int = 5) throws(Errno) -> Bool {
        guard isListening else { return true }
        let ends = try ThisProcess.pipe()
        let output = SharedDescriptor(try ends.output.duplicate())
        do {
            let input = SharedDescriptor(try ends.input.duplicate())
            try send(["BARRIER=1"], [input.number])
        }
        // The writing end that is left is ours: closed, the starter's is the last.
        discard(ends)
        return try waitReadable(output.number, timeoutMilliseconds: CInt(seconds * 1000))
    }

    private func discard(_ ends: consuming ThisProcess.Pipe) {}

    private static func statusLine(_ text: String?) -> [String] {
        guard let text else { return [] }
        return ["STATUS=" + text.replacing("\n", with: " ")]
    }

    /// What a starter may miss must not wait for one that does not read: the queue of its socket has few places, and a keeper that waits there keeps
    /// nobody alive.
    private enum Importance { case mayBeMissed, mustArrive }

    private func send(_ lines: [String], _ descriptors: [CInt] = [], _ importance: Importance = .mustArrive) throws(Errno) {
        guard let socketPath else { return }
        let socket = try UnixSocket.connect(socketPath, .datagram)
        if importance == .mayBeMissed { try UnixSocket.setNonBlocking(socket.number) }
        let bytes = Array(lines.joined(separator: "\n").utf8)
        _ = try bytes.withBytes { (buffer) throws(Errno) in
            try UnixSocket.send(socket.number, buffer, descriptors: descriptors)
        }
    }
}
