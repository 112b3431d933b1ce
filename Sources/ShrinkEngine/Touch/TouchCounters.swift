import Synchronization

/// What recover on touch did since the start.
public struct TouchCounts: Sendable, Equatable {
    public var faults = 0
    /// Pages that faults brought back from the backup, those around them included.
    public var recoveredPages = 0
    /// Those of them that were brought before anybody touched them.
    public var aheadPages = 0
    /// Pages of zeros that faults placed.
    public var zeroPages = 0
    /// Pages that stayed because they were written while they were copied out.
    public var hotPages = 0
    /// Pages whose toucher got SIGBUS: the backup could not give them, or nothing is there.
    public var poisonedPages = 0
    /// Faults that wait for a backup that is away.
    public var delayedFaults = 0

    public init() {}
}

final class TouchCounters: Sendable {
    let faults = Atomic<Int>(0)
    let recoveredPages = Atomic<Int>(0)
    let aheadPages = Atomic<Int>(0)
    let zeroPages = Atomic<Int>(0)
    let hotPages = Atomic<Int>(0)
    let poisonedPages = Atomic<Int>(0)
    let delayedFaults = Atomic<Int>(0)

    var counts: TouchCounts {
        var counts = TouchCounts()
        counts.faults = faults.load(ordering: .relaxed)
        counts.recoveredPages = recoveredPages.load(ordering: .relaxed)
        counts.aheadPages = aheadPages.load(ordering: .relaxed)
        counts.zeroPages = zeroPages.load(ordering: .relaxed)
        counts.hotPages = hotPages.load(ordering: .relaxed)
        counts.poisonedPages = poisonedPages.load(ordering: .relaxed)
        counts.delayedFaults = delayedFaults.load(ordering: .relaxed)
        return counts
    }
}
