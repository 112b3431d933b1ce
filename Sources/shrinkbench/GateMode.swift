import ArgumentParser
import Glibc
import Logging
import ShrinkClient
import ShrinkControl
import ShrinkEngine
import ShrinkLinux
import ShrinkProtocol
import Varlink

/// What pinning costs a program: an access to a resident object through the client library, beside the least that two threads can do to agree.
struct GateMode: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "gate", abstract: "Measure pin + unpin of a resident object beside two atomic operations.",
        discussion: """
            A daemon's engine and control socket, the client library, one object: beginAccess and endAccess in a loop, and in turn the same number of \
            uncontended atomic additions and subtractions on the same memory. The median of several rounds.
            """)

    @Option(help: "Accesses of one round.") var accesses = 5_000_000
    @Option(help: "Rounds, of which the median counts.") var rounds = 5
    @Flag(help: "Print one JSON document.") var json = false

    struct Report: Encodable {
        /// beginAccess + endAccess.
        var pinUnpinNs: Double
        /// Two atomic read-modify-writes.
        var twoAtomicsNs: Double
        var pinUnpinVsAtomics: Double
        /// The bare gate, without the library's object around it.
        var gateNs: Double
        /// Pin and Unpin through the socket, for comparison.
        var socketNs: Double
    }

    func run() throws {
        let served = try ServedEngine()
        defer { served.end() }
        let client = try ShrinkdClient(path: served.path)
        let object = try client.pool("gate", sizeBytes: 1 << 20).makeObject("gate", sizeBytes: 4096)
        try object.endAccess()
        let scratch = try MappedMemory(anonymous: basePageSize, populated: true)
        let word = scratch.base.assumingMemoryBound(to: UInt64.self)
        let gateWord = word + 8
        gateWord.pointee = GateWord(gateGeneration: 1, purgeGeneration: 0, isClosed: false).rawValue
        let gate = Gate(word: gateWord, generation: 1)

        var library: [Double] = []
        var bare: [Double] = []
        var atomics: [Double] = []
        for _ in 0..<max(1, rounds) {
            library.append(
                try nanoseconds(accesses) {
                    for _ in 0..<accesses {
                        _ = try object.beginAccess()
                        try object.endAccess()
                    }
                })
            bare.append(
                nanoseconds(accesses) {
                    for _ in 0..<accesses {
                        _ = gate.pin()
                        _ = gate.unpin()
                    }
                })
            atomics.append(
                nanoseconds(accesses) {
                    for _ in 0..<accesses {
                        AtomicMemory.add(word, 1)
                        AtomicMemory.subtract(word, 1)
                    }
                })
        }
        let address = ObjectAddress(objectId: object.objectID)
        let calls = 2000
        let socket = try nanoseconds(calls) {
            for _ in 0..<calls {
                _ = try client.call(Methods.pin, address)
                _ = try client.call(Methods.unpin, address)
            }
        }
        let report = Report(
            pinUnpinNs: rounded(median(library)), twoAtomicsNs: rounded(median(atomics)),
            pinUnpinVsAtomics: rounded(median(library) / median(atomics)), gateNs: rounded(median(bare)), socketNs: socket.rounded())
        if json { return try printJSON(report) }
        print("pin + unpin of a resident object   \(report.pinUnpinNs) ns (limit 50)")
        print("two atomic read-modify-writes      \(report.twoAtomicsNs) ns")
        print("ratio                              \(report.pinUnpinVsAtomics) (limit 3)")
        print("the gate's word alone              \(report.gateNs) ns")
        print("Pin + Unpin through the socket     \(report.socketNs) ns")
    }

    private func nanoseconds(_ operations: Int, _ body: () throws -> Void) rethrows -> Double {
        let started = MonotonicTime.now()
        try body()
        return Double(MonotonicTime.now().nanoseconds(since: started)) / Double(operations)
    }
}

/// An engine without a backup behind a control socket of its own.
private final class ServedEngine {
    let path: String
    private let directory: String
    private let service: ControlService
    private let running: Task<Void, any Error>

    init() throws {
        var template = Array("/tmp/shrinkbench.XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw ValidationError("cannot make a directory in /tmp") }
        directory = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        path = directory + "/" + ShrinkInterface.name
        var logger = Logger(label: "shrinkbench") { StreamLogHandler.standardError(label: $0) }
        logger.logLevel = .warning
        service = try ControlService(
            engine: try Engine(backup: NoBackup(), logger: logger), version: "bench", survival: try Survival(logger: logger))
        let server = try VarlinkServer(
            listener: try VarlinkSocket.bind(path, mode: 0o600),
            vendor: VarlinkVendor(vendor: "shrinkd", product: "shrinkbench", version: "bench", url: ""), interfaces: [service])
        running = Task.detached { try await server.run() }
    }

    func end() {
        running.cancel()
        unlink(path)
        rmdir(directory)
    }
}
