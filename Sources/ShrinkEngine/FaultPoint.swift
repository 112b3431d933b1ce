/// Every place between two persistent steps, and every step that can fail. A test makes the engine stop or fail there.
///
/// The kernel's counterpart is `backup_fault_inject` with two sites; here each step has one.
public enum FaultPoint: String, Sendable, CaseIterable {
    // Before anything is changed.
    case allocate
    case reserve
    case room
    /// Between two runs, as if the caller had just cancelled.
    case cancel
    // Making an object and destroying one. At these an engine can only die: a caller that goes on finds it half done.
    case afterBackupMade
    case afterRecordLive
    case afterDyingMark
    case afterBackupRemoved
    case afterWordsCleared
    // Shrink: copy out → words → free.
    /// Mappings that are registered can't write the run any more, nothing is copied yet.
    case afterProtect
    case beforeCopyOut
    case afterCopyOut
    case betweenWords
    case afterWords
    case afterFree
    /// Content is given up, nothing is freed yet.
    case afterPurgeMark
    case betweenPurgeRuns
    // Given-up content becomes zeros for a pin: free → drop → words → record.
    case afterClearFree
    case afterClearDrop
    case afterClearWords
    // Recover: copy in → words → drop.
    case beforeCopyIn
    case afterCopyIn
    /// The words say resident, mappings that are registered can't write the pages yet.
    case beforeUnprotect
    case afterRecoverWords
    case beforeDrop
    case afterDrop
    // A fault: copy in, write-protected → words → un-protect and wake → drop. One that fails here is served again a moment later.
    case touchBeforeCopyIn
    case touchAfterCopyIn
    case touchAfterWords
    case touchBeforeDrop
    case touchAfterDrop

    /// Between two steps that only a death can part.
    public var isDeathOnly: Bool {
        switch self {
        case .afterBackupMade, .afterRecordLive, .afterDyingMark, .afterBackupRemoved, .afterWordsCleared, .afterClearWords: true
        default: false
        }
    }
}

/// What an armed fault point does; nil goes on. Called with the object and the first page of the run.
public typealias FaultHook = @Sendable (FaultPoint, ObjectID, PageIndex) -> EngineError?
