import ShrinkLinux
import SystemPackage

/// One call's appending: for which object, into which tier, and how far it came.
struct Appender {
    let object: PackedObject
    let tier: Int
    let isDurable: Bool
    let seconds: UInt32
    /// For a single page that must not have changed meanwhile: its entry as it was read.
    var expected: IndexEntry?
    let progress: UnsafeMutablePointer<Progress>

    struct Progress {
        /// No page before it failed.
        var firstFailed = Int.max
        /// The expected entry was not there any more: nothing was published.
        var wasOvertaken = false

        mutating func fail(at page: Int) { firstFailed = min(firstFailed, page) }
    }

    /// Publishes entries whose bytes are in place.
    @inline(__always)
    func publish(_ pending: UnsafeMutablePointer<WorkerContext.Pending>, _ count: Int) {
        if let expected {
            for i in 0..<count where !object.replace(pending[i].page, expected, with: pending[i].entry) {
                progress.pointee.wasOvertaken = true
                object.core.forget(pending[i].entry)
            }
        } else {
            object.publish(pending, count)
        }
    }
}

extension StoreCore {
    /// Counts an entry's page as dead.
    @inline(__always) func forget(_ entry: IndexEntry) {
        if entry.isBlock { table.drop(geometry.segment(of: entry.location), pages: 1, bytes: entry.share) }
    }
}
