import ShrinkLinux
import SystemPackage

/// Threads of a test, all joined before `withDedicatedThreads` returns.
public struct DedicatedThreads: ~Copyable {
    private var threads: [DedicatedThread] = []
    private var failure: Errno?

    fileprivate init() {}

    public mutating func start(_ name: String, _ body: @escaping @Sendable () -> Void) {
        do throws(Errno) { threads.append(try DedicatedThread(name, body)) } catch { failure = error }
    }

    fileprivate consuming func join() throws {
        for thread in threads { thread.join() }
        if let failure { throw failure }
    }
}

public func withDedicatedThreads(_ body: (inout DedicatedThreads) throws -> Void) throws {
    var threads = DedicatedThreads()
    try body(&threads)
    try threads.join()
}
