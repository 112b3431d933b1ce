import ShrinkEngine
import ShrinkLinux
import TestSupport

/// A signal for one in so many copies in, as the kernel's `backup_fault_inject` does with its second site.
final class InterruptionEvery: Sendable {
    private let generator: Monitor<SeededGenerator>
    private let one: UInt64

    init(seed: UInt64, one: UInt64) {
        generator = Monitor(SeededGenerator(seed: seed))
        self.one = one
    }

    func strikes(_ point: FaultPoint) -> Bool { point == .beforeCopyIn && generator.withLock { $0.next() % one == 0 } }
}
