import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@testable import ServiceSupport

@Suite struct JournalEntryTests {
    @Test func fieldsAreNamedAndValuesWithLineBreaksAreCounted() throws {
        let entry = JournalEntry(priority: 4, identifier: "shrinkd", message: "one", metadata: [("goal_bytes", "5"), ("a.b-c", "x\ny")])
        let head = "PRIORITY=4\nSYSLOG_IDENTIFIER=shrinkd\nMESSAGE=one\nSHRINKD_GOAL_BYTES=5\nSHRINKD_A_B_C\n"
        #expect(entry.bytes == Array(head.utf8) + [3, 0, 0, 0, 0, 0, 0, 0] + Array("x\ny\n".utf8))
    }

    @Test func anEntryIsOneDatagramAndWhatIsNotTakenIsSaid() throws {
        let scratch = try ScratchDirectory()
        let entry = JournalEntry(priority: 6, identifier: "shrinkd", message: "hello", metadata: [])
        #expect(!entry.send(to: scratch.file("nobody")))
        let listener = try UnixSocket.listen(scratch.file("journal"), .datagram)
        #expect(entry.send(to: scratch.file("journal")))
        var bytes = [UInt8](repeating: 0, count: 4096)
        let number = listener.number
        let received = try bytes.withMutableBytes { (buffer) throws(Errno) in try UnixSocket.receive(number, into: buffer) }
        #expect(Array(bytes[..<(received?.count ?? 0)]) == entry.bytes)
        let long = JournalEntry(priority: 6, identifier: "shrinkd", message: String(repeating: "x", count: 70_000), metadata: [])
        #expect(!long.send(to: scratch.file("journal")))
    }
}
