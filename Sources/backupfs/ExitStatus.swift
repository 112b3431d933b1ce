import ArgumentParser
import BackupFileSystem
import PageStore

/// Exit statuses (sysexits(3)); the parser itself ends wrong usage with 64.
enum ExitStatus: Int32 {
    case success = 0
    /// `check` found something.
    case findings = 1
    /// EX_USAGE
    case usage = 64
    /// EX_DATAERR: the store is damaged, not ours, or of a later version.
    case storeUnusable = 65
    /// EX_NOINPUT
    case storeMissing = 66
    /// EX_UNAVAILABLE: mount point or store in use, or the machine lacks what is needed.
    case unavailable = 69
    /// EX_CANTCREAT
    case storeReadOnly = 73
    /// EX_IOERR
    case system = 74
    /// EX_CONFIG
    case configuration = 78
    /// EX_TEMPFAIL: the connection was aborted; starting again may help.
    case aborted = 75

    init(_ code: StoreError.Code) {
        self =
            switch code {
            case .missing: .storeMissing
            case .foreign, .newer, .damaged: .storeUnusable
            case .busy, .unsupported: .unavailable
            case .usage: .usage
            case .readOnly: .storeReadOnly
            default: .system
            }
    }

    init(_ code: ServeError.Code) {
        self =
            switch code {
            case .mountPoint: .unavailable
            case .system: .system
            }
    }

    init(_ ending: ServeEnding) {
        self =
            switch ending {
            case .stopped, .unmounted: .success
            case .aborted: .aborted
            case .failed: .system
            }
    }
}

extension ExitCode {
    init(_ status: ExitStatus) { self.init(status.rawValue) }
}
