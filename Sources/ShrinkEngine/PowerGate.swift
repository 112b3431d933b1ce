/// A device under a backup that may sleep. Reclaim wakes it only for a background caller; a direct one leaves it asleep, has it woken in the
/// background for the next time, and passes over the objects it would need.
///
/// The kernel's counterpart is xe's handling of runtime PM (reference §1.9): get-if-active, a synchronous wake for kswapd, a worker otherwise.
public protocol PowerGate: AnyObject, Sendable {
    /// Awake or asleep, without changing it.
    var isAwake: Bool { get }

    /// Keeps the device awake until `release`, waking it if need be. False if it can't be woken. May block.
    func hold() -> Bool

    /// Undoes one `hold`; the device goes to sleep after its autosuspend delay.
    func release()

    /// Wakes the device without waiting, and lets it go at once: its autosuspend delay leaves it awake for the retry.
    func wakeLater()
}

extension Backup {
    /// Nil: nothing under it sleeps.
    public var power: (any PowerGate)? { nil }
}

/// Which devices a reclaim holds awake, and which pools it has to leave alone.
struct PowerHolds {
    private var held: [any PowerGate] = []
    private(set) var asleep: Set<UInt32> = []

    init(pools: [Pool], caller: ReclaimContext.Caller) {
        var refused: [any PowerGate] = []
        for pool in pools {
            guard let gate = pool.backup.power else { continue }
            if held.contains(where: { $0 === gate }) { continue }
            if !refused.contains(where: { $0 === gate }) {
                if gate.isAwake || caller == .background, gate.hold() {
                    held.append(gate)
                    continue
                }
                refused.append(gate)
                gate.wakeLater()
            }
            asleep.insert(pool.id.rawValue)
        }
    }

    init() {}

    func release() { for gate in held { gate.release() } }
}
