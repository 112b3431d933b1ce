import Logging
import ShrinkControl
import ShrinkEngine
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import TestSupport
import Testing
import Varlink

/// The daemon's control side over a real engine on a scratch directory, and clients of its socket.
struct ControlFixture: Sendable {
    let engine: Engine
    let service: ControlService
    let server: VarlinkServer
    let path: String

    func client() throws -> VarlinkClient { try VarlinkClient(path: path) }

    /// Waits, looking again every few milliseconds, until the condition holds; false after ten seconds.
    func eventually(_ condition: () -> Bool) -> Bool {
        let deadline = MonotonicTime.now().advanced(milliseconds: 10_000)
        while MonotonicTime.now() < deadline {
            if condition() { return true }
            pause()
        }
        return false
    }

    private func pause() { _ = Monitor(()).wait(deadline: .now().advanced(milliseconds: 2)) { _ in Void?.none } }
}

/// A served engine for a test that is itself async.
struct HeldControl: Sendable {
    let fixture: ControlFixture
    private let running: Task<Void, any Error>
    private let holders: [any AnyObject & Sendable]
    var path: String { fixture.path }

    /// The backup is a tmpfs of `storeBytes`, or a directory of the disk without root.
    static func make(storeBytes: Int = 64 << 20, faults: FaultHook? = nil) async throws -> HeldControl {
        let scratch = try ScratchDirectory()
        // Other users come in as well.
        try Files.setMode(of: scratch.path, 0o755)
        var holders: [any AnyObject & Sendable] = [scratch]
        let backupPath: String
        if Machine.isRoot {
            let tmpfs = try ScratchMemoryFileSystem(sizeBytes: storeBytes)
            holders.append(tmpfs)
            backupPath = tmpfs.path
        } else {
            backupPath = scratch.file("backup")
            try Files.makeDirectory(backupPath)
        }
        var configuration = Engine.Configuration()
        configuration.faults = faults
        let engine = try Engine(
            backup: try BackupDirectory(path: backupPath), configuration: configuration,
            logger: Logger(label: "test", factory: { _ in SwiftLogNoOpLogHandler() }))
        let quiet = Logger(label: "test", factory: { _ in SwiftLogNoOpLogHandler() })
        let service = try ControlService(engine: engine, version: "1.2.3", survival: try Survival(logger: quiet))
        let path = scratch.file("io.shrinkd")
        let server = try VarlinkServer(
            listener: try VarlinkSocket.bind(path, mode: 0o666),
            vendor: VarlinkVendor(vendor: "shrinkd", product: "shrinkd", version: "1.2.3", url: "https://example.org"),
            interfaces: [service])
        return HeldControl(
            fixture: ControlFixture(engine: engine, service: service, server: server, path: path), running: Task { try await server.run() },
            holders: holders)
    }

    func end() async throws {
        running.cancel()
        try await running.value
        fixture.service.finish()
        withExtendedLifetime(holders) {}
    }
}

/// Runs `body` on a thread of its own, which may block, beside a served engine.
func withControl<R: Sendable>(
    storeBytes: Int = 64 << 20, faults: FaultHook? = nil, _ body: @escaping @Sendable (ControlFixture) throws -> R
) async throws -> R {
    let held = try await HeldControl.make(storeBytes: storeBytes, faults: faults)
    // The thread may outlast its result by a moment; what it holds must not be what is unmounted at the end.
    let fixture = held.fixture
    let result = await onOwnThread { Result { try body(fixture) } }
    try await held.end()
    return try result.get()
}

func onOwnThread<R: Sendable>(_ body: @escaping @Sendable () -> R) async -> R {
    await withCheckedContinuation { continuation in
        do throws(Errno) { try DedicatedThread("test") { continuation.resume(returning: body()) }.detach() } catch {
            fatalError("\(error)")
        }
    }
}

extension VarlinkClient {
    func ask<P, R>(_ method: WireMethod<P, R>, _ parameters: P) throws(VarlinkFailure) -> R {
        try call(method.fullName, parameters, timeoutMilliseconds: 20_000).decode(R.self)
    }

    /// The name of the error that a call is answered with, without `io.shrinkd.`; or what it was instead.
    func refusal<P, R>(_ method: WireMethod<P, R>, _ parameters: P) -> String {
        do throws(VarlinkFailure) {
            _ = try call(method.fullName, parameters, timeoutMilliseconds: 20_000)
            return "no refusal"
        } catch {
            switch error {
            case .transport(let error): return "\(error)"
            case .answered(let error):
                if let name = WireErrorName(fullName: error.name) {
                    let message = error.decode(WireErrorParameters.self)?.message ?? ""
                    return message.isEmpty ? "\(name.rawValue) without a message" : name.rawValue
                }
                return error.name.split(separator: ".").last.map(String.init)! + " "
                    + (error.decode([String: String].self)?["parameter"] ?? "")
            }
        }
    }
}
