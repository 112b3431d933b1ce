public import Logging
public import ShrinkLinux

/// Log lines on standard error, for people and for systemd alike.
///
/// Where systemd reads standard error (`$JOURNAL_STREAM` names the open file behind it, systemd.exec(5)), a line begins with its
/// priority as `<N>` (sd-daemon(3)); everywhere else with the level's name:
///
///     <4>A part ended and is started again. delay_ms=100 ending="signal 9" part=backupfs
///     warning: A part ended and is started again. delay_ms=100 ending="signal 9" part=backupfs
///
/// To journald each line goes by its own socket, with the metadata as fields (`JournalEntry`).
///
/// A line is one write(2), so lines of several processes on one terminal or pipe never mix. Metadata follows in the order of its keys.
public struct ServiceLogHandler: LogHandler {
    /// How a line says what it weighs.
    public enum Prefix: Sendable, Equatable {
        /// `<N>`, which systemd takes off again.
        case priority
        case levelName
    }

    public var logLevel: Logger.Level
    public var metadata: Logger.Metadata = [:]
    public var metadataProvider: Logger.MetadataProvider?
    private let prefix: Prefix
    private let descriptor: CInt

    public init(_ prefix: Prefix, level: Logger.Level = .info, descriptor: CInt = 2) {
        self.prefix = prefix
        self.descriptor = descriptor
        logLevel = level
    }

    /// Makes this the handler of every `Logger` of the program. Call it once, first.
    public static func bootstrap(level: Logger.Level = .info) {
        let handler = ServiceLogHandler(prefixOfStandardError(), level: level)
        LoggingSystem.bootstrap { _ in handler }
    }

    /// The prefix that the reader of standard error expects.
    public static func prefixOfStandardError(journalStream: String? = ThisProcess.environment("JOURNAL_STREAM")) -> Prefix {
        // A child that redirected its standard error inherits the variable too: only the file's own numbers prove it.
        guard let journalStream, let status = try? Files.status(2) else { return .levelName }
        return journalStream == "\(status.device):\(status.inode)" ? .priority : .levelName
    }

    public subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    public func log(event: LogEvent) {
        var all = metadata
        if let provided = metadataProvider?.get() { all.merge(provided) { $1 } }
        if let own = event.metadata { all.merge(own) { $1 } }
        if let error = event.error { all["error"] = "\(error)" }
        if prefix == .priority, sendToJournal(event.level, "\(event.message)", all) { return }
        let line = Array(Self.line(prefix, event.level, "\(event.message)", all).utf8)
        line.withUnsafeBytes { Files.appendOnce(descriptor, $0) }
    }

    /// With its metadata as fields, and in the message as well, for people. What journald does not take goes to standard error.
    private func sendToJournal(_ level: Logger.Level, _ message: String, _ metadata: Logger.Metadata) -> Bool {
        let line = Self.line(prefix, level, message, metadata)
        // Without "<N>" and the newline.
        let text = String(line.dropFirst(3).dropLast())
        return JournalEntry(
            priority: level.priority, identifier: Self.identifier, message: text,
            metadata: metadata.sorted { $0.key < $1.key }.map { ($0.key, "\($0.value)") }
        ).send()
    }

    private static let identifier: String =
        (try? ThisProcess.executablePath()).flatMap { $0.split(separator: "/").last.map(String.init) } ?? "shrinkd"

    /// The text of one line, with its newline. Longer ones than `maxLineBytes` are cut and say so.
    static func line(_ prefix: Prefix, _ level: Logger.Level, _ message: String, _ metadata: Logger.Metadata) -> String {
        var text = prefix == .priority ? "<\(level.priority)>" : "\(level.rawValue): "
        text += escapingNewlines(message)
        for (key, value) in metadata.sorted(by: { $0.key < $1.key }) { text += " \(key)=\(quoted("\(value)"))" }
        if text.utf8.count > maxLineBytes {
            text = String(decoding: text.utf8.prefix(maxLineBytes), as: UTF8.self) + " … (cut)"
        }
        return text + "\n"
    }

    /// journald splits longer lines (LineMax=48K), and the rest of a split line has no priority.
    static let maxLineBytes = 16384

    private static func escapingNewlines(_ text: String) -> String {
        text.replacing("\n", with: "\\n").replacing("\r", with: "\\r")
    }

    /// Plain words stay as they are; anything that could be misread is put in double quotes.
    private static func quoted(_ value: String) -> String {
        let plain =
            !value.isEmpty && value.utf8.allSatisfy { $0 > 0x20 && $0 != UInt8(ascii: "\"") && $0 != UInt8(ascii: "=") && $0 != 0x7f }
        if plain { return value }
        return "\"" + escapingNewlines(value.replacing("\\", with: "\\\\").replacing("\"", with: "\\\"")) + "\""
    }
}

extension Logger.Level {
    /// The syslog priority (syslog(3)).
    var priority: Int {
        switch self {
        case .trace, .debug: 7
        case .info: 6
        case .notice: 5
        case .warning: 4
        case .error: 3
        case .critical: 2
        }
    }
}
