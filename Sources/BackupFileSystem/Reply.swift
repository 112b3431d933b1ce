import CFuse3
import Glibc
import ShrinkLinux
import SystemPackage

/// A request that must be answered exactly once: every way to answer consumes it.
///
/// One that is dropped unanswered would leave its caller waiting for ever; it is answered with EIO instead.
struct Reply: ~Copyable {
    private let request: fuse_req_t

    init(_ request: fuse_req_t) { self.request = request }

    deinit { _ = fuse_reply_err(request, Errno.ioError.rawValue) }

    /// The caller's user.
    var userID: UInt32 { fuse_req_ctx(request).pointee.uid }

    consuming func fail(_ error: Errno) {
        _ = fuse_reply_err(request, error.rawValue)
        discard self
    }

    consuming func done() {
        _ = fuse_reply_err(request, 0)
        discard self
    }

    /// FORGET has no answer.
    consuming func nothing() {
        fuse_reply_none(request)
        discard self
    }

    consuming func entry(_ entry: fuse_entry_param) {
        var entry = entry
        _ = fuse_reply_entry(request, &entry)
        discard self
    }

    consuming func attributes(_ status: stat, validSeconds: Double) {
        var status = status
        _ = fuse_reply_attr(request, &status, validSeconds)
        discard self
    }

    /// False if the caller had gone: then no RELEASE will come and the open is to be undone.
    consuming func opened(_ reply: FuseDevice.OpenReply) -> Bool {
        var reply = reply
        let code = withUnsafeMutableBytes(of: &reply) { bytes in
            var part = iovec(iov_base: bytes.baseAddress, iov_len: bytes.count)
            return fuse_reply_iov(request, &part, 1)
        }
        discard self
        return code != -Errno.noSuchFileOrDirectory.rawValue
    }

    /// The answer to CREATE is an entry and an open in one. False as for `opened`.
    consuming func created(_ reply: FuseDevice.CreateReply) -> Bool {
        var reply = reply
        let code = withUnsafeMutableBytes(of: &reply) { bytes in
            var part = iovec(iov_base: bytes.baseAddress, iov_len: bytes.count)
            return fuse_reply_iov(request, &part, 1)
        }
        discard self
        return code != -Errno.noSuchFileOrDirectory.rawValue
    }

    consuming func openedDirectory(_ file: fuse_file_info) {
        var file = file
        _ = fuse_reply_open(request, &file)
        discard self
    }

    consuming func bytes(_ bytes: UnsafeRawBufferPointer) {
        _ = fuse_reply_buf(request, bytes.baseAddress?.assumingMemoryBound(to: CChar.self), bytes.count)
        discard self
    }

    consuming func written(_ count: Int) {
        _ = fuse_reply_write(request, count)
        discard self
    }

    consuming func position(_ offset: Int) {
        _ = fuse_reply_lseek(request, offset)
        discard self
    }

    consuming func fileSystem(_ status: statvfs) {
        var status = status
        _ = fuse_reply_statfs(request, &status)
        discard self
    }

    /// An attribute's value or the list of names, by the protocol of getxattr(2): size 0 asks for the length, too small a size is ERANGE.
    consuming func attributeBytes(_ value: [UInt8], room: Int) {
        if room == 0 {
            _ = fuse_reply_xattr(request, value.count)
        } else if value.count > room {
            _ = fuse_reply_err(request, Errno.outOfRange.rawValue)
        } else {
            value.withUnsafeBytes { _ = fuse_reply_buf(request, $0.baseAddress?.assumingMemoryBound(to: CChar.self), $0.count) }
        }
        discard self
    }
}
