import ShrinkLinux

/// The state of one page as the ledger holds it.
///
/// Only `backedUp` is a fact: the backup has the only valid content. The others are hints that a fresh look at the pool file settles.
/// The kernel's counterpart is a slot of `ttm_tt.pages`: NULL, a page, or a tagged handle.
public enum PageState: Sendable, Equatable {
    /// Never touched, as far as known.
    case empty
    case resident
    /// Was all zeros and is a hole now.
    case zero
    case backedUp(Handle)
    /// Content given up (purgeable objects).
    case purged
}

extension PageState {
    /// The state machine (reference §1.5): a live handle sits in its own slot only, content goes out once and comes back once, and what was purged comes
    /// back through empty.
    func mayBecome(_ next: PageState, at page: Int) -> Bool {
        switch (self, next) {
        case (_, .purged), (_, .empty): true
        case (.purged, _): false
        case (.backedUp, .resident): true
        case (.backedUp, _): false
        case (_, .backedUp(let handle)): handle == Handle(PageIndex(rawValue: page))
        default: true
        }
    }
}

/// One 64-bit word: a tag in the low three bits, the handle above, in the upper bits what `storedBasePages` says. 0 is `empty`, so a fresh ledger is all empty.
struct PageWord {
    private enum Tag {
        static let empty: UInt64 = 0
        static let resident: UInt64 = 1
        static let zero: UInt64 = 2
        static let backedUp: UInt64 = 3
        static let purged: UInt64 = 4
        static let mask: UInt64 = 7
        static let shift: UInt64 = 3
    }

    @inline(__always)
    static func encode(_ state: PageState) -> UInt64 {
        switch state {
        case .empty: Tag.empty
        case .resident: Tag.resident
        case .zero: Tag.zero
        case .backedUp(let handle): handle.rawValue << Tag.shift | Tag.backedUp
        case .purged: Tag.purged
        }
    }

    /// Nil for a word no version of this ledger writes.
    @inline(__always)
    static func decode(_ word: UInt64) -> PageState? {
        switch word & Tag.mask {
        case Tag.empty: word == 0 ? .empty : nil
        case Tag.resident: .resident
        case Tag.zero: .zero
        case Tag.backedUp:
            (word & handleMask) >> Tag.shift > 0 ? .backedUp(Handle(rawValue: (word & handleMask) >> Tag.shift)) : nil
        case Tag.purged: .purged
        default: nil
        }
    }

    /// A word of a unit of 2 MiB also says how many of its base pages the backup has: the others are zeros, and one that is lost can't pass for
    /// one of them. Above the handle, which has 45 bits; less one, in 9 bits.
    private static let storedShift: UInt64 = 48
    private static let handleMask: UInt64 = (1 << storedShift) - 1

    static func encode(_ handle: Handle, storedBasePages: Int) -> UInt64 {
        precondition(storedBasePages > 0 && storedBasePages <= HugeMemory.basePages, "a unit stores 1 to 512 base pages")
        return UInt64(storedBasePages - 1) << storedShift | encode(.backedUp(handle))
    }

    static func storedBasePages(_ word: UInt64) -> Int { Int(word >> storedShift & 511) + 1 }

    @inline(__always)
    static func isBackedUp(_ word: UInt64) -> Bool { word & Tag.mask == Tag.backedUp }
    @inline(__always)
    static func isZero(_ word: UInt64) -> Bool { word & Tag.mask == Tag.zero }
}

/// The words of one object, indexed by its pages. Who changes them holds the object's reservation.
struct PageTable {
    private let base: UnsafeMutablePointer<UInt64>
    let count: Int

    init(base: UnsafeMutablePointer<UInt64>, count: Int) {
        self.base = base
        self.count = count
    }

    @inline(__always)
    private func slot(_ page: Int) -> SharedWord {
        precondition(page >= 0 && page < count, "page beyond the object")
        return SharedWord(base + page)
    }

    @inline(__always)
    func isBackedUp(_ page: Int) -> Bool { PageWord.isBackedUp(slot(page).load()) }
    @inline(__always)
    func isZero(_ page: Int) -> Bool { PageWord.isZero(slot(page).load()) }

    /// A word that can't be decoded counts as backed up: then nothing is thrown away on its word.
    func state(_ page: Int) -> PageState { PageWord.decode(slot(page).load()) ?? .backedUp(Handle(PageIndex(rawValue: page))) }

    @inline(__always)
    func set(_ page: Int, _ state: PageState) {
        assert(self.state(page).mayBecome(state, at: page), "a page may not go from \(self.state(page)) to \(state)")
        slot(page).store(PageWord.encode(state))
    }

    /// Of a unit of 2 MiB that is in the backup: how many of its base pages are there.
    func storedBasePages(_ page: Int) -> Int { PageWord.storedBasePages(slot(page).load()) }

    /// A unit of 2 MiB is in the backup, with so many base pages.
    func setBackedUp(_ page: Int, storedBasePages: Int) {
        let handle = Handle(PageIndex(rawValue: page))
        assert(state(page).mayBecome(.backedUp(handle), at: page), "a unit may not go from \(state(page)) to backed up")
        slot(page).store(PageWord.encode(handle, storedBasePages: storedBasePages))
    }

    /// Words by state, counted afresh; for healing and for checks.
    func countByState() -> PageCounts {
        var counts = PageCounts()
        for page in 0..<count {
            switch state(page) {
            case .empty, .purged: counts.empty += 1
            case .resident: counts.resident += 1
            case .zero: counts.zero += 1
            case .backedUp: counts.backedUp += 1
            }
        }
        return counts
    }

    var purgedPages: Int { (0..<count).count { state($0) == .purged } }

    /// Backed-up pages of a range. A loop, for the standard library's `count(where:)` asks for memory where it is not specialised.
    func backedUpPages(in range: Range<Int>) -> Int {
        var count = 0
        for page in range where isBackedUp(page) { count += 1 }
        return count
    }
}
