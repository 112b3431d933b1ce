import ShrinkLinux
import SystemPackage

/// The memory a copy passes through: one run, page-aligned (for O_DIRECT), allocated at start and never again.
///
/// Reading the pool with pread into it, instead of through a mapping, keeps holes holes.
final class Staging: @unchecked Sendable {
    private static let byteCount = EngineLimits.runPages * basePageSize

    /// What a call reads or writes; one that is stuck keeps it.
    final class Block: @unchecked Sendable {
        // Sendable: whoever has it passes it on, and touches it no more.
        private let memory: AnyObject
        /// Whose memory it is, if it is that of a window.
        let window: BackupWindow?
        private let base: UnsafeMutableRawPointer

        fileprivate init(_ memory: TransferMemory, _ index: Int) {
            self.memory = memory
            window = nil
            base = memory.base + index * Staging.byteCount
        }

        fileprivate init(_ window: BackupWindow) {
            memory = window
            self.window = window
            base = window.base
        }

        @inline(__always)
        func pages(_ range: Range<Int>) -> UnsafeMutableRawBufferPointer {
            precondition(range.lowerBound >= 0 && range.upperBound <= EngineLimits.runPages)
            return UnsafeMutableRawBufferPointer(start: base + range.lowerBound * basePageSize, count: range.count * basePageSize)
        }
    }

    // Sendable: one worker owns it at a time.
    private(set) var block: Block

    private init(_ memory: TransferMemory, _ index: Int) { block = Block(memory, index) }

    /// Several, side by side: two fill a huge page.
    static func make(_ count: Int) throws(EngineError) -> [Staging] {
        guard count > 0 else { return [] }
        do throws(Errno) {
            let memory = try TransferMemory(count: count * byteCount)
            return (0..<count).map { Staging(memory, $0) }
        } catch {
            throw EngineError(.outOfMemory, "no memory for \(count) copy buffers of 1 MiB", errno: error)
        }
    }

    @inline(__always)
    func pages(_ range: Range<Int>) -> UnsafeMutableRawBufferPointer { block.pages(range) }

    /// The window of the server that pages last went to or came from; opened at the first need.
    private var window: (of: BackupWindows, block: Block?)?
    /// Where none could be had, for want of memory or of descriptors, it is not asked for with every run.
    private var nextTry = MonotonicTime(nanoseconds: 0)
    private static let retryMilliseconds: UInt64 = 5000

    /// A window of that server, as a block; nil if none can be had: then pages pass through the buffer.
    func windowBlock(of windows: BackupWindows) -> Block? {
        if let window, window.of === windows {
            if let block = window.block { return block }
            if MonotonicTime.now() < nextTry { return nil }
        }
        let block = windows.open().map { Block($0) }
        window = (windows, block)
        if block == nil { nextTry = MonotonicTime.now().advanced(milliseconds: Self.retryMilliseconds) }
        return block
    }

    /// A call on the window failed: it is given up if that means that its server is gone.
    func noteWindowError(_ error: Errno) {
        // Another server serves the mount now, which has windows of its own; or the connection is gone, and the server may still be using the memory.
        if error == .staleNFSFileHandle || error == .socketNotConnected || error == .connectionAbort { window = nil }
    }

    /// The block is left to a call that is stuck. Without memory for another one the program can't go on copying.
    func replace(_ stuck: Block) {
        if let block = window?.block, block === stuck {
            window = nil
            return
        }
        guard let memory = try? TransferMemory(count: Self.byteCount) else { fatalError("no memory for a copy buffer of 1 MiB") }
        block = Block(memory, 0)
    }
}

/// Staging buffers for callers' threads: at most as many operations copy at once, the next waits.
final class StagingPool: Sendable {
    private let free: Monitor<[Staging]>

    init(_ buffers: [Staging]) { free = Monitor(buffers) }

    /// A buffer, to be given back; nil if the wait for one was cancelled.
    func take(_ cancellation: Cancellation?) -> Staging? {
        guard let cancellation else { return free.wait { $0.popLast() } }
        return cancellation.whileWaking(free) {
            free.wait { free -> Staging?? in
                if let staging = free.popLast() { return .some(staging) }
                return cancellation.isCancelled ? .some(nil) : nil
            }
        }
    }

    func giveBack(_ staging: Staging) {
        free.withLock { $0.append(staging) }
        free.notifyAll()
    }

    /// As below, for a caller who may be told to stop while others have all the buffers.
    func withStaging<R>(_ cancellation: Cancellation?, _ body: (Staging) throws(EngineError) -> R) throws(EngineError) -> R {
        guard let staging = take(cancellation) else {
            throw EngineError(.interrupted, "stopped while waiting for other operations; nothing changed, ask again")
        }
        defer { giveBack(staging) }
        return try body(staging)
    }

    func withStaging<R, E: Error>(_ body: (Staging) throws(E) -> R) throws(E) -> R {
        let staging = free.wait { $0.popLast() }
        defer { giveBack(staging) }
        return try body(staging)
    }
}
