import ShrinkClient
import ShrinkLinux
import ShrinkProtocol
import SystemPackage

/// A file whose bytes go into an object.
struct ContentSource {
    let path: String
    /// Of a plain file; nil for pipes and the like.
    let knownSize: Int?
    private let file: SharedDescriptor

    init(_ path: String) throws(CommandFailure) {
        self.path = path
        do throws(Errno) {
            file = SharedDescriptor(try Files.open(path, .readOnly))
            let status = try Files.status(file.number)
            guard status.kind != .directory else { throw Errno.isDirectory }
            knownSize = status.kind == .regular ? status.sizeBytes : nil
        } catch {
            throw .input(path, error)
        }
    }

    func checkFits(_ bytes: Int, _ what: String) throws(CommandFailure) {
        if let knownSize, knownSize > bytes {
            throw CommandFailure(
                "\(path) has \(knownSize) bytes, more than the \(bytes) of \(what); make a larger object", name: "too_large")
        }
    }

    /// Copies the file into an object that this client has pinned; returns the bytes copied. What is left of the object is set to zero;
    /// in a new object it is zero, and stays a hole.
    func copy(into object: WireObject, isNew: Bool, _ client: ShrinkdClient) throws(CommandFailure) -> Int {
        let memory = try perform { () throws(ShrinkdError) in try client.openPool(PoolAddress(id: object.poolId)) }
        guard let target = memory.bytes(of: object) else {
            throw CommandFailure("object \(object.objectId) does not lie in its pool", exitCode: 76, name: "protocol")
        }
        let progress = ProgressLine()
        defer { progress.clear() }
        var done = 0
        do throws(Errno) {
            while done < target.count {
                let chunk = UnsafeMutableRawBufferPointer(rebasing: target[done..<min(done + (8 << 20), target.count)])
                let n = try Streams.read(file.number, into: chunk)
                if n == 0 { break }
                done += n
                progress.show("\(Size.readable(done)) of \(Size.readable(target.count))")
            }
            if done == target.count {
                var byte: UInt8 = 0
                let more = try withUnsafeMutableBytes(of: &byte) { (buffer) throws(Errno) in try Streams.read(file.number, into: buffer) }
                if more > 0 { throw Errno.fileTooLarge }
            }
        } catch {
            throw error == .fileTooLarge
                ? CommandFailure("\(path) has more than the \(target.count) bytes of the object; make a larger object", name: "too_large")
                : .transfer("reading \(path)", error)
        }
        if !isNew { try clear(target, from: done, of: object, client) }
        return done
    }

    /// Zeroes what is not zero yet: pages that are holes stay holes, so that a shorter file does not make memory of a whole object.
    private func clear(_ target: UnsafeMutableRawBufferPointer, from start: Int, of object: WireObject, _ client: ShrinkdClient)
        throws(CommandFailure)
    {
        var offset = start
        while offset < target.count {
            let end = min(target.count, offset - offset % Self.lookBytes + Self.lookBytes)
            let (at, length) = (offset, end - offset)
            let seen = try perform { () throws(ShrinkdError) in try client.read(object.objectId, at: at, length: length) }
            guard !seen.isEmpty else { return }
            var page = offset
            while page < offset + seen.count {
                let pageEnd = min(offset + seen.count, page - page % basePageSize + basePageSize)
                if seen[page - offset..<pageEnd - offset].contains(where: { $0 != 0 }) {
                    UnsafeMutableRawBufferPointer(rebasing: target[page..<pageEnd]).initializeMemory(as: UInt8.self, repeating: 0)
                }
                page = pageEnd
            }
            offset += seen.count
        }
    }

    /// What the daemon shows at once.
    private static let lookBytes = 4 << 20
}
