import Logging
import PageStore
import ShrinkLinux
import SystemPackage

/// Says that the store failed, at most once a minute, with how often it did since.
///
/// What is the caller's own doing (ENOENT, ENOSPC, …) goes to the caller alone.
final class ErrorLog: Sendable {
    private static let quietNanoseconds: UInt64 = 60_000_000_000

    private struct State {
        var last: MonotonicTime?
        var unsaid: UInt64 = 0
        var total: UInt64 = 0
    }

    private let state = Monitor(State())
    private let logger: Logger

    init(_ logger: Logger) { self.logger = logger }

    var total: UInt64 { state.withLock { $0.total } }

    /// Passes the error through.
    func noting(_ error: Errno, _ operation: RequestCounters.Kind, _ node: Node?) -> Errno {
        guard Self.isFailureOfTheStore(error) else { return error }
        let now = MonotonicTime.now()
        let unsaid = state.withLock { state -> UInt64? in
            state.total += 1
            if let last = state.last, now.nanoseconds(since: last) < Self.quietNanoseconds {
                state.unsaid += 1
                return nil
            }
            defer { state.unsaid = 0 }
            state.last = now
            return state.unsaid
        }
        if let unsaid {
            logger.error(
                "The store failed; the caller got the error.",
                metadata: [
                    "operation": "\(operation)", "object": "\(node?.objectID.map(\.description) ?? "none")", "error": "\(error)",
                    "not_logged_before": "\(unsaid)",
                ])
        }
        return error
    }

    /// Says what somebody did on purpose.
    func notice(_ message: Logger.Message, _ metadata: Logger.Metadata) { logger.warning(message, metadata: metadata) }

    private static func isFailureOfTheStore(_ error: Errno) -> Bool {
        error == .ioError || error == .tooManyOpenFiles || error == .noMemory || error == .readOnlyFileSystem
    }
}
