import Synchronization

/// Counts for `facts()`, since the store was opened unless said otherwise.
final class StoreCounters: Sendable {
    /// Pages that are there, and bytes they take, over all objects.
    let pages = Atomic<Int>(0)
    let storedBytes = Atomic<Int>(0)
    let fills = Atomic<Int>(0)

    let pagesWritten = Atomic<Int>(0)
    let pagesRead = Atomic<Int>(0)
    let plainBlocks = Atomic<Int>(0)
    /// Blocks that a mapping didn't show as they should be, which were read from the file then.
    let mappingRereads = Atomic<Int>(0)
    let checksumErrors = Atomic<Int>(0)
    let damagedEntries = Atomic<Int>(0)
    let cleanedSegments = Atomic<Int>(0)
    let cleanedBytes = Atomic<Int>(0)
    let movedSegments = Atomic<Int>(0)
    let movedBytes = Atomic<Int>(0)
    let noSpace = Atomic<Int>(0)
}
