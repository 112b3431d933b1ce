import Logging
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@testable import ServiceSupport

@Suite struct ServiceLogHandlerTests {
    private struct Failure: Error, CustomStringConvertible { var description: String { "no room" } }

    private func written(_ prefix: ServiceLogHandler.Prefix, _ body: (Logger) -> Void) throws -> String {
        let file = try MemoryFile.make("log", size: 0)
        var handler = ServiceLogHandler(prefix, level: .debug, descriptor: file.number)
        handler[metadataKey: "part"] = "engine"
        let own = handler
        body(Logger(label: "test", factory: { _ in own }))
        var bytes = [UInt8](repeating: 0, count: try Files.status(file.number).sizeBytes)
        _ = try bytes.withMutableBytes { (buffer) throws(Errno) in try Files.read(file.number, into: buffer, at: 0) }
        return String(decoding: bytes, as: UTF8.self)
    }

    @Test func levelsBecomePriorities() throws {
        let text = try written(.priority) { log in
            for level in Logger.Level.allCases { log.log(level: level, "m") }
        }
        #expect(text == "<7>m part=engine\n<6>m part=engine\n<5>m part=engine\n<4>m part=engine\n<3>m part=engine\n<2>m part=engine\n")
    }

    @Test func metadataIsSortedQuotedAndNeverBreaksALine() throws {
        let text = try written(.levelName) { log in
            log.warning("two\nlines", metadata: ["z": "plain", "a": "say \"no\" \\ a=b", "empty": "", "n": "x\ny"])
        }
        #expect(text == #"warning: two\nlines a="say \"no\" \\ a=b" empty="" n="x\ny" part=engine z=plain"# + "\n")
        #expect(text.split(separator: "\n").count == 1)
    }

    @Test func aLineIsBounded() throws {
        let text = try written(.levelName) { $0.info("\(String(repeating: "x", count: 100_000))") }
        #expect(text.utf8.count < ServiceLogHandler.maxLineBytes + 32)
        #expect(text.hasSuffix("(cut)\n"))
    }

    @Test func onlyTheFileThatSystemdReadsGetsPriorities() throws {
        let status = try Files.status(2)
        #expect(ServiceLogHandler.prefixOfStandardError(journalStream: "\(status.device):\(status.inode)") == .priority)
        #expect(ServiceLogHandler.prefixOfStandardError(journalStream: "\(status.device):\(status.inode + 1)") == .levelName)
        #expect(ServiceLogHandler.prefixOfStandardError(journalStream: nil) == .levelName)
    }
}
