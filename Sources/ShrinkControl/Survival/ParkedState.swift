import ShrinkLinux
import SystemPackage

// What the next engine must know besides pools and ledgers: who held what. A memory file that the starter keeps.
//
//   header    one page: magic, version, capacities, counters
//   sessions  64 bytes each (`SessionRecord`); in use while `state` is not 0
//   holds     16 bytes each (`HoldRecord`): a session's pins of one object, or a pool that it was given; in use while `count` is not 0
//   notes     256 bytes each: what other parts of the daemon leave for their successors (`ParkedNotes`)
//
// The file is sparse. One process writes it at a time. Whatever makes a record count is one aligned store, done last when it is made and
// first when it goes, so a process killed at any instruction leaves the record or none. All fields are native-endian.

/// The state file: version 2. Version 1 had no start times of processes, 32 bytes a session, and no notes.
final class ParkedState: Sendable {
    static let magic: UInt64 = 0x3173_6b72_6170_6873
    static let version: UInt32 = 2
    /// Twice the server's connections: those of a dead engine wait beside those of the living one.
    static let sessionCapacity = 8192
    static let holdCapacity = 1 << 20
    static let noteCapacity = 4096
    static let noteStride = 256

    /// Where things lie in a file of some version.
    struct Layout {
        var version: UInt32
        var sessionStride: Int { version == 1 ? 32 : 64 }
        var sessionsOffset: Int { basePageSize }
        var holdsOffset: Int { sessionsOffset + ParkedState.sessionCapacity * sessionStride }
        var notesOffset: Int { holdsOffset + ParkedState.holdCapacity * HoldRecord.stride }
        var fileBytes: Int { notesOffset + (version == 1 ? 0 : ParkedState.noteCapacity * ParkedState.noteStride) }
    }

    /// Numbers that go on counting over restarts.
    enum Counter: Int, CaseIterable {
        /// Engines that have worked with this state.
        case starts
        case healedInPool, healedInStore, lostPages, finishedDestructions
        case strayPages, damagedPages
        /// The highest pool id ever given.
        case highestPool
    }

    let descriptor: SharedDescriptor
    private let memory: MappedMemory
    private let layout: Layout

    /// An empty state.
    init() throws(Errno) {
        layout = Layout(version: Self.version)
        let file = try MemoryFile.makeSealed("shrinkd-state", size: layout.fileBytes)
        memory = try MappedMemory(sharing: file.number, count: layout.fileBytes)
        descriptor = SharedDescriptor(file)
        memory.base.storeBytes(of: Self.version, toByteOffset: 8, as: UInt32.self)
        // The magic last: a state that died young is not one.
        SharedWord(memory.base.assumingMemoryBound(to: UInt64.self)).store(Self.magic)
    }

    /// One that an earlier engine left, of this version or the one before.
    init(reopening file: SharedDescriptor) throws(SurvivalError) {
        do throws(Errno) {
            let size = try Files.status(file.number).sizeBytes
            guard size >= basePageSize else { throw Errno.invalidArgument }
            memory = try MappedMemory(sharing: file.number, count: size)
        } catch {
            throw SurvivalError(
                "the state that the last engine left cannot be read (\(error)); stop and start the service to go on without it")
        }
        let version = memory.base.load(fromByteOffset: 8, as: UInt32.self)
        guard SharedWord(memory.base.assumingMemoryBound(to: UInt64.self)).load() == Self.magic else {
            throw SurvivalError("what the last engine left as its state is none; stop and start the service to go on without it")
        }
        guard version == Self.version || version == Self.version - 1 else {
            throw SurvivalError(
                "the state that the last engine left has version \(version), this one reads \(Self.version - 1) and \(Self.version); start the version that wrote it"
            )
        }
        layout = Layout(version: version)
        guard memory.count == layout.fileBytes else {
            throw SurvivalError(
                "the state that the last engine left has another size than its version says; stop and start the service to go on without it"
            )
        }
        descriptor = file
    }

    var version: UInt32 { layout.version }

    subscript(counter: Counter) -> UInt64 {
        get { word(64 + counter.rawValue * 8).load() }
        set { word(64 + counter.rawValue * 8).store(newValue) }
    }

    private func word(_ offset: Int) -> SharedWord { SharedWord((memory.base + offset).assumingMemoryBound(to: UInt64.self)) }

    func session(_ index: Int) -> SessionRecord {
        precondition(index >= 0 && index < Self.sessionCapacity, "session beyond the state")
        return SessionRecord(memory.base + layout.sessionsOffset + index * layout.sessionStride, layout.version)
    }

    func hold(_ index: Int) -> HoldRecord {
        precondition(index >= 0 && index < Self.holdCapacity, "hold beyond the state")
        return HoldRecord(memory.base + layout.holdsOffset + index * HoldRecord.stride)
    }

    /// A note's 256 bytes; only since version 2.
    func note(_ index: Int) -> UnsafeMutableRawPointer? {
        precondition(index >= 0 && index < Self.noteCapacity, "note beyond the state")
        return layout.version == 1 ? nil : memory.base + layout.notesOffset + index * Self.noteStride
    }

    /// Indexes of holds in use. Only the parts of the file that were ever written are looked at.
    func holdsInUse() -> [Int] {
        inUse(from: layout.holdsOffset, count: Self.holdCapacity, stride: HoldRecord.stride) { hold($0).count > 0 }
    }

    func sessionsInUse() -> [Int] {
        inUse(from: layout.sessionsOffset, count: Self.sessionCapacity, stride: layout.sessionStride) { session($0).isInUse }
    }

    func notesInUse() -> [Int] {
        if layout.version == 1 { return [] }
        return inUse(from: layout.notesOffset, count: Self.noteCapacity, stride: Self.noteStride) { note($0)?.load(as: UInt32.self) != 0 }
    }

    private func inUse(from offset: Int, count: Int, stride: Int, _ isUsed: (Int) -> Bool) -> [Int] {
        var found: [Int] = []
        let end = offset + count * stride
        var place = offset
        while place < end, let data = (try? Files.nextData(descriptor.number, from: place)).flatMap({ $0 }), data < end {
            let hole = (try? Files.endOfData(descriptor.number, from: data, limit: end)) ?? end
            let first = max(0, (data - offset) / stride)
            let last = min(count, (hole - offset + stride - 1) / stride)
            for index in first..<max(first, last) where found.last.map({ $0 < index }) ?? true && isUsed(index) { found.append(index) }
            place = hole
        }
        return found
    }
}

/// One connection's session. `state` makes it count.
struct SessionRecord {
    private let base: UnsafeMutableRawPointer
    private let version: UInt32

    init(_ base: UnsafeMutableRawPointer, _ version: UInt32) {
        self.base = base
        self.version = version
    }

    private func field(_ offset: Int) -> UnsafeMutablePointer<UInt32> { (base + offset).assumingMemoryBound(to: UInt32.self) }

    var isInUse: Bool { SharedWord32(field(0)).load() != 0 }

    var userID: UInt32 { field(4).pointee }

    var process: ProcessIdentity {
        ProcessIdentity(
            processID: Int32(bitPattern: field(8).pointee), startTime: version == 1 ? 0 : (base + 32).load(as: UInt64.self))
    }

    var token: SessionToken {
        SessionToken(high: (base + 16).load(as: UInt64.self), low: (base + 24).load(as: UInt64.self))
    }

    func begin(user: UInt32, process: ProcessIdentity, token: SessionToken) {
        field(4).pointee = user
        field(8).pointee = UInt32(bitPattern: process.processID)
        (base + 16).storeBytes(of: token.high, as: UInt64.self)
        (base + 24).storeBytes(of: token.low, as: UInt64.self)
        (base + 32).storeBytes(of: process.startTime, as: UInt64.self)
        SharedWord32(field(0)).store(1)
    }

    /// The client is another process now. Whenever this is cut off, the record names one of the two.
    func changeProcess(_ process: ProcessIdentity) {
        let start = SharedWord((base + 32).assumingMemoryBound(to: UInt64.self))
        start.store(0)
        SharedWord32(field(8)).store(UInt32(bitPattern: process.processID))
        start.store(process.startTime)
    }

    func end() { SharedWord32(field(0)).store(0) }
}

/// What one session holds of one object or pool. `count` makes it count.
struct HoldRecord {
    enum Kind: UInt32 {
        /// Pins of an object.
        case pins = 1
        /// A pool whose memory was handed out.
        case pool = 2
    }

    static let stride = 16
    private let base: UnsafeMutableRawPointer

    init(_ base: UnsafeMutableRawPointer) { self.base = base }

    private func field(_ offset: Int) -> UnsafeMutablePointer<UInt32> { (base + offset).assumingMemoryBound(to: UInt32.self) }

    var session: Int { Int(field(0).pointee) }
    var kind: Kind? { Kind(rawValue: field(4).pointee) }
    var target: UInt32 { field(8).pointee }

    var count: UInt32 {
        get { SharedWord32(field(12)).load() }
        nonmutating set { SharedWord32(field(12)).store(newValue) }
    }

    func begin(session: Int, kind: Kind, target: UInt32, count: UInt32) {
        field(0).pointee = UInt32(session)
        field(4).pointee = kind.rawValue
        field(8).pointee = target
        self.count = count
    }
}

/// What a client shows to have its session back: 128 random bits, 32 hexadecimal digits.
struct SessionToken: Hashable, Sendable {
    var high: UInt64
    var low: UInt64

    static func random() -> SessionToken { SessionToken(high: .random(in: 1 ... .max), low: .random(in: 0 ... .max)) }

    init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    init?(text: String) {
        guard text.utf8.count == 32, text.utf8.allSatisfy({ $0 != UInt8(ascii: "+") && $0 != UInt8(ascii: "-") }),
            let high = UInt64(text.prefix(16), radix: 16), let low = UInt64(text.suffix(16), radix: 16)
        else { return nil }
        self.init(high: high, low: low)
    }

    var text: String { Self.digits(high) + Self.digits(low) }

    private static func digits(_ value: UInt64) -> String {
        let text = String(value, radix: 16)
        return String(repeating: "0", count: 16 - text.count) + text
    }
}

/// Why what an earlier engine left cannot be taken over: cause and way out.
public struct SurvivalError: Error, Sendable, CustomStringConvertible {
    public var description: String
    init(_ description: String) { self.description = description }
}
