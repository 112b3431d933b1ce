import ShrinkLinux
import SystemPackage

// A pool of huge pages counts everything in units of 2 MiB: words, handles, claims, what is punched and what comes back. Its memory file has no write(2) and
// tells nothing of its holes, so the engine has a mapping of its own with a userfaultfd on it, and never touches it: UFFDIO_COPY places a unit whole
// or not at all, and UFFDIO_CONTINUE says whether one is there. Nobody, in whatever mapping, ever sees half a unit.

/// What the memory file of a pool of huge pages needs beside its descriptor. All calls act on one unit and wait for nobody.
final class HugeMemory: Sendable {
    static let unitBytes = HugePages.pageBytes
    /// Base pages of a unit, as the backup counts them.
    static let basePages = unitBytes / basePageSize

    private let mapping: MappedMemory
    private let userfaults: SharedDescriptor
    let buffers: HugeBuffers

    /// `file` stays the caller's.
    init(_ file: CInt, bytes: Int, buffers: HugeBuffers) throws(Errno) {
        mapping = try MappedMemory(sharing: file, count: bytes)
        let made = try Userfaults.open(.userMode)
        try Userfaults.begin(made.number, [.missingInHugePages, .minorInHugePages])
        let start = UInt(bitPattern: mapping.base)
        try Userfaults.register(made.number, start..<start + UInt(bytes), [.missing, .minor])
        userfaults = SharedDescriptor(made)
        self.buffers = buffers
    }

    private func addresses(_ unit: Int) -> Range<UInt> {
        let start = UInt(bitPattern: mapping.base) + UInt(unit * Self.unitBytes)
        return start..<start + UInt(Self.unitBytes)
    }

    /// Whether the unit takes memory.
    func isPresent(_ unit: Int) throws(Errno) -> Bool {
        for _ in 0..<Self.attempts {
            switch Userfaults.show(userfaults.number, addresses(unit)).error {
            case nil, .fileExists?: return true
            case .badAddress?: return false
            case .resourceTemporarilyUnavailable?: continue
            // A page whose memory has failed is there, and is told of when it is read.
            case .ioError?: return true
            case let error?: throw error
            }
        }
        throw .resourceTemporarilyUnavailable
    }

    /// Places a unit. ENOMEM: there is no free huge page; EEXIST: the unit is there.
    func place(_ unit: Int, _ content: UnsafeRawBufferPointer) throws(Errno) {
        for _ in 0..<Self.attempts {
            let placed = Userfaults.copy(
                userfaults.number, to: addresses(unit).lowerBound, from: content, .writable, .leavesAsleep)
            guard let error = placed.error else { return }
            switch error {
            case .resourceTemporarilyUnavailable: continue
            // Linux says this too where no page is free and the address had one before.
            case .fileExists: throw try isPresent(unit) ? .fileExists : .noMemory
            // The limit of a hugetlb cgroup.
            case .noSpace: throw .noMemory
            default: throw error
            }
        }
        throw .resourceTemporarilyUnavailable
    }

    func placeZeros(_ unit: Int) throws(Errno) { try place(unit, UnsafeRawBufferPointer(buffers.zeros.bytes)) }

    /// A moment's change of this process's own mappings is met again a few times at most.
    private static let attempts = 1000
}

/// The memory that units pass through: allocated when the first pool of huge pages is made, shared by all of them.
final class HugeBuffers: Sendable {
    let zeros: MappedMemory
    private let worker: Monitor<TransferMemory>
    /// For the thread that serves faults, which waits for no worker.
    private let fault: TransferMemory

    init() throws(EngineError) {
        do throws(Errno) {
            zeros = try MappedMemory(anonymous: HugeMemory.unitBytes, populated: false)
            worker = Monitor(try TransferMemory(count: HugeMemory.unitBytes))
            fault = try TransferMemory(count: HugeMemory.unitBytes)
        } catch {
            throw EngineError(.outOfMemory, "no memory for the 4 MiB that huge pages pass through", errno: error)
        }
    }

    /// One worker at a time.
    func withUnit<R, E: Error>(_ body: (UnsafeMutableRawBufferPointer) throws(E) -> R) throws(E) -> R {
        try worker.withLock { (memory) throws(E) -> R in try body(memory.bytes(0..<HugeMemory.unitBytes)) }
    }

    /// For the thread that serves faults alone.
    var faultUnit: UnsafeMutableRawBufferPointer { fault.bytes(0..<HugeMemory.unitBytes) }
}
