import ShrinkLinux
import SystemPackage

// After an engine that died: each page gets exactly one home again. Only the words of backed-up pages are facts.
//
//   backedUp, pool has data    the copy in was not finished, or a client wrote where it must not: the backup wins, punch the pool
//   not backedUp, store has    the word was not yet set, or the drop is missing: the pool wins, punch the store
//   backedUp, store has not    the content is lost: reported, the word stays, so that it is never taken for zeros

/// What healing found; all in pages of the pool.
public struct HealingReport: Sendable, Equatable {
    public var punchedInPool = 0
    public var punchedInStore = 0
    public var lost = 0
    /// Objects whose destruction was finished.
    public var finishedDestructions = 0

    public init(punchedInPool: Int = 0, punchedInStore: Int = 0, lost: Int = 0, finishedDestructions: Int = 0) {
        self.punchedInPool = punchedInPool
        self.punchedInStore = punchedInStore
        self.lost = lost
        self.finishedDestructions = finishedDestructions
    }

    static func += (a: inout HealingReport, b: HealingReport) {
        a.punchedInPool += b.punchedInPool
        a.punchedInStore += b.punchedInStore
        a.lost += b.lost
        a.finishedDestructions += b.finishedDestructions
    }
}

extension ReservedObject {
    func heal() throws(EngineError) -> HealingReport {
        var report = HealingReport()
        do throws(Errno) { try healPool(&report) } catch {
            throw EngineError(.system, "healing \(id) in the pool failed", errno: error)
        }
        guard let file = try openIfPresent() else {
            // The whole object is gone from the backup.
            for page in 0..<pageCount where table.isBackedUp(page) { report.lost += 1 }
            return report
        }
        do throws(Errno) {
            if poolFile.huge != nil { try healUnitsInStore(file, &report) } else { try healStore(file, &report) }
        } catch { throw .backup("healing \(id)", error) }
        return report
    }

    private func openIfPresent() throws(EngineError) -> BackupFile? {
        do throws(EngineError) { return try backup.open(id) } catch {
            if error.errno == .noSuchFileOrDirectory { return nil }
            throw error
        }
    }

    private func healPool(_ report: inout HealingReport) throws(Errno) {
        var from = firstPage
        while let extent = try poolFile.nextExtent(from: from, below: firstPage + pageCount) {
            for page in extent.lowerBound - firstPage..<extent.upperBound - firstPage where table.isBackedUp(page) {
                try Files.punch(poolFile.number, at: poolOffset(page), length: unitBytes)
                report.punchedInPool += 1
            }
            from = extent.upperBound
        }
    }

    private func healStore(_ file: BackupFile, _ report: inout HealingReport) throws(Errno) {
        let end = pageCount * basePageSize
        var offset = 0
        while offset < end {
            let data = min(try file.nextData(from: offset) ?? end, end)
            for page in offset / basePageSize..<data / basePageSize where table.isBackedUp(page) { report.lost += 1 }
            guard data < end else { return }
            let hole = min(try file.nextHole(from: data) ?? end, end)
            for page in data / basePageSize..<hole / basePageSize where !table.isBackedUp(page) {
                try file.drop(at: page * basePageSize, length: basePageSize)
                report.punchedInStore += 1
            }
            offset = hole
        }
    }
}
