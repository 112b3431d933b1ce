import ShrinkLinux
import TestSupport

@testable import ShrinkEngine

/// What histories came upon: a model that never meets a fault proves nothing about it.
final class ModelCoverage: Sendable {
    private let events = Monitor<[String: Int]>([:])

    func note(_ event: String) { events.withLock { $0[event, default: 0] += 1 } }
    func count(_ event: String) -> Int { events.withLock { $0[event, default: 0] } }

    /// Every fault and every death that can be met, and a cancellation.
    var missing: [String] {
        all.filter { count($0) == 0 }
    }

    /// The one that was met least, for who changes the odds.
    var rarest: String { all.min { count($0) < count($1) }.map { "\($0), \(count($0)) times" } ?? "" }

    private var all: [String] {
        // Histories register no mapping: what happens on a touch is tried where touches are (TouchCrashTests).
        let points = FaultPoint.allCases.filter { !$0.rawValue.hasPrefix("touch") }
        let faults = points.filter { !$0.isDeathOnly }.map { "fault at \($0)" }
        return faults + points.map { "death at \($0)" } + ["cancel"]
    }
}

/// What can go wrong on request: the engine's fault hook, driven by steps.
final class ModelFaults: Sendable {
    private struct State {
        var point: FaultPoint?
        var hits = 0
        var isDead = false
        var isSticky = false
        var cancellation: Cancellation?
    }

    private let state = Monitor(State())
    private let coverage: ModelCoverage?

    init(_ coverage: ModelCoverage?) { self.coverage = coverage }

    var isDead: Bool { state.withLock { $0.isDead } }

    func arm(_ point: FaultPoint, after hits: Int, isDeath: Bool) {
        state.withLock { $0 = State(point: point, hits: hits, isSticky: isDeath) }
    }

    /// Cancels at the n-th fault point of any kind.
    func armCancel(_ cancellation: Cancellation, after hits: Int) {
        state.withLock { $0 = State(hits: hits, cancellation: cancellation) }
    }

    func disarm() { state.withLock { $0 = State() } }

    func strike(_ point: FaultPoint) -> EngineError? {
        let (cancellation, strikes) = state.withLock { state -> (Cancellation?, Bool) in
            if state.isDead { return (nil, true) }
            if let cancellation = state.cancellation {
                state.hits -= 1
                if state.hits == 0 { coverage?.note("cancel") }
                return (state.hits == 0 ? cancellation : nil, false)
            }
            guard state.point == point else { return (nil, false) }
            state.hits -= 1
            guard state.hits <= 0 else { return (nil, false) }
            state.isDead = state.isSticky
            coverage?.note(state.isSticky ? "death at \(point)" : "fault at \(point)")
            if !state.isSticky { state.point = nil }
            return (nil, true)
        }
        cancellation?.cancel()
        return strikes ? EngineError(.interrupted, "fault at \(point)") : nil
    }
}

/// What can go wrong for several clients at once: one in so many steps fails, one cancels what another waits for, and the engine dies under all.
final class SharedModelFaults: Sendable {
    private struct State {
        var generator: SeededGenerator
        var isOn = false
        var isDead = false
        /// Fault points until it dies; nil: it does not.
        var life: Int?
        var cancellations: [Cancellation] = []
    }

    private let state: Monitor<State>
    let coverage = ModelCoverage()
    private static let oneIn: UInt64 = 500

    init(seed: UInt64) { state = Monitor(State(generator: SeededGenerator(seed: seed))) }

    func turnOn(life: Int?) {
        state.withLock { state in
            (state.isOn, state.isDead, state.life, state.cancellations) = (true, false, life, [])
        }
    }

    func turnOff() {
        state.withLock { state in
            (state.isOn, state.isDead, state.life) = (false, false, nil)
        }
    }

    func strike(_ point: FaultPoint) -> EngineError? {
        let strikes = state.withLock { state -> Bool in
            guard state.isOn else { return false }
            if let life = state.life { (state.life, state.isDead) = (life - 1, state.isDead || life <= 1) }
            if state.isDead { return true }
            return !point.isDeathOnly && state.generator.next() % Self.oneIn == 0
        }
        if strikes { coverage.note("fault") }
        return strikes ? EngineError(.interrupted, "fault at \(point)") : nil
    }

    var isDead: Bool { state.withLock { $0.isDead } }

    /// Cancels what some client does just now, and takes the caller's own next one into the list.
    func swap() -> Cancellation {
        let own = Cancellation()
        let other = state.withLock { state -> Cancellation? in
            let index = state.cancellations.isEmpty ? nil : Int(state.generator.next() % UInt64(state.cancellations.count))
            state.cancellations.append(own)
            return index.map { state.cancellations.remove(at: $0) }
        }
        if other != nil { coverage.note("cancel") }
        other?.cancel()
        return own
    }
}
