import Logging
import ShrinkLinux

// Status in two halves: what is in memory answers always, what the backup says may have to be waited for.
extension Engine {
    /// What this engine has, with what is known of the backup. Waits for nothing but locks.
    public func status(backup: BackupStatus, orphans: Int) -> EngineStatus {
        let pools = self.pools()
        let (objects, stray, damaged) = state.withLock { ($0.objects.count, $0.strayPages, $0.damagedPages) }
        return EngineStatus(
            poolCount: pools.count, objectCount: objects, pages: pools.reduce(PageCounts()) { $0 + $1.pages.inBasePages(of: $1.pageBytes) },
            backup: backup,
            orphans: orphans, strayPages: stray, damagedPages: damaged, features: backup.features)
    }

    /// How the engine's own backup stands; asks it.
    public func backupStatus() -> BackupStatus { backup.status() }

    /// Where the engine's own backup is.
    public var backupPath: String { backup.location }

    /// Objects in the backups that no pool knows; asks them.
    public func countOrphans() -> Int {
        let backups = [backup] + state.withLock { $0.pools.values.map(\.backup) }
        var orphans = 0
        for (index, backup) in backups.enumerated() where !backups[..<index].contains(where: { $0 === backup }) {
            do throws(EngineError) {
                let ids = try backup.objects()
                orphans += state.withLock { state in ids.count { state.objects.slot(of: $0) == nil } }
            } catch {
                logger.warning("the backup can't be listed", metadata: ["error": "\(error)"])
            }
        }
        return orphans
    }
}
