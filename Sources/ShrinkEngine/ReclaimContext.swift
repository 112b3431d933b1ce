/// Who asks for memory, and what may be done for it. Checked when counting and when scanning.
///
/// The kernel's counterparts are `current_is_kswapd`, `__GFP_FS` and `__GFP_IO`. Here the class is said, never guessed from a thread.
public struct ReclaimContext: Sendable, Equatable {
    public enum Caller: Sendable {
        /// Works ahead of need and has time.
        case background
        /// Needs the memory now, perhaps while it holds other things: it never waits for an object and never starts writeback.
        case direct
    }

    public var caller: Caller
    /// False: the backup is not touched, so only ready blocks and expendable content can go.
    public var mayUseFileSystem: Bool
    private var wantsWriteback: Bool
    private var wantsWait: Bool

    public init(caller: Caller, mayUseFileSystem: Bool = true, mayStartWriteback: Bool = false, mayWait: Bool = false) {
        self.caller = caller
        self.mayUseFileSystem = mayUseFileSystem
        wantsWriteback = mayStartWriteback
        wantsWait = mayWait
    }

    public var mayStartWriteback: Bool { caller == .background && mayUseFileSystem && wantsWriteback }
    public var mayWait: Bool { caller == .background && wantsWait }

    /// Everything is allowed: kswapd's place.
    public static let background = ReclaimContext(caller: .background, mayStartWriteback: true, mayWait: true)
    /// For a caller that needs memory now.
    public static let direct = ReclaimContext(caller: .direct)
    /// Somebody asked for these objects by name: wait for busy ones, but leave the tiers alone.
    public static let requested = ReclaimContext(caller: .background, mayWait: true)
}

/// The passes of a scan, cheap ones first; a later one runs only while the goal is not reached (reference §1.9 and §6).
enum ReclaimPass: CaseIterable {
    /// Expendable content: freed without a copy.
    case purge
    /// Objects that nobody has, without waiting.
    case idle
    /// Objects that another operation has: wait for it.
    case busy
    /// With writeback to the next tier, also where the first one is full.
    case writeback

    func isAllowed(in context: ReclaimContext) -> Bool {
        switch self {
        case .purge: true
        case .idle: context.mayUseFileSystem
        case .busy: context.mayUseFileSystem && context.mayWait
        case .writeback: context.mayStartWriteback
        }
    }
}
