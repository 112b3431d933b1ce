import CShrinkLinux
import Glibc
public import SystemPackage

/// Memory that the kernel holds for a device: buffers registered with an io_uring. Their pages stay where they are, and taken, until they are
/// unregistered, whatever becomes of the mapping or the file: the same as what a driver does that pins user memory for DMA.
public struct FixedBuffers: ~Copyable, Sendable {
    private let ring: OwnedDescriptor

    /// Registers one range, at most 1 GiB a piece. The corresponding C functions are `io_uring_setup` and `io_uring_register(IORING_REGISTER_BUFFERS)`.
    /// - Throws: `functionNotImplemented` or `notPermitted` where the machine has no io_uring for us.
    public init(_ memory: UnsafeMutableRawBufferPointer) throws(Errno) {
        let ring = OwnedDescriptor(owning: try check(shl_io_uring_setup(1)))
        var buffers: [iovec] = []
        var offset = 0
        while offset < memory.count {
            let length = min(memory.count - offset, 1 << 30)
            buffers.append(iovec(iov_base: memory.baseAddress.map { $0 + offset }, iov_len: length))
            offset += length
        }
        try check(shl_io_uring_register_buffers(ring.number, buffers, UInt32(buffers.count)))
        self.ring = ring
    }

    /// Lets go of the pages; they are free when this returns. The corresponding C function is `io_uring_register(IORING_UNREGISTER_BUFFERS)`.
    public consuming func unregister() throws(Errno) { try check(shl_io_uring_unregister_buffers(ring.number)) }
}
