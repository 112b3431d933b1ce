import ShrinkLinux
import SystemPackage

/// Pages of a pool that go out together: those that take memory, with short gaps between them. A recover leaves holes where pages of zeros were, and a run
/// for each stretch between two of them would be a call to the file server for each.
struct SurveyedRun: Sendable {
    /// From a page that takes memory to one that does.
    var pages: Range<Int>
    /// Which of them do.
    var resident: RunMask
    /// What is known to take memory from about there on, so that it is not looked for again: SEEK_HOLE walks a stretch page by page.
    var known: Range<Int>

    /// Gaps up to this length are read over: a run costs more than so many pages of zeros.
    static let gapPages = 16

    /// What to look for: at most `most` pages, from `page` on and below `end`.
    struct Search: Sendable {
        var page: Int
        var end: Int
        var most: Int
        var known: Range<Int>
    }
}

extension SurveyedRun.Search {
    /// The run, if it follows from what is known: then nobody need look.
    var answer: SurveyedRun? {
        let last = min(page + most, end)
        guard known.contains(page), known.upperBound >= last else { return nil }
        return SurveyedRun(pages: page..<last, resident: RunMask(first: last - page), known: known)
    }

    /// Nil if nothing takes memory.
    func make(on number: CInt) throws(Errno) -> SurveyedRun? {
        var extent = known
        if extent.upperBound <= page {
            guard let found = try nextExtent(from: page, number) else { return nil }
            extent = found
        }
        let first = max(page, extent.lowerBound)
        let limit = min(end, first + most)
        var run = SurveyedRun(pages: first..<first, resident: RunMask(), known: extent)
        while true {
            let reached = min(extent.upperBound, limit)
            for page in max(first, extent.lowerBound)..<reached { run.resident.insert(page - first) }
            run.pages = first..<reached
            guard extent.upperBound < limit, let next = try nextExtent(from: extent.upperBound, number) else { break }
            extent = next
            if next.lowerBound >= limit || next.lowerBound - reached > SurveyedRun.gapPages { break }
        }
        run.known = extent
        return run
    }

    private func nextExtent(from page: Int, _ number: CInt) throws(Errno) -> Range<Int>? {
        let below = end * basePageSize
        guard page < end, let data = try Files.nextData(number, from: page * basePageSize), data < below else { return nil }
        return data / basePageSize..<(try Files.endOfData(number, from: data, limit: below) + basePageSize - 1) / basePageSize
    }
}
