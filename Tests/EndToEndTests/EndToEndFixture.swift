import FoundationEssentials
import ShrinkClient
import ShrinkLinux
import ShrinkProtocol
import SystemPackage
import TestSupport

/// `shrinkctl --json` against a daemon of the test's own.
struct Control {
    let daemon: DaemonProcess

    struct Outcome {
        var status: Int32
        var output: String
        var errors: String

        /// The document without its white space.
        var compact: String { output.filter { !$0.isWhitespace } }

        /// A number in the document, `pages.backed_up` for example.
        func number(_ path: String) -> Int? { value(path).flatMap { if case .number(let n) = $0 { n } else { nil } } }

        private func value(_ path: String) -> Document? {
            guard let document = try? JSONDecoder().decode(Document.self, from: Data(output.utf8)) else { return nil }
            return path.split(separator: ".").reduce(document) { at, name in at?[String(name)] }
        }
    }

    func callAsFunction(_ arguments: String...) throws -> Outcome {
        let result = try runProgram(Machine.program("shrinkctl"), arguments + ["--json", "--socket", daemon.socket])
        guard case .exited(let status) = result.ending else { throw DaemonProcess.Failure(description: "shrinkctl: \(result.ending)") }
        return Outcome(status: status, output: result.output, errors: result.errors)
    }
}

/// Any JSON, as far as the tests look into it.
enum Document: Decodable {
    case object([String: Document])
    case number(Int)
    case other

    init(from decoder: any Decoder) throws {
        if let object = try? [String: Document](from: decoder) {
            self = .object(object)
        } else if let number = try? Int(from: decoder) {
            self = .number(number)
        } else {
            self = .other
        }
    }

    subscript(_ name: String) -> Document? {
        if case .object(let members) = self { members[name] } else { nil }
    }
}

/// A client with a pool of seeded objects, each pinned until the test unpins it.
final class PoolClient {
    let client: ShrinkdClient
    let memory: PoolMemory
    let pattern: PagePattern

    init(_ daemon: DaemonProcess, pool: String, sizeBytes: Int, seed: UInt64) throws {
        client = try ShrinkdClient(path: daemon.socket)
        memory = try client.createPool(pool, sizeBytes: sizeBytes)
        pattern = PagePattern(seed: seed)
    }

    func makeObject(pages: Int, zeroEvery: UInt64 = 5) throws -> WireObject {
        let object = try client.call(
            Methods.createObject,
            CreateObjectParameters(pool: PoolAddress(id: memory.pool.poolId), objectName: "o", sizeBytes: pages * basePageSize)
        ).bufferObject
        guard let bytes = memory.bytes(of: object) else { throw DaemonProcess.Failure(description: "object beyond the pool") }
        for page in 0..<pages {
            pattern.fill(
                UnsafeMutableRawBufferPointer(rebasing: bytes[page * basePageSize..<(page + 1) * basePageSize]),
                index: object.objectId << 20 | page, zeroEvery: zeroEvery)
        }
        return object
    }

    func unpin(_ object: WireObject) throws { _ = try client.call(Methods.unpin, ObjectAddress(objectId: object.objectId)) }
    func pin(_ object: WireObject) throws { _ = try client.call(Methods.pin, ObjectAddress(objectId: object.objectId)) }

    /// Pages that differ, read through the daemon without changing any state.
    func mismatches(_ object: WireObject, zeroEvery: UInt64 = 5) throws -> [Int] {
        let pages = object.roundedBytes / basePageSize
        var different: [Int] = []
        for first in stride(from: 0, to: pages, by: 64) {
            let run = first..<min(first + 64, pages)
            let bytes = try client.read(object.objectId, at: first * basePageSize, length: run.count * basePageSize)
            guard bytes.count == run.count * basePageSize else {
                different += run
                continue
            }
            different += bytes.withUnsafeBytes { bytes in
                run.filter { page in
                    let start = (page - first) * basePageSize
                    let found = UnsafeRawBufferPointer(rebasing: bytes[start..<start + basePageSize])
                    return !pattern.isPage(object.objectId << 20 | page, found, zeroEvery: zeroEvery)
                }
            }
        }
        return different
    }

    /// Pages that differ in the client's own mapping.
    func mappedMismatches(_ object: WireObject, zeroEvery: UInt64 = 5) -> [Int] {
        guard let bytes = memory.bytes(of: object) else { return [-1] }
        return (0..<object.roundedBytes / basePageSize).filter { page in
            let found = UnsafeRawBufferPointer(rebasing: bytes[page * basePageSize..<(page + 1) * basePageSize])
            return !pattern.isPage(object.objectId << 20 | page, found, zeroEvery: zeroEvery)
        }
    }
}
