import CFuse3
import Glibc
import PageStore
import ShrinkLinux
import SystemPackage

// Directories. A cookie is a position in key order (key + 3; `.` and `..` have 1 and 2), never an index into a list: names that come and go
// between two calls are neither skipped nor repeated, and nothing is kept between them.
//
// Names only, no READDIRPLUS: what it saves is the lookup after the name, and that only while the kernel may believe the listing for a while. Pages come
// and go without the kernel's knowledge, and a page that was dropped must not be seen a moment longer.
extension BackupTree {
    func list(_ reply: consuming Reply, _ node: Node?, room: Int, cookie: Int) {
        counters.count(.readdir)
        var listing = Listing(buffer: Worker.current.value.answerBuffer(room))
        do throws(Errno) {
            guard let node else { throw .staleNFSFileHandle }
            guard node.isDirectory else { throw .notDirectory }
            guard cookie >= 0 else { throw .invalidArgument }
            try fill(&listing, node, from: cookie)
        } catch {
            // What was found before the error is shown; the next call meets the error again.
            if listing.used == 0 { return reply.fail(errors.noting(error, .readdir, node)) }
        }
        reply.bytes(listing.filled)
    }

    private func fill(_ listing: inout Listing, _ node: Node, from cookie: Int) throws(Errno) {
        if cookie < 1 { guard listing.add(".", node, cookie: 1) else { return } }
        if cookie < 2 { guard listing.add("..", node.parent, cookie: 2) else { return } }
        switch node {
        case .root: fill(&listing, [("stats", .stats), ("objects", .objects)], from: cookie)
        case .object(let id):
            guard try store.object(id) != nil, !isUnlinked(id) else { return }
            fill(&listing, [("data", .data(id)), ("content", .content(id)), ("info", .info(id)), ("pages", .pages(id))], from: cookie)
        case .objects:
            var last = cookie > 3 ? StoredObjectID(rawValue: UInt32(clamping: cookie - 3)) : nil
            while true {
                let ids = store.objects(after: last, limit: Self.batch)
                for id in ids { guard listing.add(id.description, .object(id), cookie: Int(id.rawValue) + 3) else { return } }
                guard ids.count == Self.batch, let end = ids.last else { return }
                last = end
            }
        case .pages(let id):
            let object = try self.object(id)
            guard !isUnlinked(id) else { return }
            var next = StoredPageIndex(rawValue: UInt32(clamping: max(cookie - 2, 0)))
            while let first = next {
                let pages = try object.pages(from: first, limit: Self.batch)
                for page in pages {
                    guard listing.add(String(page.rawValue), .page(id, page), cookie: Int(page.rawValue) + 3) else { return }
                }
                guard pages.count == Self.batch, let end = pages.last else { return }
                next = StoredPageIndex(rawValue: end.rawValue + 1)
            }
        default: throw .notDirectory
        }
    }

    /// Names asked from the store at once.
    private static var batch: Int { 512 }

    /// A few fixed names; their key is their place, from 0.
    private func fill(_ listing: inout Listing, _ entries: [(String, Node)], from cookie: Int) {
        for (key, entry) in entries.enumerated() where key + 3 > cookie {
            guard listing.add(entry.0, entry.1, cookie: key + 3) else { return }
        }
    }
}

/// The answer to READDIR while it fills.
struct Listing {
    let buffer: UnsafeMutableRawBufferPointer
    private(set) var used = 0

    init(buffer: UnsafeMutableRawBufferPointer) { self.buffer = buffer }

    var filled: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: buffer[..<used]) }

    /// False if it does not fit any more: the listing is complete as far as it goes.
    mutating func add(_ name: String, _ node: Node, cookie: Int) -> Bool {
        let room = buffer.count - used
        guard room > 0 else { return false }
        let start = (buffer.baseAddress! + used).assumingMemoryBound(to: CChar.self)
        var status = stat()
        status.st_ino = UInt(node.number)
        status.st_mode = node.fileType
        // The request is not used for this; libfuse asks for it all the same.
        let needed = fuse_add_direntry(nil, start, room, name, &status, cookie)
        guard needed <= room else { return false }
        used += needed
        return true
    }
}
