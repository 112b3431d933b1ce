/// An object's place in the engine: plain numbers in a table, so that a walk over a million of them retains nothing.
///
/// What must survive the process is in the ledger's record and words; this is the rest. The kernel's counterpart is `ttm_buffer_object`.
struct BufferObject: BitwiseCopyable {
    /// 0: the slot is free.
    var id: UInt32 = 0
    var pool: UInt32 = 0
    /// Slot in the ledger's record table.
    var record: UInt32 = 0
    var firstPage: UInt32 = 0
    var pageCount: UInt32 = 0
    var pinCount: UInt32 = 0
    var backedUpPages: UInt32 = 0
    var zeroPages: UInt32 = 0
    var purgedPages: UInt32 = 0
    /// The first of its gates (GateTable).
    var firstGate = GateTable.none
    /// How often its content was given up and made zeros.
    var purgeGeneration: UInt32 = 0
    /// The ticket that holds the reservation, from 1; 0 is none.
    var holder: UInt32 = 0
    var priority: Priority = .normal
    var content: Content = .kept
    var life: Life = .live
    var reservation: Reservation = .free
    /// Nothing of it is in the pool, as far as known; then it is on no list.
    var isExhausted = false
    /// Its pool's.
    var backend: UInt16 = 0
    /// Its pool's pages are huge ones: every count above is of units of 2 MiB.
    var isHuge = false
    /// Its content was given up and made zeros, and nobody was told yet.
    var isLossUntold = false
    /// A device uses its memory while it is pinned: its users are asked before it goes.
    var isLeased = false
    /// This engine's own note of how it left the object's gates: all open, or all closed.
    var areGatesOpen = false
    /// Backed-up pages that the backup no longer has or can't read, as far as found.
    var damagedPages: UInt32 = 0

    /// What faults brought back while an operation held the reservation; counted when it lets go, for until then the operation's own figures are not in.
    var touched = Touched()

    struct Touched: BitwiseCopyable {
        var backedUpPages: UInt32 = 0
        var zeroPages: UInt32 = 0
        var isAny = false
    }

    /// What the owner wants of the content.
    enum Content: UInt8 {
        case kept
        /// May be given up when memory is short.
        case purgeable
        /// Was given up; the next pin says so.
        case purged
        /// Being replaced by the owner (the kernel's ghost): dead already, so never copied.
        case replaced

        /// Nothing has to be copied to free its pages.
        var isExpendable: Bool { self != .kept }
    }

    enum Life: UInt8 {
        case live
        /// Somebody waits to destroy it (the kernel's zombie): dead content, so never copied.
        case ending
        /// Being destroyed: nobody gets it any more.
        case gone
    }

    /// Who may change the object's words and memory.
    enum Reservation: UInt8 {
        case free
        /// One operation holds it; others try or wait.
        case held
    }

    /// Its pages are freed without a copy.
    var isExpendable: Bool { content.isExpendable || life != .live }

    /// On a list of the LRU (one that is pinned through a gate stays there: only a close shows that it is): the rest can't be shrunk (the kernel's unevictable list).
    var isShrinkable: Bool { pinCount == 0 && !isExhausted && life != .gone }

    /// Base pages of one of its pages.
    var unitPages: Int { isHuge ? HugeMemory.basePages : 1 }
    /// An upper bound of what it has in the pool, in base pages; words that say empty are hints.
    var reclaimablePages: Int {
        isShrinkable ? (Int(pageCount) - Int(backedUpPages) - Int(zeroPages) - Int(purgedPages)) * unitPages : 0
    }
    var basePages: Int { Int(pageCount) * unitPages }
}
