import CFuse3
import Glibc
import PageStore
import ShrinkLinux
import SystemPackage

// Objects come and go: mkdir makes one with an empty `data`, unlink(data) drops its content, rmdir ends it.
// A request that was resent after a crash may have taken effect before: then its effect counts as its own.
extension BackupTree {
    func mkdir(_ reply: consuming Reply, in parent: Node?, _ name: String) {
        counters.count(.mkdir)
        let entry: fuse_entry_param
        do throws(Errno) {
            guard parent == .objects else { throw .notPermitted }
            guard let id = StoredObjectID(name: name) else { throw .invalidArgument }
            do { _ = try store.create(id) } catch {
                guard error == .fileExists, Worker.current.value.isResent, try store.object(id) != nil else { throw error }
            }
            entry = try self.entry(for: .object(id))
        } catch {
            return reply.fail(errors.noting(error, .mkdir, parent))
        }
        reply.entry(entry)
    }

    func rmdir(_ reply: consuming Reply, in parent: Node?, _ name: String) {
        counters.count(.rmdir)
        do throws(Errno) {
            guard let parent, let node = try node(named: name, in: parent) else { throw .noSuchFileOrDirectory }
            guard case .object(let id) = node else { throw node.isDirectory ? .notPermitted : .notDirectory }
            guard let object = try store.object(id) else {
                guard Worker.current.value.isResent else { throw .noSuchFileOrDirectory }
                return reply.done()
            }
            let size = try object.attributes.sizeBytes
            guard isUnlinked(id) || size == 0 else { throw .directoryNotEmpty }
            try store.remove(id)
            setUnlinked(id, false)
            incarnations.end(id)
        } catch {
            return reply.fail(errors.noting(error, .rmdir, parent))
        }
        reply.done()
    }

    func unlink(_ reply: consuming Reply, in parent: Node?, _ name: String) {
        counters.count(.unlink)
        do throws(Errno) {
            guard let parent, let node = try node(named: name, in: parent) else { throw .noSuchFileOrDirectory }
            guard case .data(let id) = node else {
                if let id = node.objectID, isUnlinked(id) { throw .noSuchFileOrDirectory }
                _ = try status(of: node)
                throw node.isDirectory ? .isDirectory : .notPermitted
            }
            let object = try self.object(id)
            if isUnlinked(id), !Worker.current.value.isResent { throw .noSuchFileOrDirectory }
            try object.setSize(0)
            setUnlinked(id, true)
        } catch {
            return reply.fail(errors.noting(error, .unlink, parent))
        }
        reply.done()
    }

    /// open(O_CREAT) of a name that is not there: only `data` can come back after it was unlinked.
    func create(_ reply: consuming Reply, in parent: Node?, _ name: String, _ file: fuse_file_info) {
        counters.count(.create)
        let body: FuseDevice.CreateReply
        let opened: DataOpen
        do throws(Errno) {
            guard let parent, case .object(let id) = parent, name == "data" else { throw .notPermitted }
            let object = try self.object(id)
            if isUnlinked(id) {
                guard incarnations.begin(id) else { throw .noSpace }
                setUnlinked(id, false)
            } else if file.flags & O_EXCL != 0, !Worker.current.value.isResent {
                throw .fileExists
            }
            if file.flags & O_TRUNC != 0 { try object.setSize(0) }
            let status = try self.status(of: .data(id))
            opened = try openData(object)
            body = FuseDevice.CreateReply(
                node: Node.data(id).number, generation: incarnations.generation(of: .data(id)), mode: status.st_mode, uid: status.st_uid,
                gid: status.st_gid,
                sizeBytes: status.st_size, open: opened.reply)
        } catch {
            return reply.fail(errors.noting(error, .create, parent))
        }
        if !reply.created(body) { closeData(opened.object, handle: opened.handle) }
    }
}
