import PageStore
import ShrinkLinux
import SystemPackage

// `user.shrinkd.tiers.<page>` on `data` or the object's directory: in which tier the pages are, from that page on. A question with its argument
// in the name: one request tells of thousands of pages, where asking each page file's `tier` would take two for each. It is not listed.
//
//     0 512 0        first page, pages, tier: 0 is the fastest
//     600 8 1
//     next 4096      not looked at from here on; without this line that was all
extension BackupTree {
    private static let tiersPrefix = "tiers."
    /// Pages looked at by one request, so that it ends soon.
    private static let tierPages = 16384
    /// Less than what a caller's buffer for attributes usually has (XATTR_SIZE_MAX is 65536).
    private static let tierBytes = 32768

    /// Nil if the name asks for something else.
    func tierRuns(_ name: Substring, of node: Node, room: Int) throws(Errno) -> String? {
        guard name.hasPrefix(Self.tiersPrefix) else { return nil }
        let id: StoredObjectID
        switch node {
        case .object(let object), .data(let object): id = object
        default: return nil
        }
        guard let first = StoredPageIndex(name: name.dropFirst(Self.tiersPrefix.count)) else { throw .invalidArgument }
        // The length may differ by the time the value is fetched, so the most it can be is asked for.
        guard room > 0 else { return String(repeating: " ", count: Self.tierBytes) }
        guard room >= Self.tierBytes else { throw .outOfRange }
        let limit = Self.tierBytes - 128
        let object = try self.object(id)
        guard served.directories.count > 1 else { return try onlyTierRuns(object, from: first, limit: limit) }
        var text = ""
        var run: (first: UInt32, count: UInt32, tier: Int)?
        func line(_ run: (first: UInt32, count: UInt32, tier: Int)) -> String { "\(run.first) \(run.count) \(run.tier)\n" }
        let pages = try object.pages(from: first, limit: Self.tierPages)
        var next = pages.count == Self.tierPages ? pages.last.map { $0.rawValue + 1 } : nil
        for page in pages {
            // Gone meanwhile, damaged, or of a layout without tiers: not told, and no reason to be silent about the rest.
            guard let info = try? object.page(page), let tier = info.tier else { continue }
            if let open = run, open.first + open.count == page.rawValue, open.tier == tier {
                run = (open.first, open.count + 1, tier)
                continue
            }
            if let open = run { text += line(open) }
            run = nil
            if text.utf8.count > limit {
                next = page.rawValue
                break
            }
            run = (page.rawValue, 1, tier)
        }
        if let open = run { text += line(open) }
        if let next { text += "next \(next)\n" }
        return text
    }

    /// With one tier the holes say it all, run by run.
    private func onlyTierRuns(_ object: any StoredObject, from first: StoredPageIndex, limit: Int) throws(Errno) -> String {
        var text = ""
        var offset = Int(first.rawValue) * basePageSize
        while let data = try object.nextData(from: offset) {
            let page = data / basePageSize
            if text.utf8.count > limit { return text + "next \(page)\n" }
            offset = try object.nextHole(from: data)
            let end = (offset + basePageSize - 1) / basePageSize
            // Punched meanwhile.
            guard end > page else { break }
            text += "\(page) \(end - page) 0\n"
        }
        return text
    }
}
