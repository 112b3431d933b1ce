import ShrinkLinux
import SystemPackage

/// What one serving thread owns: the buffer it reads requests into and the one it answers reads from, allocated once.
// Sendable: made by one thread for another, and then used by that one alone.
final class Worker: @unchecked Sendable {
    /// The largest read and write of one request.
    static let maxTransferBytes = 1 << 20
    /// fuse_in_header and fuse_write_in, in front of what a WRITE carries.
    private static let writeHeaderBytes = 80

    /// The answer, then the request with a page before and behind what a WRITE carries: but for these two pages in one huge page.
    private let memory: TransferMemory
    /// The request in hand was read before by a server that died.
    var isResent = false

    /// The calling thread's worker.
    static let current = ThreadSlot<Worker>()

    init() throws(Errno) {
        memory = try TransferMemory(count: 2 * Self.maxTransferBytes + 2 * basePageSize)
    }

    /// Requests are read here. The bytes of a WRITE then begin at a page boundary, as compressors and direct I/O like them.
    var requestBuffer: UnsafeMutableRawBufferPointer {
        memory.bytes(Self.maxTransferBytes + basePageSize - Self.writeHeaderBytes..<memory.count)
    }

    /// Room for an answer of up to `count` bytes.
    func answerBuffer(_ count: Int) -> UnsafeMutableRawBufferPointer {
        memory.bytes(0..<min(count, Self.maxTransferBytes))
    }
}
