import Logging
import ShrinkLinux
import SystemPackage

// What an engine that died while it probed a directory, or while it made or removed an object, left in the backup and no ledger names.

extension BackupDirectory {
    /// The name that a probe's object has on a mount, where people may look at it, and its directory elsewhere.
    static let probeName = "probe"
    /// Most orphans looked at, highest ids first: after a reboot there may be very many, and all of them are content.
    private static let leftoverLimit = 4096

    /// Removes what is no content of anybody: probes, and objects of no size. Returns how many.
    ///
    /// Nobody may be making objects meanwhile.
    public func removeLeftovers(isKnown: (ObjectID) -> Bool) throws(EngineError) -> Int {
        var removed = 0
        for id in try objects().filter({ !isKnown($0) }).suffix(Self.leftoverLimit) where try removeIfLeftover(id) { removed += 1 }
        return removed
    }

    private func removeIfLeftover(_ id: ObjectID) throws(EngineError) -> Bool {
        let name = "\(id.rawValue)"
        do throws(Errno) {
            let isProbe = try connected { (directories) throws(Errno) -> Bool in
                let objects = directories.objects.number
                do throws(Errno) {
                    let data = try Files.open(name + "/data", .readOnly, at: objects)
                    if try Files.status(data.number).sizeBytes == 0 { return true }
                    guard isMounted else { return false }
                    return try ExtendedAttributes.value("user.shrinkd.name", of: data.number) == Array(Self.probeName.utf8)
                } catch {
                    guard error == .noSuchFileOrDirectory else { throw error }
                    // Fails where there is anything in it.
                    try Files.removeDirectory(name, at: objects)
                    return true
                }
            }
            guard isProbe else { return false }
        } catch {
            return false
        }
        try remove(id)
        return true
    }
}

extension Engine {
    /// Removes what an engine that died while making, removing or probing left in its backup. Call it after the last `adoptPool`, before anything else.
    public func removeLeftovers() {
        guard let backup = backup as? BackupDirectory else { return }
        do throws(EngineError) {
            let removed = try backup.removeLeftovers { id in state.withLock { $0.objects.slot(of: id) != nil } }
            guard removed > 0 else { return }
            logger.notice("half made objects of an engine that died are removed", metadata: ["objects": "\(removed)"])
        } catch {
            logger.warning("the backup can't be looked through for half made objects", metadata: ["error": "\(error)"])
        }
    }
}
