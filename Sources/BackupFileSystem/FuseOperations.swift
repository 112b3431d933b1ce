import CFuse3
import Glibc
import ShrinkLinux
import SystemPackage

// The table that libfuse calls: each entry turns C arguments into ours and hands over a one-shot reply.
// These are plain functions called on serving threads; the tree is found through the thread's session.

private var tree: BackupTree { FuseSession.current.value.tree }

private func text(_ name: UnsafePointer<CChar>?) -> String { name.map { String(cString: $0) } ?? "" }

/// Every operation that is here is answered by us; what is missing is ENOSYS, which the kernel remembers for the life of the mount.
func fuseOperations() -> fuse_lowlevel_ops {
    var table = fuse_lowlevel_ops()
    table.`init` = { _, connection in
        guard let connection else { return }
        connection.pointee.max_write = UInt32(Worker.maxTransferBytes)
        connection.pointee.max_background = 64
        connection.pointee.congestion_threshold = 48
        // Our reads and writes are copies from and to memory; splicing through pipes costs more than it saves.
        let splice = FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE
        // The kernel must not hold written pages back: they would sit in memory while memory is short.
        connection.pointee.want &= ~UInt32(splice | FUSE_CAP_WRITEBACK_CACHE)
    }
    addNames(&table)
    addFiles(&table)
    addAttributes(&table)
    addRefusals(&table)
    return table
}

private func addNames(_ table: inout fuse_lowlevel_ops) {
    table.lookup = { request, parent, name in tree.lookup(Reply(request!), in: Node(number: parent), text(name)) }
    // Nodes are computed: there is nothing to forget.
    table.forget = { request, _, _ in Reply(request!).nothing() }
    table.forget_multi = { request, _, _ in Reply(request!).nothing() }
    table.mkdir = { request, parent, name, _ in tree.mkdir(Reply(request!), in: Node(number: parent), text(name)) }
    table.rmdir = { request, parent, name in tree.rmdir(Reply(request!), in: Node(number: parent), text(name)) }
    table.unlink = { request, parent, name in tree.unlink(Reply(request!), in: Node(number: parent), text(name)) }
    table.create = { request, parent, name, _, file in
        tree.create(Reply(request!), in: Node(number: parent), text(name), file!.pointee)
    }
    table.opendir = { request, _, file in Reply(request!).openedDirectory(file!.pointee) }
    table.releasedir = { request, _, _ in Reply(request!).done() }
    table.fsyncdir = { request, _, _, _ in Reply(request!).done() }
    table.readdir = { request, node, room, cookie, _ in
        tree.list(Reply(request!), Node(number: node), room: room, cookie: cookie, .names)
    }
    // libfuse asks the kernel for it as needed only: `ls -l` gets attributes with the names, `ls` does not.
    table.readdirplus = { request, node, room, cookie, _ in
        tree.list(Reply(request!), Node(number: node), room: room, cookie: cookie, .attributes)
    }
}

private func addFiles(_ table: inout fuse_lowlevel_ops) {
    table.open = { request, node, file in tree.open(Reply(request!), Node(number: node), file!.pointee.flags) }
    table.release = { request, node, file in tree.release(Reply(request!), Node(number: node), handle: file!.pointee.fh) }
    table.flush = { request, _, _ in Reply(request!).done() }
    table.read = { request, node, room, offset, file in
        tree.read(Reply(request!), Node(number: node), room: room, offset: offset, handle: file!.pointee.fh)
    }
    table.write = { request, node, bytes, count, offset, file in
        let buffer = UnsafeRawBufferPointer(start: bytes, count: count)
        tree.write(Reply(request!), Node(number: node), buffer, offset: offset, handle: file!.pointee.fh, flags: file!.pointee.flags)
    }
    table.fsync = { request, node, _, file in tree.fsync(Reply(request!), Node(number: node), handle: file!.pointee.fh) }
    table.lseek = { request, node, offset, whence, file in
        tree.lseek(Reply(request!), Node(number: node), offset: offset, whence: whence, handle: file!.pointee.fh)
    }
    table.fallocate = { request, node, mode, offset, length, file in
        tree.fallocate(Reply(request!), Node(number: node), handle: file!.pointee.fh, mode: mode, offset: offset, length: length)
    }
    table.copy_file_range = { request, node, offset, file, target, targetOffset, targetFile, count, _ in
        tree.copyRange(
            Reply(request!), Node(number: node), at: offset, openedAs: file!.pointee.fh, to: Node(number: target), at: targetOffset,
            openedAs: targetFile!.pointee.fh, count: count)
    }
    table.statfs = { request, _ in tree.statfs(Reply(request!)) }
}

private func addAttributes(_ table: inout fuse_lowlevel_ops) {
    table.getattr = { request, node, _ in tree.getattr(Reply(request!), Node(number: node)) }
    table.setattr = { request, node, status, changes, _ in
        tree.setattr(Reply(request!), Node(number: node), status!.pointee, changes)
    }
    table.getxattr = { request, node, name, room in tree.getxattr(Reply(request!), Node(number: node), text(name), room: room) }
    table.listxattr = { request, node, room in tree.listxattr(Reply(request!), Node(number: node), room: room) }
    table.setxattr = { request, node, name, value, count, flags in
        let bytes = UnsafeRawBufferPointer(start: value, count: count)
        tree.setxattr(Reply(request!), Node(number: node), text(name), bytes, flags: flags)
    }
    table.removexattr = { request, node, name in tree.removexattr(Reply(request!), Node(number: node), text(name)) }
}

/// What the tree never allows. EPERM, as a file system without such things answers (link(2), symlink(2), mknod(2), rename(2)).
private func addRefusals(_ table: inout fuse_lowlevel_ops) {
    table.mknod = { request, _, _, _, _ in Reply(request!).fail(.notPermitted) }
    table.symlink = { request, _, _, _ in Reply(request!).fail(.notPermitted) }
    table.link = { request, _, _, _ in Reply(request!).fail(.notPermitted) }
    table.rename = { request, _, _, _, _, _ in Reply(request!).fail(.notPermitted) }
    table.readlink = { request, _ in Reply(request!).fail(.invalidArgument) }
}
