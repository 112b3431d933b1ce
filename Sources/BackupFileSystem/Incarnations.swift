import PageStore
import ShrinkLinux
import Synchronization

/// How often an object's `data` was unlinked and made again. Its node number is computed and stays, so only the generation of FUSE tells the new file
/// from the old: seeing a new one the kernel makes the old inode bad, and descriptors of the old file get EIO instead of the new file's bytes.
///
/// Counted in the saved state, so that a server that takes the mount over knows the same.
final class Incarnations: Sendable {
    /// Objects of this mount that may be in their second file or later. Nobody needs many: the engine removes an object whose `data` it unlinked.
    static let capacity = 256

    private let state: SessionState
    /// Held while words change; they are read without it.
    private let changing = Monitor<UInt8>(0)
    /// Whether any word was ever set: nearly no mount has one, and every request asks.
    private let isUsed: Atomic<Bool>

    init(in state: SessionState) {
        self.state = state
        isUsed = Atomic((0..<Self.capacity).contains { SharedWord(state.incarnationWords + $0).load() != 0 })
    }

    /// The object's id in the upper half, the count in the lower; 0 where the place is free.
    private func word(_ place: Int) -> SharedWord { SharedWord(state.incarnationWords + place) }

    private func place(of id: UInt32) -> Int? { (0..<Self.capacity).first { word($0).load() >> 32 == UInt64(id) } }

    /// 0 for an object's first file.
    func count(of id: StoredObjectID) -> UInt64 {
        guard isUsed.load(ordering: .acquiring), let place = place(of: id.rawValue) else { return 0 }
        return word(place).load() & 0xffff_ffff
    }

    func generation(of node: Node) -> UInt64 {
        switch node {
        case .data(let id), .content(let id): state.generation &+ count(of: id)
        default: state.generation
        }
    }

    /// The object's file is another from now on. False if there is no place left to note it.
    func begin(_ id: StoredObjectID) -> Bool {
        changing.withLock { _ in
            isUsed.store(true, ordering: .releasing)
            if let place = place(of: id.rawValue) {
                word(place).store(word(place).load() &+ 1)
                return true
            }
            guard let free = (0..<Self.capacity).first(where: { word($0).load() == 0 }) else { return false }
            word(free).store(UInt64(id.rawValue) << 32 | 1)
            return true
        }
    }

    /// The object is gone, and its id is not used again.
    func end(_ id: StoredObjectID) {
        changing.withLock { _ in
            if let place = place(of: id.rawValue) { word(place).store(0) }
        }
    }
}
