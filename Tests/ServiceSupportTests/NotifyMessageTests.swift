import ServiceSupport
import TestSupport
import Testing

@Suite struct NotifyMessageTests {
    private func parse(_ text: String) throws -> NotifyMessage { try NotifyMessage(parsing: Array(text.utf8)) }

    @Test func everyLineThatTheStarterKnowsIsRead() throws {
        let message = try parse("READY=1\nSTATUS=two=three\nMAINPID=7\nEXTEND_TIMEOUT_USEC=5000000\nX_VENDOR=1\nSTOPPING=1\nBARRIER=1\n")
        let expected: [NotifyMessage.Statement] = [
            .ready, .status("two=three"), .mainProcess(7), .moreTime(microseconds: 5_000_000), .stopping, .barrier,
        ]
        #expect(message.statements == expected)
        #expect(message.storage == .nothing)
    }

    @Test func descriptorsAreKeptByNameInAnyOrderOfLines() throws {
        #expect(try parse("FDNAME=fuse\nFDPOLL=0\nFDSTORE=1").storage == .keep(name: "fuse", polled: false))
        #expect(try parse("FDSTORE=1").storage == .keep(name: "stored", polled: true))
        #expect(try parse("FDSTOREREMOVE=1\nFDNAME=pool").storage == .remove(name: "pool"))
    }

    @Test(arguments: [
        "READY", "FDSTORE=1\nFDNAME=a:b", "FDSTORE=1\nFDNAME=", "FDSTORE=1\nFDNAME=é", "FDSTOREREMOVE=1",
        "FDSTORE=1\nFDSTOREREMOVE=1\nFDNAME=a",
        "MAINPID=0", "MAINPID=x", "EXTEND_TIMEOUT_USEC=-1", "STATUS=a\0b",
    ])
    func aMessageThatBreaksTheRulesIsRefusedWhole(_ text: String) {
        #expect(throws: NotifyMessage.Refusal.self) { try parse(text) }
    }

    @Test func lengthIsBounded() throws {
        let longest = "STATUS=" + String(repeating: "a", count: NotifyMessage.maxBytes - 7)
        #expect(try parse(longest).statements.count == 1)
        #expect(throws: NotifyMessage.Refusal.self) { try parse(longest + "a") }
    }

    @Test func noBytesMakeTheParserTrap() {
        var random = SeededGenerator(seed: testSeed("noBytesMakeTheParserTrap"))
        let words = [
            "READY=1", "FDSTORE=1", "FDNAME=", "=", "\n", "MAINPID=", "9", ":", "\0", "é", "EXTEND_TIMEOUT_USEC=", "18446744073709551616",
        ]
        for _ in 0..<20_000 {
            var bytes: [UInt8] = []
            for _ in 0..<Int.random(in: 0...6, using: &random) {
                bytes += Array(words.randomElement(using: &random).unsafelyUnwrapped.utf8)
                if UInt8.random(in: 0...7, using: &random) == 0 { bytes.append(UInt8.random(in: 0...255, using: &random)) }
            }
            if let message = try? NotifyMessage(parsing: bytes), case .keep(let name, _) = message.storage { #expect(!name.contains(":")) }
        }
    }
}
