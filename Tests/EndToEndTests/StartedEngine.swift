import ServiceSupport
import ShrinkLinux
import SystemPackage
import TestSupport

/// An engine by itself over a plain directory; the test is its starter and keeps what it parks.
final class StartedEngine {
    private struct State: ~Copyable {
        var kept: DescriptorStore
        var isReady = false
        var process: Int32 = 0
        var isOver = false
    }

    let socket: String
    let backup: String
    private let runtimeDirectory: String
    private let notify: NotifySocket
    private let state: Monitor<State>
    private let log: OwnedDescriptor
    private let scratch: ScratchDirectory
    private var pump: DedicatedThread?
    private(set) var process: ChildProcess?

    init(limit: Int) throws {
        scratch = try ScratchDirectory()
        runtimeDirectory = scratch.file("run")
        backup = scratch.file("backup")
        socket = runtimeDirectory + "/io.shrinkd"
        for directory in [runtimeDirectory, backup] { try Files.makeDirectory(directory) }
        notify = try NotifySocket(binding: scratch.file("notify"))
        log = try MemoryFile.make("engine-log", size: 0)
        let state = Monitor(State(kept: DescriptorStore(limit: limit)))
        self.state = state
        let notify = notify
        pump = try DedicatedThread("starter") {
            while !state.withLock({ $0.isOver }) {
                guard (try? waitReadable(notify.number, timeoutMilliseconds: 20)) == true else { continue }
                while let received = try? notify.receive(from: state.withLock({ $0.process })) {
                    guard case .message(let message, let descriptors) = received else { continue }
                    state.withLock { state in
                        if message.statements.contains(.ready) { state.isReady = true }
                        switch message.storage {
                        case .keep(let name, _):
                            for descriptor in descriptors {
                                if let own = try? descriptor.duplicate() { state.kept.keep(own, name: name) }
                            }
                        case .remove(let name): state.kept.remove(name: name)
                        case .nothing: break
                        }
                    }
                }
            }
        }
    }

    deinit {
        process?.signal(Signal.kill)
        _ = try? process?.wait()
        state.withLock { $0.isOver = true }
        pump?.join()
    }

    /// What is kept, in alphabetical order.
    var names: [String] { state.withLock { $0.kept.names.sorted() } }

    /// Puts a descriptor into the store, as if an engine had left it.
    func keep(_ descriptor: consuming OwnedDescriptor, _ name: String) {
        let shared = SharedDescriptor(descriptor)
        state.withLock { state in
            if let own = try? shared.duplicate() { state.kept.keep(own, name: name) }
        }
    }

    /// What is kept under a name.
    func kept(_ name: String) -> SharedDescriptor? { state.withLock { $0.kept.descriptor(name) } }

    /// Takes something out of the store, as if it had never been kept.
    func drop(_ name: String) { state.withLock { _ = $0.kept.remove(name: name) } }

    /// Starts an engine with what is kept. True if it became ready; false if it ended before.
    func start(_ arguments: [String] = [], environment: [String] = []) throws -> Bool {
        let appending = try Files.open("/proc/self/fd/\(log.number)", [.writeOnly, .append])
        let child = try state.withLock { state throws(Errno) in
            state.isReady = false
            let inheritance = ChildInheritance(notifySocket: notify.path, store: state.kept)
            let child = try ChildProcess(
                Machine.program("shrinkd"), ["engine", "--runtime-dir", runtimeDirectory, "--backup", backup] + arguments,
                environment: inheritance.environment + environment, descriptors: inheritance.descriptors, standardError: appending.number)
            state.process = child.processID
            return child
        }
        process = child
        let limit = MonotonicTime.now().advanced(milliseconds: 60_000)
        while MonotonicTime.now() < limit {
            if state.withLock({ $0.isReady }) { return true }
            if try waitReadable(child.endDescriptor, timeoutMilliseconds: 10) { return false }
        }
        throw DaemonProcess.Failure(description: "the engine was neither ready nor over within 60 s: \(said)")
    }

    /// Reaps the engine; SIGKILL first unless it ends by itself.
    @discardableResult
    func end(_ signal: CInt? = Signal.kill) throws -> ChildProcess.Ending? {
        if let signal { process?.signal(signal) }
        defer { process = nil }
        return try process?.wait(timeoutMilliseconds: 60_000)
    }

    var said: String {
        guard let size = try? Files.status(log.number).sizeBytes else { return "" }
        var bytes = [UInt8](repeating: 0, count: size)
        let count = (try? bytes.withMutableBytes { (buffer) throws(Errno) in try Files.read(log.number, into: buffer, at: 0) }) ?? 0
        return String(decoding: bytes[0..<count], as: UTF8.self)
    }
}

/// A memory file as an engine of some version left it, from Tests/Fixtures.
func keptFile(_ name: String) throws -> OwnedDescriptor {
    let root = #filePath.split(separator: "/").dropLast(3).reduce("") { $0 + "/" + $1 }
    let text = String(decoding: try Files.contents(of: root + "/Tests/Fixtures/" + name), as: UTF8.self)
    var size = 0
    var parts: [(offset: Int, bytes: [UInt8])] = []
    for line in text.split(separator: "\n") where !line.hasPrefix("#") {
        let fields = line.split(separator: " ")
        guard fields.count == 2 else { continue }
        if fields[0] == "size" {
            size = Int(fields[1]) ?? 0
            continue
        }
        let digits = Array(fields[1])
        let bytes = stride(from: 0, to: digits.count, by: 2).compactMap { UInt8(String(digits[$0...$0 + 1]), radix: 16) }
        parts.append((Int(fields[0], radix: 16) ?? 0, bytes))
    }
    let file = try MemoryFile.makeSealed(name, size: size)
    let memory = try MappedMemory(sharing: file.number, count: size)
    for part in parts { UnsafeMutableRawBufferPointer(rebasing: memory.bytes[part.offset...]).copyBytes(from: part.bytes) }
    return file
}
