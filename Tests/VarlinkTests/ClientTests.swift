import FoundationEssentials
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing
import Varlink

@Suite(.serialized) struct ClientTests {
    private func code<R>(_ body: () async throws(VarlinkFailure) -> R) async -> TransportError.Code? {
        do throws(VarlinkFailure) {
            _ = try await body()
            return nil
        } catch {
            if case .transport(let error) = error { return error.code }
            return nil
        }
    }

    @Test func callsErrorsAndDescriptorsBlocking() async throws {
        try await withServer { served in
            let client = try VarlinkClient(path: served.path)
            let echo = try client.call(
                "org.example.test.Echo", TestInterface.Echo(text: "a\u{0}\"b", number: .max), timeoutMilliseconds: 5000
            ).decode(TestInterface.Echo.self)
            #expect(echo.text == "a\u{0}\"b" && echo.number == .max)
            do throws(VarlinkFailure) {
                _ = try client.call("org.example.test.Fail", TestInterface.None(), timeoutMilliseconds: 5000)
                Issue.record("Fail did not fail")
            } catch {
                guard case .answered(let error) = error else { throw error }
                #expect(error.name == "org.example.test.Failed")
                #expect(error.decode([String: String].self) == ["message": "as \"promised\""])
            }
            let made = try client.call("org.example.test.MakeFile", TestInterface.Text(text: "hello"), timeoutMilliseconds: 5000)
            let index = try made.decode(TestInterface.File.self).contentFileDescriptor
            guard let taken = made.descriptors.take(index) else { throw Errno.badFileDescriptor }
            let file = SharedDescriptor(taken)
            var buffer = [UInt8](repeating: 0, count: 10)
            let n = try buffer.withUnsafeMutableBytes { try Files.read(file.number, into: $0, at: 0) }
            #expect(Array(buffer[0..<n]) == Array("hello".utf8))
            let size = try client.call(
                "org.example.test.SizeOf", TestInterface.File(contentFileDescriptor: 0), descriptors: [file], timeoutMilliseconds: 5000
            ).decode([String: Int].self)
            #expect(size == ["sizeBytes": 5])
            try client.callOneway("org.example.test.Note", TestInterface.Note(number: 7))
            #expect(served.observations.wait { $0.oneways == [7] })
        }
    }

    @Test func asyncCallsAndStreams() async throws {
        let served = try await Held.make()
        let client = try VarlinkClient(path: served.path)
        let echo = try await client.call("org.example.test.Echo", TestInterface.Echo(text: "x"), timeoutMilliseconds: 5000)
        #expect(try echo.decode(TestInterface.Echo.self).text == "x")
        var numbers: [Int] = []
        for try await reply in client.replies(
            "org.example.test.Count", TestInterface.Count(count: 100, padding: 20_000), timeoutMilliseconds: 5000)
        {
            numbers.append(try reply.decode(TestInterface.Counted.self).number)
            if numbers.count == 1 {
                // A call behind its own series would wait for ever.
                let refused = await code { () async throws(VarlinkFailure) in
                    try await client.call("org.example.test.Echo", TestInterface.Echo(text: "x"), timeoutMilliseconds: 5000)
                }
                #expect(refused == .busy)
            }
        }
        #expect(numbers == Array(1...100))
        let after = try await client.call("org.example.test.Echo", TestInterface.Echo(text: "y"), timeoutMilliseconds: 5000)
        #expect(try after.decode(TestInterface.Echo.self).text == "y")
        try await served.end()
    }

    @Test func aStreamHoldsTheServerBackAndLeavingItClosesTheConnection() async throws {
        let served = try await Held.make()
        let client = try VarlinkClient(path: served.path)
        do {
            var taken = 0
            for try await _ in client.replies(
                "org.example.test.Count", TestInterface.Count(count: 1000, padding: 100_000), timeoutMilliseconds: 5000)
            {
                taken += 1
                if taken == 3 { break }
            }
        }
        let dropped = await onOwnThread { served.served.counters { $0.open == 0 } }
        #expect(dropped)
        #expect(served.served.observations.now.seriesSent < 30)
        let refused = await code { () async throws(VarlinkFailure) in
            try await client.call("org.example.test.Echo", TestInterface.Echo(text: "x"), timeoutMilliseconds: 5000)
        }
        #expect(refused == .cancelled)
        try await served.end()
    }

    @Test func timeoutAndCancellationEndTheConnectionAndTheHandler() async throws {
        let served = try await Held.make()
        let slow = try VarlinkClient(path: served.path)
        let timedOut = await code { () async throws(VarlinkFailure) in
            try await slow.call("org.example.test.Wait", TestInterface.None(), timeoutMilliseconds: 2000)
        }
        #expect(timedOut == .timedOut)
        #expect(await onOwnThread { served.served.observations.wait { $0.cancelled == 1 && $0.ended == 1 } })

        let client = try VarlinkClient(path: served.path)
        let call = Task { () async -> TransportError.Code? in
            await code { () async throws(VarlinkFailure) in
                try await client.call("org.example.test.Wait", TestInterface.None(), timeoutMilliseconds: nil)
            }
        }
        #expect(await onOwnThread { served.served.observations.wait { $0.calls == 2 } })
        call.cancel()
        #expect(await call.value == .cancelled)
        #expect(await onOwnThread { served.served.observations.wait { $0.cancelled == 2 } })
        try await served.end()
    }

    @Test func whereNobodyListensIsToldFromWhereNobodyMay() throws {
        let scratch = try ScratchDirectory()
        func refusal(_ path: String) -> TransportError.Code? {
            do throws(TransportError) {
                _ = try VarlinkClient(path: path)
                return nil
            } catch { return error.code }
        }
        #expect(refusal(scratch.file("none")) == .notRunning)
        _ = try UnixSocket.listen(scratch.file("stale"))
        #expect(refusal(scratch.file("stale")) == .notRunning)
        #expect(refusal("/" + String(repeating: "x", count: 200)) == .system)
    }

    @Test(arguments: [
        "nonsense", #"{"parameters":{"a":1,"a":2}}"#, #"{"parameters":[]}"#, #"{"other":1}"#, #"{"error":"a.b.C","continues":true}"#,
        #"{"continues":true}"#,
    ])
    func aServerThatBreaksTheProtocolIsCutOff(_ reply: String) async throws {
        let outcome = try await onOwnThread {
            Result {
                let ends = try UnixSocket.pair()
                let peer = SharedDescriptor(try ends.second.duplicate())
                let client = try VarlinkClient(connected: try ends.first.duplicate())
                let bytes = Array(reply.utf8) + [0]
                _ = try bytes.withUnsafeBytes { try UnixSocket.send(peer.number, $0) }
                do throws(VarlinkFailure) {
                    _ = try client.call("a.b.C", TestInterface.None(), timeoutMilliseconds: 2000)
                    return TransportError.Code?.none
                } catch {
                    guard case .transport(let error) = error else { return nil }
                    return error.code
                }
            }
        }.get()
        #expect(outcome == .protocolViolation)
    }
}

/// A server for a test that is itself async.
struct Held: Sendable {
    let served: Served
    let scratch: ScratchDirectory
    let running: Task<Void, any Error>
    var path: String { served.path }

    static func make() async throws -> Held {
        let scratch = try ScratchDirectory()
        let path = scratch.file("socket")
        let observations = Observations()
        let server = try VarlinkServer(
            listener: try VarlinkSocket.bind(path, mode: 0o600),
            vendor: VarlinkVendor(vendor: "example", product: "test", version: "1", url: "https://example.org"),
            interfaces: [TestInterface(observations: observations)])
        return Held(
            served: Served(path: path, server: server, observations: observations), scratch: scratch,
            running: Task { try await server.run() })
    }

    func end() async throws {
        running.cancel()
        try await running.value
    }
}
