import ShrinkLinux
import Synchronization

/// The places between two persistent steps, where a test lets the process die as if killed (docs/packed-store.md).
///
/// Always compiled in: what is tested is what runs. Unarmed, a place costs one predictable branch. `SHRINKD_KILL_POINT=name` or
/// `name:COUNT` arms one, to strike at its COUNTth passing. A path instead names a file with that in it, which is removed when it is read: the server that
/// is started again, and has the same environment, lives.
public enum KillPoint: UInt8, CaseIterable, Sendable {
    case idMarked = 1
    case indexFileMade, headerWritten
    case segmentFileMade, segmentHeaderWritten
    case bytesWritten, firstEntryPublished, entriesPublished, sizeStored
    case entryRemoved, entriesRemoved, indexPunched
    case indexUnlinked
    case segmentRetired, segmentUnlinked
    case cleanerCopied, cleanerFlipped
    case reserveTaken, reserveRestored
    case budgetStored, tierCopied, tierSynced, tierRenamed, tierFlipped
    case idsMarkedBelow, indexCopied, indexCopyRenamed

    // Set once, when a store opens and before it has threads.
    nonisolated(unsafe) private static var armed: UInt8 = 0
    private static let remaining = Atomic<Int>(0)

    /// The name as the environment has it.
    public var name: String { "\(self)" }

    @inline(__always) func pass() {
        if Self.armed == rawValue { Self.strike() }
    }

    @inline(never) private static func strike() {
        if remaining.subtract(1, ordering: .relaxed).newValue == 0 { ThisProcess.endAbruptly() }
    }

    static func armFromEnvironment() {
        guard var text = ThisProcess.environment("SHRINKD_KILL_POINT") else { return }
        if text.hasPrefix("/") {
            guard let bytes = try? Files.contents(of: text, limit: 256) else { return }
            try? Files.remove(text)
            text = String(decoding: bytes, as: UTF8.self)
        }
        let parts = text.split(separator: ":")
        guard let point = allCases.first(where: { parts.first.map(String.init) == $0.name }) else { return }
        remaining.store(parts.count > 1 ? Int(parts[1]) ?? 1 : 1, ordering: .relaxed)
        armed = point.rawValue
    }
}
