import ShrinkEngine
import ShrinkLinux
import SystemPackage
import TestSupport
import Testing

/// A thread is put ahead of the file server's, and those that it starts with it.
@Suite struct PriorityTests {
    /// Nice values of a thread before it asks, after it, of a thread it starts then, and after it asked again with a value of its own.
    private struct Seen {
        var values: [CInt] = []
        var reason: String?
    }

    @Test func aThreadAndThoseThatItStartsGetTheNiceValue() throws {
        let seen = Monitor(Seen())
        // Of its own: other tests run on the others.
        let thread = try DedicatedThread("asks") {
            seen.withLock { $0.values.append(Niceness.ofThisThread) }
            let priority = Engine.takePriority()
            seen.withLock { seen in
                seen.reason = priority.reason
                seen.values.append(Niceness.ofThisThread)
            }
            guard priority.isAvailable else { return }
            let started = try? DedicatedThread("started") { seen.withLock { $0.values.append(Niceness.ofThisThread) } }
            started?.join()
            try? Niceness.setOfThisThread(-3)
            _ = Engine.takePriority()
            seen.withLock { $0.values.append(Niceness.ofThisThread) }
        }
        thread.join()
        let found = seen.withLock { $0 }
        if let reason = found.reason {
            #expect(reason.hasPrefix("the nice value can't be lowered to -10 ("))
            #expect(reason.hasSuffix("it takes CAP_SYS_NICE, or RLIMIT_NICE of 30"))
            #expect(found.values == [found.values[0], found.values[0]])
            return Machine.lacks("CAP_SYS_NICE", so: "an engine's nice value is not tested")
        }
        #expect(found.values == [0, -10, -10, -3])
        #expect(Niceness.ofThisThread == 0)
    }
}
