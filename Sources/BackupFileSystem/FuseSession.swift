import CFuse3
import Glibc
import Logging
import PageStore
import ShrinkLinux
import Synchronization
import SystemPackage

/// The transport: threads that read requests from the FUSE device and hand them to libfuse, which decodes them and calls the tree.
///
/// All threads read one descriptor. (Requests read through a cloned one would die with it, and could not be asked for again by a successor.)
/// libfuse 3.14 speaks an older protocol than the kernel; the reply to FUSE_INIT is edited on its way out, which is all that newer features need.
final class FuseSession: Sendable {
    /// Threads that read requests. Two would do on two cores; a third answers while both wait for a disk.
    static let threadCount = 3

    enum Ending: Sendable, Equatable {
        case stopped
        /// The kernel let go of the connection: it was unmounted or aborted.
        case disconnected
        case failed(Errno)
    }

    /// What the threads tell the one that waits for them.
    private struct State {
        var isNegotiated = false
        var running: [Int32] = []
        var ending: Ending?
    }

    let tree: BackupTree
    private let device: SharedDescriptor
    private let saved: SessionState
    private let logger: Logger
    /// Becomes readable when serving ended by itself.
    let ended: Wakeup
    private let state = Monitor(State())
    private let isStopping = Atomic<Bool>(false)
    /// The `unique` of the FUSE_INIT whose reply is to be edited or, when replayed, swallowed; 0 once that is done.
    private let pendingInit = Atomic<UInt64>(0)
    private let isReplay = Atomic<Bool>(false)
    /// Requests in the threads' hands, and requests that they are done with.
    private let inHand = Atomic<Int>(0)
    private let answered = Atomic<Int>(0)
    private let answeredAtLastLook = Atomic<Int>(-1)
    private let offered = Atomic<UInt64>(0)
    // libfuse's session is used from several threads, as its own multi-threaded loop does.
    nonisolated(unsafe) private let session: OpaquePointer

    init(device: SharedDescriptor, saved: SessionState, tree: BackupTree, logger: Logger) throws(Errno) {
        self.device = device
        self.saved = saved
        self.tree = tree
        self.logger = logger
        ended = try Wakeup()
        guard let session = Self.makeSession() else { throw .noMemory }
        self.session = session
    }

    /// libfuse wants the owner's address before the owner is complete; it learns it from the slot instead.
    private static func makeSession() -> OpaquePointer? {
        var operations = fuseOperations()
        var name: [CChar] = Array("backupfs".utf8CString)
        return name.withUnsafeMutableBufferPointer { name in
            var argv: [UnsafeMutablePointer<CChar>?] = [name.baseAddress, nil]
            return argv.withUnsafeMutableBufferPointer { argv in
                var arguments = fuse_args(argc: 1, argv: argv.baseAddress, allocated: 0)
                return fuse_session_new(&arguments, &operations, MemoryLayout<fuse_lowlevel_ops>.size, nil)
            }
        }
    }

    /// The session that the calling thread serves.
    static let current = ThreadSlot<FuseSession>()

    // MARK: Life

    /// Starts serving; returns when FUSE_INIT was answered and requests will be. `resuming`: the kernel was answered by a predecessor.
    func start(resuming: Bool) throws(Errno) {
        var io = fuse_custom_io()
        io.read = { device, buffer, count, _ in
            // The threads read for themselves; libfuse asks only that there be a function.
            errno = ENOSYS
            return -1
        }
        io.writev = { _, vectors, count, _ in FuseSession.current.value.send(vectors, count) }
        let code = fuse_session_custom_io(session, &io, device.number)
        guard code == 0 else { throw Errno(rawValue: -code) }
        try startThread(0, resuming: resuming)
        // The others come when it is known what was negotiated: no request is answered before.
        let ready = state.wait { state -> Bool? in
            if state.isNegotiated { return true }
            return state.ending == nil ? nil : false
        }
        guard ready else { throw .ioError }
        for i in 1..<Self.threadCount { try startThread(i, resuming: false) }
    }

    private func startThread(_ index: Int, resuming: Bool) throws(Errno) {
        let worker = try Worker()
        // Threads are waited for by `stop`, through the state.
        _ = try DedicatedThread("fuse-\(index)") { [self] in
            Worker.current.set(worker)
            FuseSession.current.set(self)
            state.withLock { $0.running.append(currentThreadID()) }
            let ending = serve(worker, resuming: resuming)
            state.withLock { state in
                state.running.removeAll { $0 == currentThreadID() }
                if state.ending == nil || state.ending == .stopped { state.ending = ending }
            }
            state.notifyAll()
            if ending != .stopped { ended.signal() }
        }
    }

    /// Stops reading, lets requests in hand be answered, and waits for the threads, at most `seconds`. False if some did not come back.
    func stop(withinSeconds seconds: UInt64) -> Bool {
        isStopping.store(true, ordering: .sequentiallyConsistent)
        let limit = MonotonicTime.now().advanced(milliseconds: seconds * 1000)
        while true {
            // A thread that was about to block when it was interrupted blocks all the same: interrupt again until all have ended.
            for thread in state.withLock({ $0.running }) { Interruption.interrupt(thread) }
            let gone = state.wait(deadline: MonotonicTime.now().advanced(milliseconds: 5)) { $0.running.isEmpty ? true : nil }
            if gone == true { return true }
            if MonotonicTime.now() > limit { return false }
        }
    }

    /// True if a thread waits for requests, or some request was answered since the last look.
    func isServing() -> Bool {
        let now = answered.load(ordering: .relaxed)
        let before = answeredAtLastLook.exchange(now, ordering: .relaxed)
        return inHand.load(ordering: .relaxed) < Self.threadCount || now != before
    }

    var ending: Ending? { state.withLock { $0.ending } }

    // MARK: Serving

    private func serve(_ worker: Worker, resuming: Bool) -> Ending {
        do throws(Errno) {
            try Interruption.allow()
            if resuming { try replayInit(worker) }
        } catch {
            return .failed(error)
        }
        while !isStopping.load(ordering: .sequentiallyConsistent) {
            do throws(Errno) {
                let count = try FuseDevice.read(device.number, into: worker.requestBuffer)
                inHand.add(1, ordering: .relaxed)
                process(worker, count)
                answered.add(1, ordering: .relaxed)
                inHand.subtract(1, ordering: .relaxed)
            } catch {
                switch error {
                // Interrupted to stop, withdrawn by its caller, taken by another thread.
                case .interrupted, .noSuchFileOrDirectory, .wouldBlock: continue
                case .operationNotSupportedByDevice, .connectionAbort: return .disconnected
                default:
                    logger.critical("Reading requests failed; the mount can't be served.", metadata: ["error": "\(error)"])
                    return .failed(error)
                }
            }
        }
        return .stopped
    }

    private func process(_ worker: Worker, _ count: Int) {
        let request = worker.requestBuffer[..<count]
        guard count >= FuseDevice.RequestHeader.size else { return }
        let header = FuseDevice.RequestHeader(UnsafeRawBufferPointer(rebasing: request))
        worker.isResent = header.isResent
        if header.isResent { tree.counters.resent.add(1, ordering: .relaxed) }
        FuseDevice.useOlderCopyRange(UnsafeMutableRawBufferPointer(rebasing: request))
        if header.isInit { noteInit(header, UnsafeRawBufferPointer(rebasing: request)) }
        var buffer = fuse_buf()
        buffer.mem = worker.requestBuffer.baseAddress
        buffer.size = count
        fuse_session_process_buf(session, &buffer)
        if header.isInit { finishInit() }
    }

    // MARK: FUSE_INIT

    private func noteInit(_ header: FuseDevice.RequestHeader, _ request: UnsafeRawBufferPointer) {
        guard let body = FuseDevice.InitRequest(request: request) else { return }
        offered.store(body.offered.rawValue, ordering: .relaxed)
        pendingInit.store(header.unique, ordering: .relaxed)
        saved.saveInit(request)
    }

    /// What this server wants of what the kernel offers and libfuse does not ask for.
    private var wanted: FuseDevice.Capabilities {
        var wanted: FuseDevice.Capabilities = [.parallelDirectoryOperations, .handleKillPrivileges2, .extended, .resend, .passthrough]
        wanted.formIntersection(FuseDevice.Capabilities(rawValue: offered.load(ordering: .relaxed)))
        // The upper half of the bits is read only with this one.
        if !wanted.contains(.extended) { wanted.subtract([.resend, .passthrough]) }
        return wanted
    }

    private func finishInit() {
        saved.saveNegotiated(wanted)
        let verdict = passthroughVerdict()
        saved.saveVerdict(verdict)
        negotiated(verdict)
    }

    private func passthroughVerdict() -> Passthrough.Verdict {
        // What does not pass the server would pass by the faults.
        if tree.served.faults != nil { return .no("faults are allowed (--allow-faults)") }
        guard tree.allowsPassthrough else { return .no("it was turned off") }
        do throws(Errno) {
            guard let probe = try tree.store.makeBackingProbe() else { return .no("the layout keeps no file of an object's own bytes") }
            guard wanted.contains(.passthrough) else { return .no("the kernel does not offer it (Linux 6.9 does)") }
            return tree.passthrough.probe(probe.number)
        } catch {
            return .no("no file could be made to try it with: \(error)")
        }
    }

    /// A memory file shows it: it has no store under it, and no layout.
    private func canPassThrough() -> Bool {
        guard saved.negotiated.contains(.passthrough), let file = try? MemoryFile.makeSealed("backupfs-probe", size: basePageSize) else {
            return false
        }
        return tree.passthrough.probe(file.number) == .yes
    }

    private func negotiated(_ verdict: Passthrough.Verdict) {
        tree.passthrough.decide(verdict)
        tree.passthrough.decide(canPass: canPassThrough())
        state.withLock { $0.isNegotiated = true }
        state.notifyAll()
    }

    /// Puts libfuse into the state it was in at the predecessor: the saved request goes in, the reply goes nowhere.
    private func replayInit(_ worker: Worker) throws(Errno) {
        guard let request = saved.initRequest, let verdict = saved.verdict else { throw .invalidArgument }
        let header = request.withUnsafeBytes { FuseDevice.RequestHeader($0) }
        worker.requestBuffer.copyBytes(from: request)
        isReplay.store(true, ordering: .relaxed)
        pendingInit.store(header.unique, ordering: .relaxed)
        var buffer = fuse_buf()
        buffer.mem = worker.requestBuffer.baseAddress
        buffer.size = request.count
        fuse_session_process_buf(session, &buffer)
        guard pendingInit.load(ordering: .relaxed) == 0 else { throw .ioError }
        // What the predecessor read and never answered comes again. Kernels before 6.9 don't know the notice.
        if saved.negotiated.contains(.resend) { try FuseDevice.requestResend(device.number) }
        negotiated(verdict)
    }

    /// libfuse's way out. Returns what writev(2) would, with errno.
    private func send(_ vectors: UnsafeMutablePointer<iovec>?, _ count: CInt) -> Int {
        guard let vectors, count > 0 else { return 0 }
        let pending = pendingInit.load(ordering: .relaxed)
        if pending != 0, count == 2, let header = vectors[0].iov_base {
            let (unique, error) = FuseDevice.replyUnique(header)
            if unique == pending {
                pendingInit.store(0, ordering: .relaxed)
                if isReplay.load(ordering: .relaxed) { return (0..<Int(count)).reduce(0) { $0 + vectors[$1].iov_len } }
                let body = UnsafeMutableRawBufferPointer(start: vectors[1].iov_base, count: vectors[1].iov_len)
                if error != 0 || !FuseDevice.extendInitReply(body, with: wanted) { offered.store(0, ordering: .relaxed) }
            }
        }
        return FuseDevice.reply(device.number, vectors: vectors, count: count)
    }
}
