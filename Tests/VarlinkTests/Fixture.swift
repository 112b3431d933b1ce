import Glibc
import ShrinkLinux
import Synchronization
import SystemPackage
import TestSupport
import Testing
import Varlink

/// What the handlers of `TestInterface` saw, for tests to wait on.
final class Observations: Sendable {
    struct Seen {
        var cancelled = 0
        var ended = 0
        var oneways: [Int] = []
        var seriesSent = 0
        var calls = 0
    }
    private let seen = Monitor(Seen())

    func note(_ body: (inout Seen) -> Void) {
        seen.withLock { body(&$0) }
        seen.notifyAll()
    }

    var now: Seen { seen.withLock { $0 } }

    /// Waits until `condition` holds; false after ten seconds.
    func wait(_ condition: (Seen) -> Bool) -> Bool {
        seen.wait(deadline: .now().advanced(milliseconds: 10_000)) { condition($0) ? () : nil } != nil
    }
}

/// An interface that does what tests need.
struct TestInterface: VarlinkInterface {
    let observations: Observations
    let name = "org.example.test"
    let acceptsDescriptors = true
    let text = """
        # For tests.
        interface org.example.test

        # Answers with what it was given.
        method Echo(text: string, number: ?int) -> (text: string, number: ?int)

        # Counts to `count`, each reply with `padding` letters.
        method Count(count: int, padding: ?int) -> (number: int, padding: string)

        # Waits until the client is gone.
        method Wait() -> ()

        # Notes the number; meant for oneway.
        method Note(number: int) -> ()

        # A memory file with the given text.
        method MakeFile(text: string) -> (contentFileDescriptor: int)

        # The size of a file.
        method SizeOf(contentFileDescriptor: int) -> (sizeBytes: int)

        # Fails always.
        method Fail() -> ()

        # What Fail fails with.
        error Failed (message: string)

        """

    struct Echo: Codable, VarlinkParameters {
        static let parameterNames = ["text", "number"]
        var text: String
        var number: Int?
    }
    struct Count: Codable, VarlinkParameters {
        static let parameterNames = ["count", "padding"]
        var count: Int
        var padding: Int?
    }
    struct Counted: Codable {
        var number: Int
        var padding: String
    }
    struct Note: Codable, VarlinkParameters {
        static let parameterNames = ["number"]
        var number: Int
    }
    struct File: Codable, VarlinkParameters {
        static let parameterNames = ["contentFileDescriptor"]
        var contentFileDescriptor: Int
    }
    struct Text: Codable, VarlinkParameters {
        static let parameterNames = ["text"]
        var text: String
    }
    struct None: Codable, VarlinkParameters {
        static let parameterNames: [String] = []
    }

    func answer(_ call: VarlinkCall) async throws(VarlinkError) -> VarlinkReply {
        observations.note { $0.calls += 1 }
        switch call.member {
        case "Echo": return VarlinkReply(try call.decode(Echo.self))
        case "Count": return try await count(call)
        case "Wait":
            _ = try call.decode(None.self)
            call.connection.onEnd { observations.note { $0.ended += 1 } }
            do { try await Task.sleep(for: .seconds(120)) } catch { observations.note { $0.cancelled += 1 } }
            return VarlinkReply()
        case "Note":
            let number = try call.decode(Note.self).number
            observations.note { $0.oneways.append(number) }
            return VarlinkReply()
        case "MakeFile":
            let bytes = Array(try call.decode(Text.self).text.utf8)
            guard let file = try? MemoryFile.make("test", size: bytes.count) else { throw VarlinkError("org.example.test.Failed") }
            _ = bytes.withUnsafeBytes { Files.write(file.number, $0, at: 0) }
            return VarlinkReply(File(contentFileDescriptor: 0), descriptors: [SharedDescriptor(file)])
        case "SizeOf":
            let index = try call.decode(File.self).contentFileDescriptor
            guard let file = call.descriptors.take(index) else { throw .invalidParameter("contentFileDescriptor") }
            return VarlinkReply(["sizeBytes": (try? Files.status(file.number).sizeBytes) ?? -1])
        case "Fail": throw VarlinkError("org.example.test.Failed", ["message": "as \"promised\""])
        default: throw .methodNotFound(call.method)
        }
    }

    private func count(_ call: VarlinkCall) async throws(VarlinkError) -> VarlinkReply {
        guard call.wantsMore else { throw .expectedMore }
        let parameters = try call.decode(Count.self)
        let padding = String(repeating: "x", count: max(0, parameters.padding ?? 0))
        for number in 1..<max(parameters.count, 1) {
            do { try await call.send(VarlinkReply(Counted(number: number, padding: padding))) } catch { break }
            observations.note { $0.seriesSent += 1 }
        }
        return VarlinkReply(Counted(number: parameters.count, padding: padding))
    }
}

/// A served socket for one test.
struct Served: Sendable {
    let path: String
    let server: VarlinkServer
    let observations: Observations

    /// Waits, looking again every few milliseconds, until the server's own count says so; false after ten seconds.
    func counters(_ condition: (VarlinkCounters) -> Bool) -> Bool { eventually { condition(server.counters) } }

    /// As `counters`, for any other condition.
    func eventually(_ condition: () throws -> Bool) rethrows -> Bool {
        let deadline = MonotonicTime.now().advanced(milliseconds: 10_000)
        while MonotonicTime.now() < deadline {
            if try condition() { return true }
            usleep(2000)
        }
        return false
    }
}

/// Runs `body` on a thread of its own (it may block) beside a server.
func withServer<R: Sendable>(
    _ limits: VarlinkLimits = VarlinkLimits(), _ body: @escaping @Sendable (Served) throws -> R
) async throws -> R {
    let scratch = try ScratchDirectory()
    let path = scratch.file("socket")
    let observations = Observations()
    let server = try VarlinkServer(
        listener: try VarlinkSocket.bind(path, mode: 0o600),
        vendor: VarlinkVendor(vendor: "example", product: "test", version: "1", url: "https://example.org"),
        interfaces: [TestInterface(observations: observations)], limits: limits)
    let running = Task { try await server.run() }
    let result = await onOwnThread { Result { try body(Served(path: path, server: server, observations: observations)) } }
    running.cancel()
    try await running.value
    #expect(server.counters.open == 0, "connections left open")
    withExtendedLifetime(scratch) {}
    return try result.get()
}

/// Blocking work off the cooperative pool.
func onOwnThread<R: Sendable>(_ body: @escaping @Sendable () -> R) async -> R {
    await withCheckedContinuation { continuation in
        do throws(Errno) { try DedicatedThread("test") { continuation.resume(returning: body()) }.detach() } catch {
            fatalError("\(error)")
        }
    }
}

/// A client without manners: sends any bytes, reads up to the next NUL.
final class RawClient {
    let socket: OwnedDescriptor

    init(_ path: String) throws { socket = try UnixSocket.connect(path) }

    func send(_ text: String, terminated: Bool = true, descriptors: [CInt] = []) throws {
        try send(Array(text.utf8) + (terminated ? [0] : []), descriptors: descriptors)
    }

    func send(_ bytes: [UInt8], descriptors: [CInt] = []) throws {
        var done = 0
        while done < bytes.count {
            done += try bytes.withUnsafeBytes {
                try UnixSocket.send(socket.number, UnsafeRawBufferPointer(rebasing: $0[done...]), descriptors: done == 0 ? descriptors : [])
                    ?? 0
            }
        }
    }

    /// The next message, or nil at the end of the stream.
    func receive(timeoutMilliseconds: UInt64 = 10_000) throws -> String? {
        var bytes: [UInt8] = []
        let deadline = MonotonicTime.now().advanced(milliseconds: timeoutMilliseconds)
        while true {
            guard try wait(for: .input, of: socket.number, until: deadline) else { throw Errno.timedOut }
            var byte: UInt8 = 0
            let n: Int
            do { n = try withUnsafeMutableBytes(of: &byte) { try UnixSocket.receive(socket.number, into: $0)?.count ?? 0 } } catch {
                if error as? Errno == .connectionReset { return nil }
                throw error
            }
            if n == 0 { return nil }
            if byte == 0 { return String(decoding: bytes, as: UTF8.self) }
            bytes.append(byte)
        }
    }

    func finishSending() { shutdown(socket.number, CInt(SHUT_WR)) }
}
