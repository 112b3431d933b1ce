import CFuse3
import Glibc
import PageStore
import ShrinkLinux
import SystemPackage

// Directories. A cookie is a position in key order (key + 3; `.` and `..` have 1 and 2), never an index into a list: names that come and go
// between two calls are neither skipped nor repeated, and nothing is kept between them.
//
// Who looks at each page it finds gets the attributes with the names (READDIRPLUS): otherwise `ls -l` is ten requests a page. Pages come and go without
// the kernel's knowledge, so what a listing says is believed for a tenth of a second; a lookup by name asks every time, and so does an open.
extension BackupTree {
    func list(_ reply: consuming Reply, _ node: Node?, room: Int, cookie: Int, _ form: Listing.Form) {
        counters.count(form == .names ? .readdir : .readdirplus)
        var listing = Listing(buffer: Worker.current.value.answerBuffer(room), form)
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
            if listing.form == .attributes { return try fill(&listing, object, from: next) }
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

    private func fill(_ listing: inout Listing, _ object: any StoredObject, from first: StoredPageIndex?) throws(Errno) {
        let owner = owner(of: object)
        var entry = fuse_entry_param()
        entry.generation = incarnations.generation(of: .pages(object.id))
        entry.attr_timeout = Self.listedValidSeconds
        entry.entry_timeout = Self.listedValidSeconds
        var next = first
        while let first = next {
            let batch = min(Self.batch, listing.room / Listing.smallestWithAttributes + 1)
            // One that goes away in between makes a batch shorter; only an empty one is the end.
            let pages = try object.listing(from: first, limit: batch)
            for page in pages {
                let node = Node.page(object.id, page.index)
                entry.ino = node.number
                entry.attr = status(of: node, owner: owner, page)
                guard listing.add(String(page.index.rawValue), entry, cookie: Int(page.index.rawValue) + 3) else { return }
            }
            guard let end = pages.last?.index else { return }
            next = StoredPageIndex(rawValue: end.rawValue + 1)
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

/// The answer to READDIR or READDIRPLUS while it fills.
struct Listing {
    enum Form {
        case names
        case attributes
    }

    /// fuse_direntplus of a name of one letter, padded.
    static let smallestWithAttributes = 160

    let buffer: UnsafeMutableRawBufferPointer
    let form: Form
    private(set) var used = 0

    init(buffer: UnsafeMutableRawBufferPointer, _ form: Form) {
        self.buffer = buffer
        self.form = form
    }

    var room: Int { buffer.count - used }

    var filled: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: buffer[..<used]) }

    /// False if it does not fit any more: the listing is complete as far as it goes.
    mutating func add(_ name: String, _ node: Node, cookie: Int) -> Bool {
        guard room > 0 else { return false }
        if form == .attributes {
            // Without a node id: a name, and nothing that the kernel would keep.
            var entry = fuse_entry_param()
            entry.attr.st_ino = UInt(node.number)
            entry.attr.st_mode = node.fileType
            return add(name, entry, cookie: cookie)
        }
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

    /// A name with what LOOKUP would have answered.
    mutating func add(_ name: String, _ entry: fuse_entry_param, cookie: Int) -> Bool {
        guard room > 0 else { return false }
        let start = (buffer.baseAddress! + used).assumingMemoryBound(to: CChar.self)
        var entry = entry
        let needed = fuse_add_direntry_plus(nil, start, room, name, &entry, cookie)
        guard needed <= room else { return false }
        used += needed
        return true
    }
}
