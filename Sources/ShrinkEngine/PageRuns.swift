import ShrinkLinux
import SystemPackage

/// Neighbouring pages of an object in the same state.
public struct PageRun: Sendable, Equatable {
    public enum State: String, Sendable, CaseIterable {
        case empty, resident, zero, backedUp, purged
    }

    public var first: Int
    public var count: Int
    public var state: State
    /// Of backed-up pages, where the backup tells: 0 is the fastest.
    public var tier: Int?

    public init(first: Int, count: Int, state: State, tier: Int? = nil) {
        (self.first, self.count, self.state, self.tier) = (first, count, state, tier)
    }
}

extension Engine {
    /// Where an object's pages are, from page `first` on: at most `limit` runs, and the page where the next call goes on; nil at the object's end.
    ///
    /// Nothing changes by looking, also not what was used last. Words and the pool file's holes are looked at together, for words of other pages than the
    /// backed-up ones are hints. Each call is of one moment, a series of calls is not.
    public func pageRuns(_ id: ObjectID, from first: Int, limit: Int = 1024) throws(EngineError) -> (runs: [PageRun], next: Int?) {
        let slot = try reserve(id)
        defer { release(slot) }
        let object = reservedObject(slot)
        guard first >= 0, first <= object.table.count else {
            throw EngineError(.invalidSize, "page \(first) is beyond the end of \(id), which has \(object.table.count) pages")
        }
        let end = min(object.table.count, first + Self.pagesOfOneLook)
        var found = try object.runs(first..<end, limit: max(1, limit))
        // A unit of a huge page may lie in several tiers.
        if object.unitPages == 1, let tiers = object.backup as? any TierMap { try tell(&found.runs, tiers, id, limit: max(1, limit)) }
        let reached = found.runs.last.map { $0.first + $0.count } ?? end
        return (found.runs, reached < object.table.count ? reached : nil)
    }

    /// Looked at under one reservation, so that whoever waits for the object waits for milliseconds.
    private static var pagesOfOneLook: Int { 1 << 20 }

    /// Splits backed-up runs by tier; what the backup does not tell of keeps nil.
    private func tell(_ runs: inout [PageRun], _ map: any TierMap, _ id: ObjectID, limit: Int) throws(EngineError) {
        var told: [PageRun] = []
        var tiers: [TierRun] = []
        var position = 0
        /// Pages below this were asked for; nil: all were.
        var asked: Int? = 0
        for run in runs {
            guard told.count < limit else { break }
            guard run.state == .backedUp else {
                told.append(run)
                continue
            }
            var page = run.first
            let end = run.first + run.count
            while page < end, told.count < limit {
                while position < tiers.count, tiers[position].first + tiers[position].count <= page { position += 1 }
                if position == tiers.count, let unasked = asked {
                    let answer = try map.tiers(of: id, from: max(page, unasked))
                    // A backup that turns in circles is not asked twice.
                    asked = answer.next.flatMap { $0 > max(page, unasked) ? $0 : nil }
                    (tiers, position) = (answer.runs, 0)
                    continue
                }
                let known: PageRun
                if position < tiers.count, tiers[position].first < end {
                    let tier = tiers[position]
                    known =
                        tier.first > page
                        ? PageRun(first: page, count: tier.first - page, state: .backedUp)
                        : PageRun(first: page, count: min(end, tier.first + tier.count) - page, state: .backedUp, tier: tier.tier)
                } else {
                    known = PageRun(first: page, count: end - page, state: .backedUp)
                }
                // The answer may have stopped in the middle of a run.
                if let last = told.last, last.state == .backedUp, last.tier == known.tier, last.first + last.count == known.first {
                    told[told.count - 1].count += known.count
                } else {
                    told.append(known)
                }
                page = known.first + known.count
            }
        }
        runs = told
    }
}

extension ReservedObject {
    /// States of a range of pages, at most `limit` runs.
    func runs(_ range: Range<Int>, limit: Int) throws(EngineError) -> (runs: [PageRun], end: Int) {
        var runs: [PageRun] = []
        var page = range.lowerBound
        /// The pages in pool memory that are next, at or after `page`.
        var data = page..<page
        var isLast = false
        do throws(Errno) {
            while page < range.upperBound {
                if data.upperBound <= page, !isLast {
                    if let found = try poolFile.nextExtent(from: firstPage + page, below: firstPage + range.upperBound) {
                        data = found.lowerBound - firstPage..<found.upperBound - firstPage
                    } else {
                        isLast = true
                    }
                }
                let state = Self.state(table.state(page), isInPool: data.contains(page))
                if let last = runs.last, last.state == state {
                    runs[runs.count - 1].count += 1
                } else if runs.count == limit {
                    break
                } else {
                    runs.append(PageRun(first: page, count: 1, state: state))
                }
                page += 1
            }
        } catch {
            throw .poolFile("looking for the pages of \(id) failed", error)
        }
        return (runs, page)
    }

    /// A page that its client touched behind a hint is resident, whatever the hint says; one that is backed up or given up stays that.
    private static func state(_ word: PageState, isInPool: Bool) -> PageRun.State {
        switch word {
        case .backedUp: .backedUp
        case .purged: .purged
        case .zero: isInPool ? .resident : .zero
        case .empty, .resident: isInPool ? .resident : .empty
        }
    }
}
