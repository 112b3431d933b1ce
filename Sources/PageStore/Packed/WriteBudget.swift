import ShrinkLinux
import Synchronization
import SystemPackage

/// The bytes that may go to the tiers behind the first within a day (UTC), kept across restarts.
///
/// Bytes are written down before they are spent, so a process that dies has spent less than it says, never more. They are written
/// down by the megabyte, in the second tier's `budget` file.
final class WriteBudget: Sendable {
    static let fileName = "budget"
    private static let step: UInt64 = 1 << 20

    let bytesPerDay: UInt64?
    private let tier: StoreTier?

    private struct State {
        var day = 0
        var spent: UInt64 = 0
        /// What the file says: at least `spent`.
        var noted: UInt64 = 0
    }
    private let state = Mutex<State>(State())

    init(bytesPerDay: UInt64?, tier: StoreTier?) throws(Errno) {
        self.bytesPerDay = bytesPerDay
        self.tier = tier
        guard let tier, let text = try? Files.contents(of: Self.fileName, at: tier.directory.number, limit: 4096) else { return }
        let fields = String(decoding: text, as: UTF8.self).split(whereSeparator: { $0 == " " || $0 == "\n" })
        // A file that can't be understood counts as a day spent whole: the budget is never exceeded.
        let today = Self.today()
        guard fields.count == 3, fields[0] == "spent", let day = Int(fields[1]), let bytes = UInt64(fields[2]) else {
            state.withLock { $0 = State(day: today, spent: .max / 2, noted: .max / 2) }
            return
        }
        let spent = min(bytes, .max / 2)
        state.withLock { $0 = State(day: day, spent: spent, noted: spent) }
    }

    private static func today() -> Int { FileTime.now().seconds / 86400 }

    var spentToday: UInt64 { state.withLock { $0.day == Self.today() ? $0.spent : 0 } }

    /// EDQUOT if the day's rest is less.
    func spend(_ bytes: Int) throws(Errno) {
        guard let bytesPerDay, let tier else { return }
        let result: Result<Void, Errno> = state.withLock { state in
            let today = Self.today()
            // A clock set back doesn't begin a new day.
            if today > state.day { state = State(day: today) }
            guard state.spent + UInt64(bytes) <= bytesPerDay else { return .failure(.diskQuotaExceeded) }
            let spent = state.spent + UInt64(bytes)
            if spent > state.noted {
                let noted = min(bytesPerDay, (spent + Self.step - 1) / Self.step * Self.step)
                do throws(Errno) {
                    try Files.replaceContents(
                        of: Self.fileName, at: tier.directory.number, with: Array("spent \(state.day) \(noted)\n".utf8))
                } catch { return .failure(error) }
                KillPoint.budgetStored.pass()
                state.noted = noted
            }
            state.spent = spent
            return .success(())
        }
        try result.get()
    }
}
