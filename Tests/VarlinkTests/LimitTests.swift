import Glibc
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing
import Varlink

@Suite(.serialized) struct LimitTests {
    @Test func tenThousandConnectionsOpenedAndDroppedLeaveNothing() async throws {
        // Descriptors are counted, so nothing else may run in the process.
        await #expect(processExitsWith: .success) {
            try await withServer { served in
                let before = try openDescriptors()
                let seed = testSeed("tenThousandConnections")
                var generator = SeededGenerator(seed: seed)
                for _ in 0..<10_000 {
                    let client = try RawClient(served.path)
                    switch generator.next() % 8 {
                    case 0: try client.send(#"{"method":"org.example.te"#, terminated: false)
                    case 1: try? client.send(#"{"method":"org.example.test.Wait"}"#)
                    case 2: try? client.send("garbage")
                    default: break
                    }
                }
                #expect(served.counters { $0.accepted == 10_000 && $0.open == 0 })
                let client = try RawClient(served.path)
                try client.send(#"{"method":"org.example.test.Echo","parameters":{"text":"alive"}}"#)
                #expect(try client.receive() == #"{"parameters":{"text":"alive"}}"#)
                #expect(served.observations.wait { $0.cancelled == $0.ended })
                #expect(try served.eventually { try openDescriptors() <= before + 4 })
            }
        }
    }

    @Test func aHalfSentMessageIsDroppedInTimeAndAnIdleConnectionIsNot() async throws {
        var limits = VarlinkLimits()
        limits.halfMessageMilliseconds = 300
        try await withServer(limits) { served in
            let idle = try RawClient(served.path)
            let half = try RawClient(served.path)
            try half.send(#"{"method":"org.exa"#, terminated: false)
            #expect(try half.receive() == nil)
            #expect(served.counters { $0.dropped[.halfMessageTimeout] == 1 })
            try idle.send(#"{"method":"org.example.te"#, terminated: false)
            try idle.send(#"st.Echo","parameters":{"text":"late"}}"#)
            #expect(try idle.receive() == #"{"parameters":{"text":"late"}}"#)
        }
    }

    @Test func aMessageBeyondTheLimitClosesTheConnection() async throws {
        try await withServer { served in
            let client = try RawClient(served.path)
            let frame = #"{"method":"org.example.test.Note","parameters":{"number":1},"org.example.padding":""}"#
            let fits = String(frame.dropLast(2)) + String(repeating: "x", count: (256 << 10) - frame.utf8.count) + #""}"#
            #expect(fits.utf8.count == 256 << 10)
            try client.send(fits)
            #expect(try client.receive() == #"{"parameters":{}}"#)
            do { try client.send("x" + fits) } catch { #expect(error as? Errno == .brokenPipe) }
            #expect(try client.receive() == nil)
            #expect(served.counters { $0.dropped[.messageTooLarge] == 1 })
        }
    }

    @Test func connectionsAreLimitedInAllAndByUser() async throws {
        var limits = VarlinkLimits()
        limits.connectionsPerUser = 3
        try await withServer(limits) { served in
            var held: [RawClient] = []
            for _ in 0..<3 { held.append(try RawClient(served.path)) }
            #expect(served.counters { $0.open == 3 })
            #expect(try RawClient(served.path).receive() == nil)
            #expect(served.counters { $0.dropped[.tooManyConnectionsOfOneUser] == 1 })
            held.removeLast()
            #expect(served.counters { $0.open == 2 })
            let next = try RawClient(served.path)
            try next.send(#"{"method":"org.example.test.Echo","parameters":{"text":"in"}}"#)
            #expect(try next.receive() == #"{"parameters":{"text":"in"}}"#)
        }
        limits.connectionsPerUser = 100
        limits.connections = 2
        try await withServer(limits) { served in
            let held = [try RawClient(served.path), try RawClient(served.path)]
            #expect(served.counters { $0.open == 2 })
            #expect(try RawClient(served.path).receive() == nil)
            #expect(served.counters { $0.dropped[.tooManyConnections] == 1 })
            withExtendedLifetime(held) {}
        }
    }

    @Test func aSlowReaderHoldsItsProducerBackAndIsDroppedInTheEnd() async throws {
        var limits = VarlinkLimits()
        limits.slowReaderMilliseconds = 400
        try await withServer(limits) { served in
            let client = try RawClient(served.path)
            // 100 MB of replies, of which nobody takes one.
            try client.send(#"{"method":"org.example.test.Count","parameters":{"count":1000,"padding":100000},"more":true}"#)
            #expect(served.counters { $0.dropped[.slowReader] == 1 })
            // Kernel buffer and queue together hold a few, not a thousand.
            #expect(served.observations.now.seriesSent < 20)
        }
    }

    @Test func aReaderThatTakesAllGetsAll() async throws {
        var limits = VarlinkLimits()
        limits.slowReaderMilliseconds = 5000
        try await withServer(limits) { served in
            let client = try VarlinkClient(path: served.path)
            var numbers: [Int] = []
            try client.callMore("org.example.test.Count", TestInterface.Count(count: 60, padding: 50_000), timeoutMilliseconds: 10_000) {
                (reply) throws(VarlinkFailure) in
                numbers.append(try reply.decode(TestInterface.Counted.self).number)
                return .proceed
            }
            #expect(numbers == Array(1...60))
        }
    }

    @Test func descriptorsAreTakenWithTheFirstByteOnlyAndNotTooMany() async throws {
        // Descriptors are counted, so nothing else may run in the process.
        await #expect(processExitsWith: .success) {
            try await withServer { served in
                let file = try MemoryFile.make("sent", size: 12_345)
                let call = #"{"method":"org.example.test.SizeOf","parameters":{"contentFileDescriptor":0}}"#
                let good = try RawClient(served.path)
                // Answered, so the server has all that it opens for itself.
                try good.send(#"{"method":"org.example.test.Echo","parameters":{"text":"there"}}"#)
                #expect(try good.receive() == #"{"parameters":{"text":"there"}}"#)
                let before = try openDescriptors()
                // Two pipelined calls, the second with the descriptor: it must not be taken for the first's.
                try good.send(#"{"method":"org.example.test.Echo","parameters":{"text":"a"}}"#)
                try good.send(call, descriptors: [file.number])
                #expect(try good.receive() == #"{"parameters":{"text":"a"}}"#)
                #expect(try good.receive() == #"{"parameters":{"sizeBytes":12345}}"#)
                try good.send(call)
                #expect(try good.receive()?.contains("InvalidParameter") == true)
                // To an interface that takes none.
                try good.send(#"{"method":"org.varlink.service.GetInfo"}"#, descriptors: [file.number])
                #expect(try good.receive()?.contains("InvalidParameter") == true)

                let many = try RawClient(served.path)
                try many.send(call, descriptors: Array(repeating: file.number, count: 17))
                #expect(try many.receive() == nil)
                let middle = try RawClient(served.path)
                try middle.send(String(call.prefix(10)), terminated: false)
                try middle.send(String(call.dropFirst(10)), descriptors: [file.number])
                #expect(try middle.receive() == nil)
                #expect(served.counters { $0.dropped[.descriptorViolation] == 2 })
                // Every descriptor that came was closed: only the two clients' are new.
                #expect(try served.eventually { try openDescriptors() <= before + 2 })
            }
        }
    }

    @Test func aHangUpUnderAOnewayCallDoesNotSpinAndDoesNotEndIt() async throws {
        try await withServer { served in
            do {
                let client = try RawClient(served.path)
                try client.send(#"{"method":"org.example.test.Wait","oneway":true}"#)
                #expect(served.observations.wait { $0.calls == 1 })
            }
            let before = served.server.counters.wakeups
            usleep(300_000)
            #expect(served.server.counters.wakeups - before <= 3)
            #expect(served.server.counters.open == 1, "the call's connection was dropped under it")
            #expect(served.observations.now.cancelled == 0)
        }
    }

    @Test func outOfDescriptorsTheServerRestsInsteadOfSpinningAndRecovers() async throws {
        // The limit is the whole process's, so this runs in one of its own.
        await #expect(processExitsWith: .success) {
            try await withServer { served in
                let first = try RawClient(served.path)
                #expect(served.counters { $0.open == 1 })
                let old = try limitDescriptors(free: 1)
                // The one number that is left goes to this end, and none remains for the server's.
                let waiting = try RawClient(served.path)
                #expect(served.counters { $0.acceptRests >= 1 })
                let rests = served.server.counters.acceptRests
                let start = MonotonicTime.now()
                usleep(600_000)
                // One try in each rest of 200 ms.
                let passed = MonotonicTime.now().nanoseconds(since: start) / 200_000_000
                #expect(served.server.counters.acceptRests - rests <= Int(passed) + 2)
                #expect(served.server.counters.accepted == 1)
                // Those that are in are served all the while.
                try first.send(#"{"method":"org.example.test.Echo","parameters":{"text":"in"}}"#)
                #expect(try first.receive() == #"{"parameters":{"text":"in"}}"#)
                try restoreDescriptors(old)
                try waiting.send(#"{"method":"org.example.test.Echo","parameters":{"text":"now"}}"#)
                #expect(try waiting.receive() == #"{"parameters":{"text":"now"}}"#)
            }
        }
    }
}

/// Lowers RLIMIT_NOFILE so that exactly `free` descriptors can still be made; returns the old limit.
func limitDescriptors(free: Int) throws -> UInt64 {
    let old = try ThisProcess.descriptorLimit().soft
    // Leaked too: closed it would be a hole again.
    let directory = try Files.open("/proc/self/fd", [.readOnly, .directory]).release()
    var highest = 0
    try Files.forEachName(in: directory) { highest = max(highest, Int($0) ?? 0) }
    // Fill every hole below, and leak what fills it.
    var number = 0
    while number <= highest { number = Int(try Files.open("/dev/null", .readOnly).release()) }
    try ThisProcess.setDescriptorLimit(soft: UInt64(number + 1 + free))
    return old
}

func restoreDescriptors(_ old: UInt64) throws {
    try ThisProcess.setDescriptorLimit(soft: old)
}

func openDescriptors() throws -> Int {
    let directory = try Files.open("/proc/self/fd", [.readOnly, .directory])
    var n = 0
    try Files.forEachName(in: directory.number) { _ in n += 1 }
    return n
}
