import ShrinkLinux
import SystemPackage

/// What readers of page files and status files see: the bytes as they were at open, until they close.
final class SnapshotTable: Sendable {
    /// All open snapshots together take no more memory than this; one more open is ENFILE.
    static let maxBytes = 64 << 20
    /// The memory beside the bytes that an entry takes, about.
    private static let entryBytes = 128

    private struct State {
        var next: UInt64
        var used = 0
        var entries: [UInt64: (node: UInt64, bytes: [UInt8])] = [:]
    }

    private let state: Monitor<State>

    /// Handles begin at a number that no earlier server of the same mount used: a handle from before a restart is told apart and gets ESTALE.
    init(firstHandle: UInt64) { state = Monitor(State(next: firstHandle)) }

    /// Keeps the node's bytes until `close`.
    func open(_ node: UInt64, _ bytes: [UInt8]) throws(Errno) -> UInt64 {
        try state.withLock { (state) throws(Errno) -> UInt64 in
            guard state.used + bytes.count + Self.entryBytes <= Self.maxBytes else { throw .tooManyOpenFilesInSystem }
            state.used += bytes.count + Self.entryBytes
            let handle = state.next
            state.next += 1
            state.entries[handle] = (node, bytes)
            return handle
        }
    }

    func bytes(_ handle: UInt64) -> [UInt8]? { state.withLock { $0.entries[handle]?.bytes } }

    /// Whether anyone has the node open. Asked only of one that is gone.
    func isOpen(_ node: UInt64) -> Bool { state.withLock { $0.entries.values.contains { $0.node == node } } }

    /// An unknown handle is one from before a restart.
    func close(_ handle: UInt64) {
        state.withLock { state in
            if let entry = state.entries.removeValue(forKey: handle) { state.used -= entry.bytes.count + Self.entryBytes }
        }
    }

    var usedBytes: Int { state.withLock { $0.used } }
}
