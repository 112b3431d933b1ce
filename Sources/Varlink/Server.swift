public import ShrinkLinux
import Synchronization
public import SystemPackage

/// Serves interfaces on a listening Unix socket.
///
/// All socket I/O is done by one thread of its own; handlers run as child tasks of `run()`.
/// Caveats: a server runs once. Handlers must not block the cooperative pool.
public final class VarlinkServer: Sendable {
    private let reactor: Reactor
    private let directory: Directory
    private let listener: Mutex<Slot>

    // An owned descriptor cannot be captured by the thread's closure; it waits here for `run`.
    private struct Slot: ~Copyable {
        var descriptor: OwnedDescriptor?
    }

    /// `onDrop` hears of every connection that the server ended, with the reason: Varlink answers what is no message by closing, so this is the
    /// only word about it. It is called on the socket thread and must not block.
    ///
    /// `listener` is bound and listening (`VarlinkSocket.bind`, or inherited). The server makes it non-blocking and closes it in the end.
    public init(
        listener: consuming OwnedDescriptor, vendor: VarlinkVendor, interfaces: [any VarlinkInterface],
        limits: VarlinkLimits = VarlinkLimits(), onDrop: @escaping @Sendable (PeerCredentials, VarlinkDropReason) -> Void = { _, _ in }
    ) throws(Errno) {
        try UnixSocket.setNonBlocking(listener.number)
        reactor = try Reactor(limits: limits, onDrop: onDrop)
        directory = Directory(vendor: vendor, interfaces: interfaces)
        self.listener = Mutex(Slot(descriptor: consume listener))
    }

    public var counters: VarlinkCounters { reactor.counters }

    /// Closes the listening socket; connections that are there go on.
    public func stopAccepting() { reactor.post(.stopAccepting) }

    /// Serves until the task is cancelled. Then every connection is closed, handlers are cancelled, and all endings have run on return.
    public func run() async throws(Errno) {
        guard let socket = listener.withLock({ $0.descriptor.take() }) else { fatalError("a Varlink server runs once") }
        let (arrivals, arrival) = AsyncStream.makeStream(
            of: VarlinkConnection.self, bufferingPolicy: .bufferingOldest(reactor.limits.connections))
        let reactor = reactor
        let start = Mutex(Slot(descriptor: consume socket))
        let box = LoopStart(start)
        let loop = try DedicatedThread("varlink") {
            guard let socket = box.take() else { return }
            do throws(Errno) {
                let loop = try SocketLoop(reactor, socket) {
                    if case .enqueued = arrival.yield($0) { true } else { false }
                }
                loop.run()
            } catch {
                fatalError("epoll does not take the listening socket: \(error)")
            }
            arrival.finish()
        }
        let directory = directory
        await withTaskCancellationHandler {
            await withDiscardingTaskGroup { group in
                for await connection in arrivals { group.addTask { await connection.serve(directory) } }
            }
        } onCancel: {
            reactor.post(.stop)
        }
        reactor.post(.stop)
        // At its end already: the last thing the loop does is to finish the stream.
        loop.join()
    }

    /// Hands the listening descriptor to the thread.
    private final class LoopStart: Sendable {
        private let slot: Mutex<Slot>
        init(_ slot: consuming sending Mutex<Slot>) { self.slot = slot }
        func take() -> OwnedDescriptor? { slot.withLock { $0.descriptor.take() } }
    }
}
