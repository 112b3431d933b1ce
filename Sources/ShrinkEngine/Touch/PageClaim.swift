/// Pages of a pool that one thread works on; claims never overlap.
///
/// An object's reservation keeps its words from other operations, but a fault must not wait for it: a worker may hold it across a call that waits for the very
/// client whose fault it is. So whoever changes words or memory of a page holds a claim on the page, and what a fault may do under somebody else's claim depends on
/// the work. Whoever ends a claim wakes the pages' waiters, so a fault that meets a claim needs no place to wait: it comes again.
struct PageClaim {
    enum Work {
        /// Shrink, up to the words: a write makes the page hot, and it stays.
        case copyingOut
        /// Shrink, words set and the memory about to go: everything waits for the end.
        case freeing
        /// Explicit recover. It may wait for the file's lock, so faults bring their page themselves, write-protected.
        case copyingIn
        /// A fault is being served; it waits for the backup and for no client.
        case serving
        /// Copies in the backup go, whose pages are back.
        case dropping
        /// The object is being destroyed or emptied: its memory reads as zeros.
        case ending
        /// The content is being given up: who touches it hears so.
        case purging
    }

    let id: UInt64
    let pages: Range<Int>
    var work: Work
    var hot = RunMask()
    /// Faults that bring pages of it.
    var guests = 0
    /// A fault was told to come again since the pages were last woken.
    var wasMet = false
}
