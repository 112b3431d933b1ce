import ServiceSupport
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@Suite struct NotificationTests {
    @Test func readinessReachesTheSocketThatTheEnvironmentNames() throws {
        let scratch = try ScratchDirectory()
        let path = scratch.file("notify")
        let socket = try UnixSocket.listen(path, .datagram)
        try Notifier(environment: path).ready(status: "two\nlines")
        var buffer = [UInt8](repeating: 0, count: 256)
        let received = try buffer.withUnsafeMutableBytes { try UnixSocket.receive(socket.number, into: $0) }
        #expect(String(decoding: buffer[0..<(received?.count ?? 0)], as: UTF8.self) == "READY=1\nSTATUS=two lines")
    }

    @Test func aStoredDescriptorTravelsWithItsNameAndIsNotPolled() throws {
        let scratch = try ScratchDirectory()
        let path = scratch.file("notify")
        let socket = try UnixSocket.listen(path, .datagram)
        let file = try MemoryFile.make("kept", size: 8)
        try Notifier(environment: path).store([file.number], name: "state")
        var buffer = [UInt8](repeating: 0, count: 256)
        let received = try #require(try buffer.withUnsafeMutableBytes { try UnixSocket.receive(socket.number, into: $0) })
        #expect(String(decoding: buffer[0..<received.count], as: UTF8.self) == "FDSTORE=1\nFDNAME=state\nFDPOLL=0")
        let kept = OwnedDescriptor(owning: try #require(received.descriptors.first))
        #expect(try Files.status(kept.number).inode == Files.status(file.number).inode)
    }

    @Test func withoutAStarterNothingIsSent() throws {
        try Notifier(environment: nil).ready()
    }
}
