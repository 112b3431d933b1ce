public import ShrinkLinux
import Synchronization
public import SystemPackage

/// Descriptors that a program leaves with its starter so that its next process has them: names in, names out, and never more than fit.
///
/// Caveats first:
/// - What does not fit is lost in silence by the starter (FileDescriptorStoreMax= in systemd.service(5)). So every descriptor is counted here
///   and one too many is refused before it is made: call `reserve` first, then `park`.
/// - Names are the only order there is: the starter hands descriptors back in any order, several may share a name.
/// - When `park` returns, the starter has them: a process killed at the next instruction loses none.
///
/// Without a starter that keeps descriptors everything is accepted and nothing survives; `isKept` tells.
public final class ParkedDescriptors: Sendable {
    /// One more would not be kept.
    public struct Full: Error, Equatable, CustomStringConvertible {
        public var limit: Int
        public var description: String {
            "the starter keeps \(limit) descriptors over a restart and all are in use; destroy a pool, or raise FileDescriptorStoreMax= and FDSTORE in shrinkd.service"
        }
    }

    private struct State {
        /// How many descriptors the starter has under each name.
        var parked: [String: Int] = [:]
        var reserved = 0
        /// What the starter handed over at the start and nobody took yet.
        var waiting: [(name: String, descriptor: SharedDescriptor)] = []

        var used: Int { parked.values.reduce(0, +) + reserved }
    }

    private let notifier: Notifier
    private let state = Mutex(State())
    /// How many the starter keeps; nil if it does not say, and then nothing is given to it.
    public let limit: Int?
    private static let barrierSeconds = 10

    /// The limit is what `$FDSTORE` says: systemd since 254 and the keeper set it, for an older systemd the unit does.
    public init(
        _ notifier: Notifier = Notifier(), limit: Int? = ThisProcess.environment("FDSTORE").flatMap { Int($0) }
    ) {
        self.notifier = notifier
        self.limit = notifier.isListening ? limit.flatMap { $0 > 0 ? $0 : nil } : nil
    }

    /// True if what is parked outlives this process.
    public var isKept: Bool { limit != nil }

    /// Descriptors that the starter has now, those reserved included.
    public var used: Int { state.withLock { $0.used } }

    /// True if the starter has something under that name, or would have it if it kept anything.
    public func holds(_ name: String) -> Bool { state.withLock { $0.parked[name] != nil } }

    /// Takes over everything that is left in `inherited`: it came out of the starter's store and is still there.
    public func adopt(_ inherited: inout InheritedDescriptors) {
        for name in inherited.names {
            guard let descriptor = inherited.take(name) else { continue }
            let shared = SharedDescriptor(descriptor)
            state.withLock {
                $0.parked[name, default: 0] += 1
                $0.waiting.append((name, shared))
            }
        }
    }

    /// Names handed over at the start that nobody took yet.
    public func waitingNames(prefix: String) -> [String] { state.withLock { $0.waiting.map(\.name).filter { $0.hasPrefix(prefix) } } }

    /// One descriptor of that name that was handed over at the start; it stays parked.
    public func take(_ name: String) -> SharedDescriptor? {
        state.withLock { state in
            guard let index = state.waiting.firstIndex(where: { $0.name == name }) else { return nil }
            return state.waiting.remove(at: index).descriptor
        }
    }

    /// Makes sure that so many more will fit; give them back with `park` or `cancel`.
    public func reserve(_ count: Int) throws(Full) {
        guard let limit else { return }
        let fits = state.withLock { state in
            guard state.used + count <= limit else { return false }
            state.reserved += count
            return true
        }
        if !fits { throw Full(limit: limit) }
    }

    /// What was reserved is not needed.
    public func cancel(_ count: Int) {
        if limit != nil { state.withLock { $0.reserved -= count } }
    }

    /// Leaves descriptors that were reserved with the starter, and waits until it has them.
    public func park(_ descriptors: [(name: String, number: CInt)]) throws(Errno) {
        guard limit != nil else { return }
        var sent = 0
        defer { state.withLock { $0.reserved -= descriptors.count } }
        do throws(Errno) {
            for descriptor in descriptors {
                try notifier.store([descriptor.number], name: descriptor.name)
                sent += 1
                state.withLock { $0.parked[descriptor.name, default: 0] += 1 }
            }
            guard try notifier.barrier(seconds: Self.barrierSeconds) else { throw Errno.timedOut }
        } catch {
            for descriptor in descriptors.prefix(sent) { try? forget(descriptor.name) }
            throw error
        }
    }

    /// Takes everything of that name out of the starter's store.
    public func forget(_ name: String) throws(Errno) {
        let count = state.withLock { state in
            state.waiting.removeAll { $0.name == name }
            return state.parked.removeValue(forKey: name) ?? 0
        }
        if count > 0 { try notifier.removeStored(name: name) }
    }
}
