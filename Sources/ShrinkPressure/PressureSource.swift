import ShrinkLinux
import SystemPackage

/// One place that says when memory is under pressure: a PSI file, a FIFO, or a stream socket. Made and read on one thread.
///
/// The three kinds and how each is opened, written to and polled are the contract of `MEMORY_PRESSURE_WATCH`: of a regular file POLLPRI is
/// awaited and it is never read; a FIFO and a socket are polled for input, which is read and thrown away.
final class PressureSource {
    enum Kind: Sendable { case file, fifo, socket }

    let kind: Kind
    let path: String
    private let descriptor: OwnedDescriptor

    var number: CInt { descriptor.number }
    var interest: Epoll.Interest { kind == .file ? .priority : .input }

    init(path: String, write: [UInt8]) throws(PressureSourceError) {
        self.path = path
        do throws(Errno) {
            // A name in /proc or a cgroup may be a link for good reasons.
            let status = try Files.status(of: Files.realPath(path))
            switch status.kind {
            case .regular: kind = .file
            case .fifo: kind = .fifo
            case .socket: kind = .socket
            default: throw Errno.invalidArgument
            }
            switch kind {
            case .socket:
                descriptor = try UnixSocket.connect(path)
                try UnixSocket.setNonBlocking(descriptor.number)
            case .file, .fifo:
                descriptor = try Files.open(path, write.isEmpty ? [.readOnly, .nonBlocking] : [.readWrite, .nonBlocking])
            }
            if !write.isEmpty {
                let number = descriptor.number
                try write.withBytes { (bytes) throws(Errno) in
                    if let error = Files.writeStream(number, bytes).error { throw error }
                }
            }
        } catch {
            throw PressureSourceError("\(path) can't be watched for memory pressure: \(Self.explain(error))")
        }
    }

    private static func explain(_ error: Errno) -> String {
        switch error {
        case .invalidArgument: "it is no PSI file, FIFO or socket, or it does not take the threshold"
        case .notSupported: "the kernel keeps no pressure figures; boot with psi=1"
        default: "\(error)"
        }
    }

    /// Takes what is there off a FIFO or socket. False when the other end is gone.
    func drain() -> Bool {
        if kind == .file { return true }
        var bytes = [UInt8](repeating: 0, count: 512)
        for _ in 0..<64 {
            do throws(Errno) {
                let number = descriptor.number
                let count = try bytes.withMutableBytes { (buffer) throws(Errno) in try Streams.read(number, into: buffer) }
                if count == 0 { return false }
            } catch {
                return error == .wouldBlock
            }
        }
        return true
    }
}
