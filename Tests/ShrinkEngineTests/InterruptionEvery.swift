import ShrinkEngine
import Synchronization

/// A signal for one in so many copies in, as the kernel's `backup_fault_inject` does with its second site. Which of the first it is the seed says.
final class InterruptionEvery: Sendable {
    private let copiesIn: Atomic<UInt64>
    private let one: UInt64

    init(seed: UInt64, one: UInt64) {
        copiesIn = Atomic(seed % one)
        self.one = one
    }

    func strikes(_ point: FaultPoint) -> Bool {
        point == .beforeCopyIn && copiesIn.add(1, ordering: .relaxed).newValue % one == 0
    }
}
