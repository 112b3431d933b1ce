import ShrinkLinux
import TestSupport
import Testing
import Varlink

@Suite(.serialized) struct FuzzTests {
    /// Calls with a few bytes changed, cut out or doubled. Whatever becomes of each, the server answers or hangs up, and goes on.
    @Test func damagedMessagesEndTheirOwnConnectionAtMost() async throws {
        let seed = testSeed("damagedMessages")
        try await withServer { served in
            var generator = SeededGenerator(seed: seed)
            let originals = [
                #"{"method":"org.example.test.Echo","parameters":{"text":"a\u00e9\n","number":-9223372036854775808}}"#,
                #"{"method":"org.example.test.Count","parameters":{"count":3,"padding":10},"more":true}"#,
                #"{"method":"org.varlink.service.GetInterfaceDescription","parameters":{"interface":"org.example.test"}}"#,
                #"{"method":"org.example.test.Note","parameters":{"number":1.5e2},"oneway":true,"org.example":{"x":[1,[2,{"y":null}]]}}"#,
            ].map { Array($0.utf8) }
            let bystander = try RawClient(served.path)
            var answered = 0
            var client: RawClient?
            for _ in 0..<3000 {
                var bytes = originals[Int(generator.next() % UInt64(originals.count))]
                for _ in 0...generator.next() % 3 {
                    let at = Int(generator.next() % UInt64(bytes.count))
                    switch generator.next() % 4 {
                    case 0: bytes[at] = UInt8(truncatingIfNeeded: generator.next())
                    case 1: bytes.remove(at: at)
                    case 2: bytes.insert(bytes[at], at: at)
                    default: bytes[at] = bytes[Int(generator.next() % UInt64(bytes.count))]
                    }
                }
                // What follows tells whether the connection still stands; a oneway call has no answer of its own.
                bytes += [0] + Array(#"{"method":"org.varlink.service.GetInfo"}"#.utf8) + [0]
                let used = try client ?? RawClient(served.path)
                client = used
                do { try used.send(bytes) } catch {
                    client = nil
                    continue
                }
                while true {
                    guard let reply = try used.receive() else {
                        client = nil
                        break
                    }
                    answered += 1
                    if reply.contains(#""product":"test""#) { break }
                }
            }
            #expect(answered > 300, "hardly anything was answered: the damage is too great to test much")
            try bystander.send(#"{"method":"org.example.test.Echo","parameters":{"text":"on"}}"#)
            #expect(try bystander.receive() == #"{"parameters":{"text":"on"}}"#)
        }
    }
}
