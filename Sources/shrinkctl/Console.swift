import FoundationEssentials
import Glibc
import ShrinkLinux
import SystemPackage

/// What goes to the two streams: results to standard output, everything else to standard error.
enum Console {
    static func complain(_ message: String) { toStandardError("shrinkctl: " + message.replacing("\n", with: " ") + "\n") }

    static func printJSON(_ document: some Encodable) {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        encoder.keyEncodingStrategy = .convertToSnakeCase
        guard let data = try? encoder.encode(document) else { fatalError("a document of this program cannot be encoded") }
        say(String(decoding: data, as: UTF8.self))
    }

    /// One document on one line, for a series of them.
    static func printJSONLine(_ document: some Encodable) {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        encoder.keyEncodingStrategy = .convertToSnakeCase
        guard let data = try? encoder.encode(document) else { fatalError("a document of this program cannot be encoded") }
        say(String(decoding: data, as: UTF8.self))
    }

    /// A result. One that nobody gets is a failure, and not a silent one: the program ends with 74.
    static func say(_ text: String) {
        let bytes = Array((text + "\n").utf8)
        do throws(Errno) { try bytes.withBytes { (buffer) throws(Errno) in try Streams.write(1, buffer) } } catch {
            complain("cannot write to standard output: \(error)")
            Glibc.exit(74)
        }
    }

    static func toStandardError(_ text: String) {
        var bytes = Array(text.utf8)
        // Nobody can be told that standard error is gone.
        try? bytes.withMutableBytes { (buffer) throws(Errno) in try Streams.write(2, UnsafeRawBufferPointer(buffer)) }
    }
}

/// One line on the terminal that is written over and over; nothing anywhere else.
final class ProgressLine {
    private let isShown = Streams.isTerminal(2)
    private var isDirty = false

    func show(_ text: @autoclosure () -> String) {
        guard isShown else { return }
        Console.toStandardError("\r" + text() + "\u{1B}[K")
        isDirty = true
    }

    func clear() {
        if isDirty { Console.toStandardError("\r\u{1B}[K") }
        isDirty = false
    }
}
