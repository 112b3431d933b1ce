import PageStore

/// A place in the tree. Its number (inode and FUSE node id alike) is computed, never stored, so 10^8 pages cost no table, and a restarted server
/// knows every number its predecessor gave.
///
///     kind:4 | object:32 | page:28          root is 1, as FUSE demands
enum Node: Equatable {
    case root
    case stats
    case objects
    /// The directory of one object.
    case object(StoredObjectID)
    case data(StoredObjectID)
    case content(StoredObjectID)
    case info(StoredObjectID)
    /// The directory of an object's pages.
    case pages(StoredObjectID)
    case page(StoredObjectID, StoredPageIndex)
    /// A memory file of the daemon's (`TransferWindows`).
    case window(Int)

    private enum Kind: UInt64 {
        // Kinds below 8 keep the numbers positive for programs that read inodes as signed.
        case fixed = 0
        case object, data, content, info, pages, page
    }

    private static let firstWindow: UInt64 = 16

    var number: UInt64 {
        switch self {
        case .root: 1
        case .stats: 2
        case .objects: 3
        case .object(let id): Self.pack(.object, id)
        case .data(let id): Self.pack(.data, id)
        case .content(let id): Self.pack(.content, id)
        case .info(let id): Self.pack(.info, id)
        case .pages(let id): Self.pack(.pages, id)
        case .page(let id, let index): Self.pack(.page, id) | UInt64(index.rawValue)
        case .window(let number): Self.firstWindow + UInt64(number)
        }
    }

    /// Nil for a number that no node has.
    init?(number: UInt64) {
        guard let kind = Kind(rawValue: number >> 60) else { return nil }
        let low = UInt32(truncatingIfNeeded: number) & (StoredPageIndex.limit - 1)
        let id = StoredObjectID(rawValue: UInt32(truncatingIfNeeded: number >> 28))
        switch (kind, id, low) {
        case (.fixed, nil, 1): self = .root
        case (.fixed, nil, 2): self = .stats
        case (.fixed, nil, 3): self = .objects
        case (.fixed, nil, let low) where low >= UInt32(Self.firstWindow) && low < UInt32(Self.firstWindow) + UInt32(TransferWindows.limit):
            self = .window(Int(low) - Int(Self.firstWindow))
        case (.object, let id?, 0): self = .object(id)
        case (.data, let id?, 0): self = .data(id)
        case (.content, let id?, 0): self = .content(id)
        case (.info, let id?, 0): self = .info(id)
        case (.pages, let id?, 0): self = .pages(id)
        case (.page, let id?, let low):
            guard let index = StoredPageIndex(rawValue: low) else { return nil }
            self = .page(id, index)
        default: return nil
        }
    }

    private static func pack(_ kind: Kind, _ id: StoredObjectID) -> UInt64 { kind.rawValue << 60 | UInt64(id.rawValue) << 28 }

    /// The object that the place belongs to.
    var objectID: StoredObjectID? {
        switch self {
        case .root, .stats, .objects, .window: nil
        case .object(let id), .data(let id), .content(let id), .info(let id), .pages(let id), .page(let id, _): id
        }
    }

    var isDirectory: Bool {
        switch self {
        case .root, .objects, .object, .pages: true
        case .stats, .data, .content, .info, .page, .window: false
        }
    }

    /// The file-type bits of st_mode (inode(7)), by value: two C modules define the names.
    var fileType: UInt32 { isDirectory ? 0o040000 : 0o100000 }

    var parent: Node {
        switch self {
        case .root, .stats, .objects, .window: .root
        case .object: .objects
        case .data(let id), .content(let id), .info(let id), .pages(let id): .object(id)
        case .page(let id, _): .pages(id)
        }
    }
}
