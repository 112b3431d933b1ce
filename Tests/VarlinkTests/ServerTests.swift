import Glibc
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing
import Varlink

@Suite(.serialized) struct ServerTests {
    @Test func callsAreAnsweredInOrderEvenWhenPipelined() async throws {
        try await withServer { served in
            let client = try RawClient(served.path)
            var all = ""
            for i in 0..<50 { all += #"{"method":"org.example.test.Echo","parameters":{"text":"é","number":\#(i)}}"# + "\0" }
            try client.send(all, terminated: false)
            for i in 0..<50 { #expect(try client.receive() == #"{"parameters":{"number":\#(i),"text":"é"}}"#) }
        }
    }

    @Test func standardErrorsHaveTheirNamesAndParameters() async throws {
        try await withServer { served in
            let client = try RawClient(served.path)
            func ask(_ text: String) throws -> String? {
                try client.send(text)
                return try client.receive()
            }
            #expect(
                try ask(#"{"method":"org.example.none.A"}"#)
                    == #"{"error":"org.varlink.service.InterfaceNotFound","parameters":{"interface":"org.example.none"}}"#)
            #expect(
                try ask(#"{"method":"org.example.test.None"}"#)
                    == #"{"error":"org.varlink.service.MethodNotFound","parameters":{"method":"org.example.test.None"}}"#)
            #expect(
                try ask(#"{"method":"NoDot"}"#) == #"{"error":"org.varlink.service.InterfaceNotFound","parameters":{"interface":""}}"#)
            #expect(
                try ask(#"{"method":"org.example.test.Echo","parameters":{"text":"a","nunber":1}}"#)
                    == #"{"error":"org.varlink.service.InvalidParameter","parameters":{"parameter":"nunber"}}"#)
            #expect(
                try ask(#"{"method":"org.example.test.Echo"}"#)
                    == #"{"error":"org.varlink.service.InvalidParameter","parameters":{"parameter":"text"}}"#)
            #expect(
                try ask(#"{"method":"org.example.test.Count","parameters":{"count":1}}"#)
                    == #"{"error":"org.varlink.service.ExpectedMore","parameters":{}}"#)
            #expect(
                try ask(#"{"method":"org.example.test.Fail"}"#)
                    == #"{"error":"org.example.test.Failed","parameters":{"message":"as \"promised\""}}"#)
            #expect(
                try ask(#"{"method":"org.varlink.service.GetInfo"}"#)?.contains(#""interfaces":["org.varlink.service","org.example.test"]"#)
                    == true)
            #expect(
                try ask(#"{"method":"org.varlink.service.GetInterfaceDescription","parameters":{"interface":"org.example.test"}}"#)?
                    .contains("interface org.example.test") == true)
        }
    }

    @Test(arguments: [
        "", "nonsense", "[]", "{", #"{"parameters":{}}"#, #"{"method":"a.b.C","method":"a.b.D"}"#, #"{"method":"a.b.C","x":1}"#,
        #"{"method":"a.b.C","more":true,"oneway":true}"#, #"{"method":"a.b.C","more":"yes"}"#, #"{"method":"a.b.C","upgrade":true}"#,
        #"{"method":"a.b.C","parameters":{"a":{"b":1,"b":2}}}"#,
    ])
    func whatIsNoCallClosesTheConnectionAndNoOther(_ text: String) async throws {
        try await withServer { served in
            let bystander = try RawClient(served.path)
            let client = try RawClient(served.path)
            try client.send(text)
            #expect(try client.receive() == nil)
            try bystander.send(#"{"method":"org.example.test.Echo","parameters":{"text":"on"}}"#)
            #expect(try bystander.receive() == #"{"parameters":{"text":"on"}}"#)
        }
    }

    @Test func onewayCallsGetNoReplyAndAreDoneEvenIfTheClientIsGone() async throws {
        try await withServer { served in
            do {
                let client = try RawClient(served.path)
                for i in 0..<20 {
                    try client.send(#"{"method":"org.example.test.Note","parameters":{"number":\#(i)},"oneway":true}"#)
                    try client.send(#"{"method":"org.example.test.Fail","oneway":true}"#)
                }
            }
            #expect(served.observations.wait { $0.oneways == Array(0..<20) })
            let client = try RawClient(served.path)
            try client.send(#"{"method":"org.example.test.Fail","oneway":true}"#)
            try client.send(#"{"method":"org.example.test.Echo","parameters":{"text":"next"}}"#)
            #expect(try client.receive() == #"{"parameters":{"text":"next"}}"#)
        }
    }

    @Test func aClientThatOnlyStoppedSendingStillGetsItsReplies() async throws {
        try await withServer { served in
            let client = try RawClient(served.path)
            try client.send(#"{"method":"org.example.test.Count","parameters":{"count":30,"padding":30000},"more":true}"#)
            client.finishSending()
            for i in 1...30 { #expect(try client.receive()?.contains(#""number":\#(i)"#) == true) }
            #expect(try client.receive() == nil)
        }
    }

    @Test func aClientThatVanishesCancelsItsHandlerAndItsEndingRunsOnce() async throws {
        try await withServer { served in
            for round in 1...5 {
                do {
                    let client = try RawClient(served.path)
                    try client.send(#"{"method":"org.example.test.Wait"}"#)
                    #expect(served.observations.wait { $0.calls == round })
                }
                #expect(served.observations.wait { $0.cancelled == round && $0.ended == round })
            }
            #expect(served.counters { $0.open == 0 })
            #expect(served.observations.now.ended == 5)
        }
    }

    @Test func cancellingTheServerEndsHandlersAndRunsEndings() async throws {
        let observations = try await withServer { served in
            let client = try RawClient(served.path)
            try client.send(#"{"method":"org.example.test.Wait"}"#)
            #expect(served.observations.wait { $0.calls == 1 })
            // The client outlives the server's end: the descriptor is leaked on purpose.
            _ = try client.socket.duplicate().release()
            return served.observations
        }
        #expect(observations.now.cancelled == 1)
        #expect(observations.now.ended == 1)
    }

    @Test func aSecondServerIsRefusedAndAStaleFileIsReplaced() async throws {
        try await withServer { served in
            #expect(refusal(served.path) == .inUse)
            let status = try Files.status(of: served.path)
            #expect(status.mode == 0o600)
        }
        let scratch = try ScratchDirectory()
        let path = scratch.file("stale")
        _ = try UnixSocket.listen(path)
        #expect(throws: Errno.connectionRefused) { _ = try UnixSocket.connect(path) }
        let listener = try VarlinkSocket.bind(path, mode: 0o666)
        #expect(try Files.status(of: path).mode == 0o666)
        _ = try UnixSocket.connect(path)
        _ = listener.number
        let plain = scratch.file("plain")
        try Files.replaceContents(of: plain, with: [1])
        #expect(refusal(plain) == .notASocket)
        #expect(refusal(scratch.file("no/directory")) == .system)
        #expect(refusal("/tmp/" + String(repeating: "x", count: 120)) == .system)
    }

    private func refusal(_ path: String) -> SocketPathError.Code? {
        do throws(SocketPathError) {
            _ = try VarlinkSocket.bind(path, mode: 0o600)
            return nil
        } catch { return error.code }
    }
}
