/// What a started program says in one datagram, as its starter reads it (sd_notify(3)). `Notifier` writes these.
///
/// Pure: no socket, no descriptor. Assignments that this starter has no use for are passed over, as the protocol asks.
public struct NotifyMessage: Sendable, Equatable {
    /// One thing said.
    public enum Statement: Sendable, Equatable {
        case ready
        case reloading
        case stopping
        case status(String)
        case watchdog
        /// The program needs this much longer for what it is doing (EXTEND_TIMEOUT_USEC).
        case moreTime(microseconds: UInt64)
        /// The program says that another process is its main one.
        case mainProcess(Int32)
        /// The sender waits until the descriptor that came with this is closed.
        case barrier
    }

    /// What to do with the descriptors that came with the message, and with those kept.
    public enum Storage: Sendable, Equatable {
        case nothing
        /// Keep them under this name. `polled` is false if the sender asked to leave them unpolled (FDPOLL=0).
        case keep(name: String, polled: Bool)
        case remove(name: String)
    }

    public var statements: [Statement] = []
    public var storage: Storage = .nothing

    /// The largest message read; systemd's own limit (PIPE_BUF).
    public static let maxBytes = 4096
    /// The longest name of a kept descriptor (sd_pid_notify_with_fds(3)).
    public static let maxNameBytes = 255

    /// Why a message is refused as a whole.
    public struct Refusal: Error, Equatable, CustomStringConvertible {
        public var description: String
    }

    public init(parsing bytes: some Collection<UInt8>) throws(Refusal) {
        guard bytes.count <= Self.maxBytes else { throw Refusal(description: "longer than \(Self.maxBytes) bytes") }
        guard let text = String(validating: Array(bytes), as: UTF8.self), !text.utf8.contains(0) else {
            throw Refusal(description: "not UTF-8 text without zero bytes")
        }
        var (keeps, removes, polled) = (false, false, true)
        var name: String?
        for line in text.split(separator: "\n") {
            guard let equals = line.firstIndex(of: "=") else {
                throw Refusal(description: "a line without '='; each line is NAME=value")
            }
            let value = line[line.index(after: equals)...]
            switch line[..<equals] {
            case "READY": if value == "1" { statements.append(.ready) }
            case "RELOADING": if value == "1" { statements.append(.reloading) }
            case "STOPPING": if value == "1" { statements.append(.stopping) }
            case "STATUS": statements.append(.status(String(value)))
            case "WATCHDOG": if value == "1" { statements.append(.watchdog) }
            case "BARRIER": if value == "1" { statements.append(.barrier) }
            case "EXTEND_TIMEOUT_USEC":
                guard let time = UInt64(value) else { throw Refusal(description: "EXTEND_TIMEOUT_USEC is not a count of microseconds") }
                statements.append(.moreTime(microseconds: time))
            case "MAINPID":
                guard let process = Int32(value), process > 0 else { throw Refusal(description: "MAINPID is not a process number") }
                statements.append(.mainProcess(process))
            case "FDSTORE": keeps = value == "1"
            case "FDSTOREREMOVE": removes = value == "1"
            case "FDPOLL": polled = value != "0"
            case "FDNAME": name = String(value)
            default: break
            }
        }
        if let name, !Self.isName(name) {
            throw Refusal(description: "FDNAME is not 1 to \(Self.maxNameBytes) printable ASCII characters without ':'")
        }
        switch (keeps, removes) {
        case (true, true): throw Refusal(description: "FDSTORE and FDSTOREREMOVE in one message")
        // The protocol's own default name. Ours are always given.
        case (true, false): storage = .keep(name: name ?? "stored", polled: polled)
        case (false, true):
            guard let name else { throw Refusal(description: "FDSTOREREMOVE without FDNAME") }
            storage = .remove(name: name)
        case (false, false): break
        }
    }

    private static func isName(_ name: String) -> Bool {
        (1...maxNameBytes).contains(name.utf8.count) && name.utf8.allSatisfy { (0x20...0x7e).contains($0) && $0 != UInt8(ascii: ":") }
    }
}
