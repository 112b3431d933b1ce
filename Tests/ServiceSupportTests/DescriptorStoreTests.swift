import ServiceSupport
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@Suite struct DescriptorStoreTests {
    @Test func theLimitHoldsAndOneOpenFileIsKeptOnce() throws {
        var store = DescriptorStore(limit: 2)
        let file = try MemoryFile.make("kept", size: 0)
        #expect(store.keep(try file.duplicate(), name: "a") == .kept)
        #expect(store.keep(try file.duplicate(), name: "b") == .known(as: "a"))
        #expect(store.keep(try MemoryFile.make("second", size: 0), name: "a") == .kept)
        #expect(store.keep(try MemoryFile.make("third", size: 0), name: "c") == .full)
        #expect(store.names == ["a", "a"])
        #expect(store.remove(name: "a") == 2)
        #expect(store.names.isEmpty)
    }

    @Test func aChildFindsWhatWasKeptByNameAndNotOurOwnStarter() throws {
        var store = DescriptorStore(limit: 4)
        let file = try MemoryFile.make("kept", size: 0)
        store.keep(try file.duplicate(), name: "state")
        let line = try MemoryFile.make("line", size: 0)
        let silent = try MemoryFile.make("silent", size: 0)
        let inheritance = ChildInheritance(
            from: ["A=b", "NOTIFY_SOCKET=/ours", "LISTEN_PID=1", "LISTEN_FDS=9", "WATCHDOG_USEC=1"], notifySocket: "/theirs", store: store,
            additional: [("line", line.number)], unannounced: [silent.number])
        #expect(
            inheritance.environment == ["A=b", "NOTIFY_SOCKET=/theirs", "FDSTORE=4", "LISTEN_FDS=2", "LISTEN_FDNAMES=line:state"])
        let child = try ChildProcess(
            "/bin/sh", ["-c", "printf state >&4; printf silent >&5"], environment: inheritance.environment,
            descriptors: inheritance.descriptors)
        #expect(try child.wait() == .exited(0))
        #expect(try Files.status(file.number).sizeBytes == 5)
        #expect(try Files.status(silent.number).sizeBytes == 6)
    }
}

@Suite struct NotifySocketTests {
    @Test func theRightProcessIsHeardAndItsDescriptorsArrive() throws {
        let scratch = try ScratchDirectory()
        let socket = try NotifySocket(binding: scratch.file("notify"))
        if try socket.receive(from: ThisProcess.processID) != nil { Issue.record("something waits in a new socket") }
        let file = try MemoryFile.make("kept", size: 0)
        try Notifier(environment: socket.path).store([file.number], name: "pool")
        guard case .message(let message, let descriptors)? = try socket.receive(from: ThisProcess.processID) else {
            Issue.record("no message")
            return
        }
        #expect(message.storage == .keep(name: "pool", polled: false))
        #expect(descriptors.count == 1 && Files.areSameOpenFile(descriptors[0].number, file.number))
    }

    @Test func anyOtherProcessIsNotHeard() throws {
        let scratch = try ScratchDirectory()
        let socket = try NotifySocket(binding: scratch.file("notify"))
        try Notifier(environment: socket.path).ready()
        guard case .refused(let why)? = try socket.receive(from: 1) else {
            Issue.record("heard somebody else")
            return
        }
        #expect(why.contains("process \(ThisProcess.processID)"))
    }

    @Test func aSocketLeftBehindIsReplacedAndRemovedAtTheEnd() throws {
        let scratch = try ScratchDirectory()
        let path = scratch.file("notify")
        do {
            _ = try UnixSocket.listen(path, .datagram)
            let socket = try NotifySocket(binding: path)
            try Notifier(environment: path).ready()
            guard case .message? = try socket.receive(from: ThisProcess.processID) else {
                Issue.record("the new socket did not hear")
                return
            }
        }
        #expect(throws: Errno.noSuchFileOrDirectory) { try Files.status(of: path) }
    }
}
