import PageStore
import ShrinkLinux
import SystemPackage

/// Windows: memory files of the mount, by number, into which the daemon has pages copied instead of reading them, and from which instead of writing
/// them.
///
/// The daemon opens one and maps it. The file is passed through, so what it maps are the very pages that the server has: copy_file_range(2) from an
/// object into a window is answered by decompressing into them, the other way round by compressing out of them, and nothing is copied through the
/// FUSE device. Each belongs to the one open file that made it; when that is closed it is gone.
final class TransferWindows: Sendable {
    /// As many as a daemon's threads will ever need.
    static let limit = 16
    static let sizeBytes = Worker.maxTransferBytes

    /// One open window.
    private final class Window: @unchecked Sendable {
        // Sendable: what the mapping holds is for its daemon to look after; two copies into one place are its own mistake.
        let handle: UInt64
        let file: SharedDescriptor
        let memory: MappedMemory

        /// Its memory is there from the start: no copy fails, or ends the server, for want of a page.
        init(handle: UInt64) throws(Errno) {
            self.handle = handle
            file = SharedDescriptor(try MemoryFile.makeSealed("backupfs-window", size: TransferWindows.sizeBytes))
            try Files.allocate(file.number, mode: 0, at: 0, length: TransferWindows.sizeBytes)
            memory = try MappedMemory(sharing: file.number, count: TransferWindows.sizeBytes)
        }
    }

    private struct State {
        var next: UInt64
        var windows: [Int: Window] = [:]
    }

    private let state: Monitor<State>

    /// Handles begin at a number that no earlier server of the same mount used.
    init(firstHandle: UInt64) { state = Monitor(State(next: firstHandle)) }

    /// Makes window `number` and hands its file to `register`. EBUSY if it is open already.
    func open(_ number: Int, _ register: (SharedDescriptor) throws(Errno) -> UInt32) throws(Errno) -> (handle: UInt64, backing: UInt32) {
        try state.withLock { (state) throws(Errno) in
            guard state.windows[number] == nil else { throw .resourceBusy }
            let window = try Window(handle: state.next)
            let backing = try register(window.file)
            state.next += 1
            state.windows[number] = window
            return (window.handle, backing)
        }
    }

    /// An unknown handle is one from before a restart.
    func close(_ number: Int, handle: UInt64) {
        state.withLock { state in
            if state.windows[number]?.handle == handle { state.windows[number] = nil }
        }
    }

    /// Hands over up to `count` bytes of a window from an offset on, and returns how many were put there or taken. ESTALE if a server made it
    /// that is gone.
    func with(
        _ number: Int, handle: UInt64, at offset: Int, count: Int, _ body: (UnsafeMutableRawBufferPointer) throws(Errno) -> Int
    ) throws(Errno) -> Int {
        guard let window = state.withLock({ $0.windows[number] }), window.handle == handle else { throw .staleNFSFileHandle }
        guard offset >= 0, offset < Self.sizeBytes else { throw .fileTooLarge }
        let bytes = UnsafeMutableRawBufferPointer(
            rebasing: window.memory.bytes[offset..<offset + min(count, Self.sizeBytes - offset)])
        return try body(bytes)
    }

    var openCount: Int { state.withLock { $0.windows.count } }
}

// The tree's side: names, opening, copying.
extension BackupTree {
    /// Names that a listing doesn't show: they are the daemon's, and whoever reads all files of a tree has no use for them.
    static let windowPrefix = ".window-"

    /// Why there are none, if there are none.
    var windowsVerdict: Passthrough.Verdict {
        if served.faults != nil { return .no("faults are allowed (--allow-faults)") }
        if !allowsPassthrough { return .no("passthrough was turned off") }
        if passthrough.verdict == .yes { return .no("the kernel reads the store's files itself") }
        return passthrough.canPass ? .yes : .no("the kernel does not offer passthrough, or lets only root (CAP_SYS_ADMIN) use it")
    }

    static func window(named name: String) -> Node? {
        guard name.hasPrefix(windowPrefix), let number = Int(name.dropFirst(windowPrefix.count)), name == windowPrefix + String(number),
            (0..<TransferWindows.limit).contains(number)
        else { return nil }
        return .window(number)
    }

    func openWindow(_ number: Int) throws(Errno) -> FuseDevice.OpenReply {
        guard windowsVerdict == .yes else { throw .notSupported }
        let opened = try windows.open(number) { (file) throws(Errno) in try passthrough.openAlone(.window(number), file) }
        return FuseDevice.OpenReply(handle: opened.handle, flags: [.passthrough, .noFlush], backing: opened.backing)
    }

    func closeWindow(_ number: Int, handle: UInt64) {
        // In this order: while it counts as open it can't be opened again, and from then on it can.
        if !Worker.current.value.isResent { passthrough.close(.window(number)) }
        windows.close(number, handle: handle)
    }

    /// copy_file_range(2): from an object into a window or the other way round. Anything else the kernel does by itself when it is told EOPNOTSUPP.
    func copyRange(
        _ reply: consuming Reply, _ source: Node?, at offset: Int, openedAs handle: UInt64, to target: Node?, at targetOffset: Int,
        openedAs targetHandle: UInt64, count: Int
    ) {
        counters.count(.copyFileRange)
        let copied: Int
        do throws(Errno) {
            guard let source, let target else { throw .staleNFSFileHandle }
            switch (source, target) {
            case (.data(let id), .window(let number)), (.content(let id), .window(let number)):
                let object = try object(id, openedAs: handle)
                copied = try windows.with(number, handle: targetHandle, at: targetOffset, count: count) { (bytes) throws(Errno) in
                    try object.read(into: bytes, at: offset)
                }
            case (.window(let number), .data(let id)):
                let object = try object(id, openedAs: targetHandle)
                copied = try windows.with(number, handle: handle, at: offset, count: count) { (bytes) throws(Errno) in
                    try object.write(UnsafeRawBufferPointer(bytes), at: targetOffset, .buffered)
                }
            default: return reply.fail(.notSupported)
            }
        } catch {
            return reply.fail(errors.noting(error, .copyFileRange, source))
        }
        reply.written(copied)
    }
}
