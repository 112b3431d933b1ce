// swift-format-ignore-file: AlwaysUseLowerCamelCase
// The names are those of shrinkd.h.

import CShrinkd
import ShrinkClient
import ShrinkLinux

/// What failed last in each thread.
let lastFailure = ThreadText()

@c @implementation
public func shrinkd_error_message() -> UnsafePointer<CChar>! {
    lastFailure.current ?? noFailure
}

/// Lives as long as the process: somebody may hold it.
nonisolated(unsafe) private let noFailure: UnsafePointer<CChar> = {
    let text = "nothing has failed in this thread"
    let bytes = UnsafeMutablePointer<CChar>.allocate(capacity: text.utf8.count + 1)
    for (i, byte) in text.utf8.enumerated() { bytes[i] = CChar(bitPattern: byte) }
    bytes[text.utf8.count] = 0
    return UnsafePointer(bytes)
}()

/// Runs a function's body; a failure becomes its code, and its message this thread's.
func answer(_ body: () throws(ShrinkdError) -> Int32) -> Int32 {
    do throws(ShrinkdError) { return try body() } catch {
        lastFailure.set(error.message)
        return code(of: error)
    }
}

func invalid(_ what: String) -> ShrinkdError { ShrinkdError(.invalidArgument, what) }

private func code(of error: ShrinkdError) -> Int32 {
    let code =
        switch error.code {
        case .notRunning: SHRINKD_ERROR_NOT_RUNNING
        case .notAllowed: SHRINKD_ERROR_NOT_ALLOWED
        case .disconnected, .cancelled: SHRINKD_ERROR_DISCONNECTED
        case .noSuchPool, .noSuchObject: SHRINKD_ERROR_NOT_FOUND
        case .invalidArgument, .invalidSize, .nameTaken: SHRINKD_ERROR_INVALID
        case .outOfSpace, .backupFull: SHRINKD_ERROR_NO_SPACE
        case .outOfMemory: SHRINKD_ERROR_NO_MEMORY
        case .busy: SHRINKD_ERROR_BUSY
        case .notPinned: SHRINKD_ERROR_NOT_PINNED
        case .damaged: SHRINKD_ERROR_DAMAGED
        case .limitReached: SHRINKD_ERROR_LIMIT
        case .shuttingDown, .sessionLost: SHRINKD_ERROR_STOPPED
        default: SHRINKD_ERROR_OTHER
        }
    return Int32(code)
}
