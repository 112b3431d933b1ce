import ShrinkLinux
import Synchronization
import SystemPackage

/// The faults that are set on a store, and how often each struck. May be changed at any time from any thread.
///
/// With nothing set a call costs one relaxed load.
public final class FaultRules: Sendable {
    /// Rules at once.
    public static let limit = 32

    /// A rule with its counters.
    public struct Listed: Sendable, Equatable {
        public var rule: FaultRule
        /// Calls that it applied to.
        public var seen: UInt64
        /// Calls that it failed or held.
        public var hits: UInt64

        public var text: String { "\(rule.text) seen=\(seen) hits=\(hits)" }
    }

    /// Why rules are not taken.
    public enum Refusal: Error, Equatable {
        /// The text is no rule.
        case malformed
        /// More than `limit`.
        case tooMany
    }

    private struct State {
        var listed: [Listed] = []
        /// Changed by every `clear` and `replace`: who is held by a fault that is gone goes on.
        var generation: UInt64 = 0
    }

    private let armed = Atomic<UInt32>(0)
    private let state = Monitor(State())

    public init() {}

    public var listed: [Listed] { state.withLock { $0.listed } }

    /// One rule a line, with counters; empty if none is set.
    public var text: String { listed.map { $0.text + "\n" }.joined() }

    /// Adds rules behind those that are set; each call asks them in this order.
    public func add(_ rules: [FaultRule]) throws(Refusal) {
        try state.withLock { (state) throws(Refusal) in
            guard state.listed.count + rules.count <= Self.limit else { throw .tooMany }
            state.listed += rules.map { Listed(rule: $0, seen: 0, hits: 0) }
            arm(state)
        }
    }

    /// Sets these rules, with counters at zero, in place of all.
    public func replace(with rules: [FaultRule]) throws(Refusal) {
        guard rules.count <= Self.limit else { throw .tooMany }
        state.withLock { state in
            state.listed = rules.map { Listed(rule: $0, seen: 0, hits: 0) }
            state.generation += 1
            arm(state)
        }
        state.notifyAll()
    }

    private func arm(_ state: State) {
        armed.store(state.listed.reduce(0) { $0 | $1.rule.operation.bit }, ordering: .relaxed)
    }

    /// The value of the attribute: one rule a line replaces what is set, nothing at all clears it; behind a first `+` they are added.
    public func take(_ text: String) throws(Refusal) {
        let adds = text.first == "+"
        var rules: [FaultRule] = []
        for line in text.dropFirst(adds ? 1 : 0).split(whereSeparator: { $0 == "\n" || $0 == ";" })
        where !line.allSatisfy({ $0 == " " || $0 == "\t" }) {
            guard let rule = FaultRule(text: line) else { throw .malformed }
            rules.append(rule)
        }
        if adds {
            guard !rules.isEmpty else { throw .malformed }
            try add(rules)
        } else {
            try replace(with: rules)
        }
    }

    // MARK: Striking

    /// Called before an operation: returns, after a delay if one is due, or fails it.
    @inline(__always)
    func meet(_ operation: FaultOperation, _ object: StoredObjectID?) throws(Errno) {
        if armed.load(ordering: .relaxed) & operation.bit != 0 { try strike(operation, object) }
    }

    @inline(never)
    private func strike(_ operation: FaultOperation, _ object: StoredObjectID?) throws(Errno) {
        let (delay, error, generation) = state.withLock { state in
            var (delay, error): (UInt64, Errno?) = (0, nil)
            for i in state.listed.indices {
                guard state.listed[i].applies(to: operation, object), state.listed[i].fires() else { continue }
                switch state.listed[i].rule.effect {
                case .delay(let milliseconds): delay = max(delay, milliseconds)
                case .fail(let failure): error = error ?? failure.errno
                }
            }
            return (delay, error, state.generation)
        }
        if delay > 0 {
            let end = MonotonicTime.now().advanced(milliseconds: delay)
            _ = state.wait(deadline: end) { $0.generation == generation ? nil : true }
        }
        if let error { throw error }
    }
}

extension FaultRules.Listed {
    fileprivate func applies(to operation: FaultOperation, _ object: StoredObjectID?) -> Bool {
        rule.operation == operation && (rule.object == nil || rule.object == object)
    }

    /// Counts the call, and says whether it is hit.
    fileprivate mutating func fires() -> Bool {
        seen += 1
        if let count = rule.count, hits >= count { return false }
        let hit =
            switch rule.trigger {
            case .every(let n): seen % n == 0
            case .probability(let probability): Double.random(in: 0..<1) < probability
            }
        if hit { hits += 1 }
        return hit
    }
}
