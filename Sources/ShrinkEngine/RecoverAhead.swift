import Logging
import ShrinkLinux
import SystemPackage

/// Brings back the rest of objects of which a part was wanted, on a thread of its own, when nothing else is asked of it.
///
/// It never shrinks others for it: what is there without effort is used, the rest waits for its touch. A full queue forgets the wish.
final class RecoverAhead: Sendable {
    private struct Queue {
        var ids: [ObjectID] = []
        var isBusy = false
        var isEnding = false
    }

    private static let capacity = 64
    private let queue = Monitor(Queue())
    private let starter = Monitor<DedicatedThread?>(nil)

    func add(_ id: ObjectID, of engine: Engine) {
        let isFirst = queue.withLock { queue -> Bool in
            guard !queue.isEnding, queue.ids.count < Self.capacity, !queue.ids.contains(id) else { return false }
            queue.ids.append(id)
            return true
        }
        guard isFirst else { return }
        starter.withLock { thread in
            guard thread == nil else { return }
            // The thread lives as long as there is work and holds the engine no longer than that.
            do throws(Errno) {
                thread = try DedicatedThread("shrink-ahead") { [queue, weak engine] in Self.serve(queue, { engine }) }
            } catch {
                // Nobody would ever serve the wish, and a drain would wait for it.
                queue.withLock { $0.ids = [] }
                engine.logger.warning("no thread to recover ahead", metadata: ["error": "\(error)"])
            }
        }
        queue.notifyAll()
    }

    private static func serve(_ queue: Monitor<Queue>, _ engine: () -> Engine?) {
        while true {
            let id: ObjectID? = queue.wait { queue -> ObjectID?? in
                if queue.isEnding { return .some(nil) }
                guard let id = queue.ids.first else { return nil }
                queue.ids.removeFirst()
                queue.isBusy = true
                return .some(id)
            }
            guard let id else { return }
            engine()?.recoverAhead(id)
            queue.withLock { $0.isBusy = false }
            queue.notifyAll()
        }
    }

    /// Returns when nothing is queued or under way; for tests and for a clean end.
    func drain() { queue.wait { $0.ids.isEmpty && !$0.isBusy ? () : nil } }

    func end() {
        queue.withLock { $0.isEnding = true }
        queue.notifyAll()
        let thread = starter.withLock { thread in
            defer { thread = nil }
            return thread
        }
        // The last reference to the engine may have been the server's.
        thread?.joinOrLetGo()
    }
}

extension Engine {
    fileprivate func recoverAhead(_ id: ObjectID) {
        staging.withStaging { staging in
            guard case .reserved(let slot) = reserve(id, .never) else { return }
            defer { release(slot) }
            guard state.withLock({ $0.objects[slot].backedUpPages > 0 && !$0.objects[slot].isExpendable && !$0.isShuttingDown }) else {
                return
            }
            _ = recoverReserved(slot, staging, mayShrinkOthers: false) { _ in !self.state.withLock { $0.isShuttingDown } }
        }
    }

    /// Waits until everything that was to be recovered ahead is done.
    public func waitForRecoverAhead() { ahead.drain() }
}
