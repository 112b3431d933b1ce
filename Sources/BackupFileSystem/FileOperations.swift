import CFuse3
import Glibc
import PageStore
import ShrinkLinux
import SystemPackage

// Open files. `data` is the engine's door: passthrough where the kernel does it, else direct I/O, so that no second copy stays in the page cache.
// `content` is the same bytes on an inode of its own, always read through the server. All other files are snapshots taken at open.
extension BackupTree {
    /// How `data` was opened: what the kernel is told, and the handle by which RELEASE tells it again.
    struct DataOpen {
        var object: StoredObjectID
        var handle: UInt64
        var reply: FuseDevice.OpenReply
    }

    /// Of `data` and `content`: how it was opened, and which of the object's files it is.
    private enum Handle {
        static let direct: UInt64 = 0
        static let passthrough: UInt64 = 1
        static let incarnationShift: UInt64 = 8
    }

    private func handle(_ id: StoredObjectID, _ kind: UInt64) -> UInt64 { incarnations.count(of: id) << Handle.incarnationShift | kind }

    /// The object behind an open file; EIO if the file is one that was unlinked and made again since. The kernel says so for reads and writes, but
    /// sends fallocate and lseek on.
    func object(_ id: StoredObjectID, openedAs handle: UInt64) throws(Errno) -> any StoredObject {
        guard handle >> Handle.incarnationShift == incarnations.count(of: id) else { throw .ioError }
        return try object(id)
    }

    func open(_ reply: consuming Reply, _ node: Node?, _ flags: CInt) {
        counters.count(.open)
        let wantsWrite = flags & O_ACCMODE != O_RDONLY || flags & O_TRUNC != 0
        let body: FuseDevice.OpenReply
        let node = node
        do throws(Errno) {
            guard let node else { throw .staleNFSFileHandle }
            if case .data(let id) = node {
                let object = try self.object(id)
                if flags & O_TRUNC != 0 { try object.setSize(0) }
                body = try openData(object).reply
            } else if case .window(let number) = node {
                guard flags & O_ACCMODE == O_RDWR else { throw .invalidArgument }
                body = try openWindow(number)
            } else {
                // Modes say so too, but root is above modes.
                guard !wantsWrite else { throw .permissionDenied }
                body = FuseDevice.OpenReply(handle: try openReadOnly(node), flags: [.directIO, .noFlush])
            }
        } catch {
            return reply.fail(errors.noting(error, .open, node))
        }
        if !reply.opened(body) { close(node, handle: body.handle) }
    }

    func openData(_ object: any StoredObject) throws(Errno) -> DataOpen {
        if let backing = try passthrough.open(.data(object.id), object.backingFile) {
            let handle = handle(object.id, Handle.passthrough)
            let reply = FuseDevice.OpenReply(handle: handle, flags: [.passthrough, .noFlush], backing: backing)
            return DataOpen(object: object.id, handle: handle, reply: reply)
        }
        let handle = handle(object.id, Handle.direct)
        let reply = FuseDevice.OpenReply(handle: handle, flags: [.directIO, .parallelDirectWrites, .noFlush])
        return DataOpen(object: object.id, handle: handle, reply: reply)
    }

    func closeData(_ id: StoredObjectID, handle: UInt64) {
        // A resent RELEASE may have been counted before. Counting it twice would end a registration in use; not at all keeps one until unmount.
        if handle & 1 == Handle.passthrough, !Worker.current.value.isResent { passthrough.close(.data(id)) }
    }

    private func openReadOnly(_ node: Node) throws(Errno) -> UInt64 {
        switch node {
        case .content(let id):
            _ = try object(id)
            return handle(id, Handle.direct)
        case .stats: return try snapshots.open(node.number, Array(statsText().utf8))
        case .info(let id): return try snapshots.open(node.number, try infoText(try object(id)))
        case .page(let id, let index):
            var page = [UInt8](repeating: 0, count: basePageSize)
            let object = try self.object(id)
            guard try page.withMutableBytes({ (bytes) throws(Errno) in try object.snapshot(of: index, into: bytes) }) != nil else {
                throw .noSuchFileOrDirectory
            }
            return try snapshots.open(node.number, page)
        case .root, .objects, .object, .pages: throw .isDirectory
        case .data, .window: preconditionFailure("opened otherwise")
        }
    }

    func release(_ reply: consuming Reply, _ node: Node?, handle: UInt64) {
        counters.count(.release)
        close(node, handle: handle)
        reply.done()
    }

    private func close(_ node: Node?, handle: UInt64) {
        switch node {
        case .data(let id): closeData(id, handle: handle)
        case .stats, .info, .page: snapshots.close(handle)
        case .window(let number): closeWindow(number, handle: handle)
        default: break
        }
    }

    // MARK: Bytes

    func read(_ reply: consuming Reply, _ node: Node?, room: Int, offset: Int, handle: UInt64) {
        counters.count(.read)
        let buffer = Worker.current.value.answerBuffer(room)
        let count: Int
        do throws(Errno) {
            switch node {
            case .data(let id), .content(let id): count = try object(id, openedAs: handle).read(into: buffer, at: offset)
            case .stats, .info, .page:
                guard let bytes = snapshots.bytes(handle) else { throw .staleNFSFileHandle }
                let rest = bytes[min(max(offset, 0), bytes.count)...].prefix(buffer.count)
                buffer.copyBytes(from: rest)
                count = rest.count
            case nil: throw .staleNFSFileHandle
            case .root, .objects, .object, .pages: throw .isDirectory
            // The kernel reads it itself.
            case .window: throw .ioError
            }
        } catch {
            return reply.fail(errors.noting(error, .read, node))
        }
        reply.bytes(UnsafeRawBufferPointer(rebasing: buffer[..<count]))
    }

    /// `flags` are the file's, with O_DSYNC where this write is to be durable (RWF_DSYNC arrives so).
    func write(_ reply: consuming Reply, _ node: Node?, _ bytes: UnsafeRawBufferPointer, offset: Int, handle: UInt64, flags: CInt) {
        counters.count(.write)
        let count: Int
        do throws(Errno) {
            guard let node, case .data(let id) = node else { throw .permissionDenied }
            count = try object(id, openedAs: handle).write(bytes, at: offset, flags & O_DSYNC != 0 ? .durable : .buffered)
        } catch {
            return reply.fail(errors.noting(error, .write, node))
        }
        reply.written(count)
    }

    func fsync(_ reply: consuming Reply, _ node: Node?, handle: UInt64) {
        counters.count(.fsync)
        do throws(Errno) {
            if let node, case .data(let id) = node { try object(id, openedAs: handle).sync() }
        } catch {
            return reply.fail(errors.noting(error, .fsync, node))
        }
        reply.done()
    }

    /// Only SEEK_DATA and SEEK_HOLE come here; the kernel does the others itself.
    func lseek(_ reply: consuming Reply, _ node: Node?, offset: Int, whence: CInt, handle: UInt64) {
        counters.count(.lseek)
        let found: Int
        do throws(Errno) {
            guard let direction = HoleSearch(whence) else { throw .invalidArgument }
            switch node {
            case .data(let id), .content(let id):
                let object = try self.object(id, openedAs: handle)
                guard offset >= 0, try offset < object.attributes.sizeBytes else { throw .noSuchAddressOrDevice }
                switch direction {
                case .data:
                    guard let data = try object.nextData(from: offset) else { throw .noSuchAddressOrDevice }
                    found = data
                case .hole: found = try object.nextHole(from: offset)
                }
            case .stats, .info, .page:
                guard let bytes = snapshots.bytes(handle) else { throw .staleNFSFileHandle }
                guard offset >= 0, offset < bytes.count else { throw .noSuchAddressOrDevice }
                found = direction == .data ? offset : bytes.count
            default: throw .invalidArgument
            }
        } catch {
            // Running out of data is an answer, not a failure.
            return reply.fail(error == .noSuchAddressOrDevice ? error : errors.noting(error, .lseek, node))
        }
        reply.position(found)
    }

    private enum HoleSearch {
        case data, hole
        init?(_ whence: CInt) {
            switch whence {
            case 3: self = .data  // SEEK_DATA
            case 4: self = .hole  // SEEK_HOLE
            default: return nil
            }
        }
    }

    /// Punch and zero-range. Reserving room (mode 0) is refused: no store here could keep the promise that a later write finds it.
    func fallocate(_ reply: consuming Reply, _ node: Node?, handle: UInt64, mode: CInt, offset: Int, length: Int) {
        counters.count(.fallocate)
        do throws(Errno) {
            guard let node, case .data(let id) = node else { throw .permissionDenied }
            guard offset >= 0, length > 0 else { throw .invalidArgument }
            guard let change = RangeChange(mode) else { throw .notSupported }
            let object = try self.object(id, openedAs: handle)
            let (end, overflow) = offset.addingReportingOverflow(length)
            if change == .zeroAndGrow {
                guard !overflow, end <= maxObjectSizeBytes else { throw .fileTooLarge }
                if try end > object.attributes.sizeBytes { try object.setSize(end) }
            }
            try object.punch(at: offset, length: overflow ? Int.max - offset : length)
        } catch {
            return reply.fail(errors.noting(error, .fallocate, node))
        }
        reply.done()
    }

    /// What fallocate(2) is asked to do; the bits are linux/falloc.h's.
    private enum RangeChange {
        case punch, zero, zeroAndGrow
        init?(_ mode: CInt) {
            let (keepSize, punchHole, zeroRange): (CInt, CInt, CInt) = (1, 2, 16)
            switch mode {
            case punchHole | keepSize: self = .punch
            case zeroRange | keepSize: self = .zero
            case zeroRange: self = .zeroAndGrow
            default: return nil
            }
        }
    }

    // MARK: Changing attributes

    func setattr(_ reply: consuming Reply, _ node: Node?, _ wanted: stat, _ changes: CInt) {
        counters.count(.setattr)
        let status: stat
        do throws(Errno) {
            guard let node else { throw .staleNFSFileHandle }
            let now = try self.status(of: node)
            // Owners and modes follow from the object's owner; what would change nothing is granted.
            if changes & FUSE_SET_ATTR_MODE != 0, (wanted.st_mode ^ now.st_mode) & 0o7777 != 0 { throw .notPermitted }
            if changes & FUSE_SET_ATTR_UID != 0, wanted.st_uid != now.st_uid { throw .notPermitted }
            if changes & FUSE_SET_ATTR_GID != 0, wanted.st_gid != now.st_gid { throw .notPermitted }
            let setsTime = changes & (FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_MTIME_NOW) != 0
            if changes & FUSE_SET_ATTR_SIZE != 0 || setsTime {
                guard case .data(let id) = node else { throw .notPermitted }
                let object = try self.object(id)
                if changes & FUSE_SET_ATTR_SIZE != 0 { try object.setSize(wanted.st_size) }
                if setsTime {
                    let given = FileTime(seconds: wanted.st_mtim.tv_sec, nanoseconds: wanted.st_mtim.tv_nsec)
                    try object.setTimes(modified: changes & FUSE_SET_ATTR_MTIME_NOW != 0 ? FileTime.now() : given)
                }
            }
            status = try self.status(of: node)
        } catch {
            return reply.fail(errors.noting(error, .setattr, node))
        }
        reply.attributes(status, validSeconds: 0)
    }
}
