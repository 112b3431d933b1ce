import Glibc
import PageStore
import ShrinkLinux
import SystemPackage

/// How long a store of a million pages takes to open, to list and to seek in, and what memory that takes.
///
///     packed-bench reopen DIRECTORY [PAGES-PER-OBJECT]
func runReopenBench(_ directory: String, pagesPerObject: Int) throws {
    let pages = 1_000_000
    let page = UnsafeMutableRawPointer.allocate(byteCount: 256 * basePageSize, alignment: 4096)
    defer { page.deallocate() }
    func residentKiB() -> String {
        let text = (try? Files.contents(of: "/proc/self/status")).map { String(decoding: $0, as: UTF8.self) } ?? ""
        let line = text.split(separator: "\n").first { $0.hasPrefix("RssAnon") } ?? ""
        return String(line)
    }
    func timed(_ what: String, _ body: () throws -> Int) rethrows {
        let start = MonotonicTime.now()
        let count = try body()
        let milliseconds = Double(MonotonicTime.now().nanoseconds(since: start)) / 1e6
        print("\(what): \((milliseconds * 10).rounded() / 10) ms, \(count), \(residentKiB())")
    }
    do {
        let store = try PackedStore(directories: [directory])
        try timed("write") {
            var written = 0
            var id: UInt32 = 0
            while written < pages {
                id += 1
                let object = try store.create(StoredObjectID(rawValue: id)!)
                for first in stride(from: 0, to: pagesPerObject, by: 256) {
                    let count = min(256, pagesPerObject - first)
                    for i in 0..<count * 512 {
                        page.storeBytes(of: UInt64(i % 97 &* (written + i / 512)), toByteOffset: i * 8, as: UInt64.self)
                    }
                    written +=
                        try object.write(
                            UnsafeRawBufferPointer(start: page, count: count * basePageSize), at: first * basePageSize, .buffered)
                        / basePageSize
                }
            }
            return written
        }
        // Left as a kill leaves it.
    }
    var reopened: PackedStore?
    try timed("open") {
        reopened = try PackedStore(directories: [directory])
        return Int(reopened?.space.pageCount ?? 0)
    }
    guard let store = reopened else { return }
    try timed("list") {
        var count = 0
        var last: StoredObjectID?
        while true {
            let ids = store.objects(after: last, limit: 1000)
            if ids.isEmpty { return count }
            last = ids.last
            for id in ids {
                guard let object = try store.object(id) else { continue }
                var first = StoredPageIndex(rawValue: 0)
                while let start = first {
                    let names = try object.pages(from: start, limit: 1000)
                    count += names.count
                    first = names.count < 1000 ? nil : names.last.flatMap { StoredPageIndex(rawValue: $0.rawValue + 1) }
                }
            }
        }
    }
    try timed("seek to the end of the data of the first object") {
        guard let object = try store.object(StoredObjectID(rawValue: 1)!) else { return 0 }
        return try object.nextHole(from: 0) / basePageSize
    }
    store.close()
}
