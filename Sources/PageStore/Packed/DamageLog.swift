import ShrinkLinux
import Synchronization

/// Tells of damaged pages: every one is counted, and an object is named in the log at most once a minute, with how many there were
/// since. Of more objects than `limit` at once only the count is kept.
final class DamageLog: Sendable {
    private static let interval: UInt64 = 60_000_000_000
    private static let limit = 1024

    private struct Known {
        var last: MonotonicTime
        var since = 0
    }

    private let known = Mutex<[UInt32: Known]>([:])
    private let report: @Sendable (String) -> Void

    init(_ report: @escaping @Sendable (String) -> Void) { self.report = report }

    func note(object: UInt32, page: Int, tier: Int?, _ what: String, now: MonotonicTime = .now()) {
        let count: Int? = known.withLock { known in
            if var entry = known[object] {
                entry.since += 1
                let due = now.nanoseconds(since: entry.last) >= Self.interval
                let count = entry.since
                if due { entry = Known(last: now) }
                known[object] = entry
                return due ? count : nil
            }
            if known.count >= Self.limit { known = known.filter { now.nanoseconds(since: $0.value.last) < Self.interval } }
            if known.count < Self.limit { known[object] = Known(last: now) }
            return 1
        }
        guard let count else { return }
        let place = tier.map { "tier \($0)" } ?? "the index"
        report(
            "object \(object) page \(page): \(what) in \(place), read as an error"
                + (count > 1 ? " (\(count) such pages since the last line)" : "") + "; `backupfs check` lists what else is damaged")
    }
}
