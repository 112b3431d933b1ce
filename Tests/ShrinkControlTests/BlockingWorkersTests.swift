import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

@testable import ShrinkControl

@Suite struct BlockingWorkersTests {
    /// One user's shrinks, as many and as long as they may be, leave a thread to the others.
    @Test func oneUserCannotHaveAllThreads() async throws {
        let workers = try BlockingWorkers()
        let gate = Monitor((isOpen: false, began: 0, order: [Int]()))
        let greedy = (0..<6).map { i in
            Task {
                await workers.run(.reclaim, for: 7) {
                    gate.withLock { $0.began += 1 }
                    gate.notifyAll()
                    gate.wait { $0.isOpen ? () : nil }
                    gate.withLock { $0.order.append(i) }
                }
            }
        }
        await onOwnThread { gate.wait { $0.began > 0 ? () : nil } }
        let other = await workers.run(.reclaim, for: 8) { "done" }
        #expect(other == "done")
        let own = await workers.run(.reclaim) { "the daemon's own" }
        #expect(own != nil)
        #expect(gate.withLock { $0.began } == 1, "one of two threads")
        gate.withLock { $0.isOpen = true }
        gate.notifyAll()
        for task in greedy { _ = await task.value }
        #expect(gate.withLock { $0.order.count } == 6)
        workers.finish()
    }
}
