import ServiceSupport
import ShrinkEngine
import ShrinkLinux
import ShrinkProtocol
import SystemPackage

// A registered mapping lies with the starter as `uffd-ID`, its userfaultfd; while that is open nobody who touches a missing page reads zeros. Notes
// tell the next engine what shows where (`MappingNote`).
extension Survival {
    private static let userfaultsName = "uffd-"

    private static func name(_ id: MappingID) -> String { userfaultsName + "\(id.rawValue)" }

    /// Leaves a mapping, for which room was reserved, with the starter, and which session it belongs to. On return a killed engine loses nothing of it.
    func keepMapping(_ mapping: PersistentMapping, token: SessionToken) throws(ControlError) {
        guard noteMapping(mapping, token: token) else {
            descriptors.cancel(1)
            throw .service(.limitReached, "there is no room to keep another mapping over a restart; end one, or close a connection")
        }
        do throws(Errno) { try descriptors.park([(Self.name(mapping.id), mapping.userfaults.number)]) } catch {
            MappingNote.remove(mapping.id, from: notes)
            throw .service(.systemFailure, "the starter does not take the userfaultfd to keep it over a restart (\(error)); see its log")
        }
    }

    /// What is kept of a mapping is to be this. False if there is no room for it.
    func noteMapping(_ mapping: PersistentMapping, token: SessionToken) -> Bool {
        MappingNote(token: token, mapping: mapping).keep(mapping.id, in: notes)
    }

    /// A mapping is no more.
    func forgetMapping(_ id: MappingID) {
        MappingNote.remove(id, from: notes)
        // A userfaultfd too many with the starter does no harm: the next engine finds no note of it and drops it.
        try? descriptors.forget(Self.name(id))
    }

    /// The mappings that the last engine left, and the sessions they belong to.
    func mappingsLeft() -> [(token: SessionToken, mapping: PersistentMapping)] {
        let left = MappingNote.all(in: notes)
        var found: [(token: SessionToken, mapping: PersistentMapping)] = []
        let ids = descriptors.waitingNames(prefix: Self.userfaultsName).compactMap { UInt32($0.dropFirst(Self.userfaultsName.count)) }
        for id in ids.map({ MappingID(rawValue: $0) }) {
            // Nobody was told of a mapping before both were kept.
            guard let note = left[id], let userfaults = descriptors.take(Self.name(id)) else {
                forgetMapping(id)
                continue
            }
            found.append((note.token, note.mapping(id, userfaults)))
        }
        for id in left.keys where !ids.contains(id.rawValue) { MappingNote.remove(id, from: notes) }
        return found
    }
}

/// What is written down of a mapping: whose it is and what shows where.
///
/// One note is the head; pieces that do not fit into it are in further ones, of which there are two sets: the one that the head names counts, so a process
/// killed while it writes leaves the old or the new.
///
///     head   version (1 byte, 1), flags, set, further notes; 4 registration, 8 pool, 12 pieces, 16 token; 32 pieces
///     piece  address (8 bytes), first page (4), pages (4)
struct MappingNote {
    private static let kind = ParkedNotes.Kind(rawValue: 0x6466_6675)
    private static let version: UInt8 = 1
    private static let poisoned: UInt8 = 1
    private static let headBytes = 32
    private static let pieceBytes = 16
    private static let piecesInHead = (ParkedNotes.limit - headBytes) / pieceBytes
    private static let piecesInFurther = ParkedNotes.limit / pieceBytes
    /// Pieces that can be kept of one mapping.
    static let pieceLimit = piecesInHead + 255 * piecesInFurther

    private struct Piece {
        var address: UInt64
        var firstPage: UInt32
        var pages: UInt32
    }

    var token: SessionToken
    private var registration: UInt32
    private var pool: UInt32
    private var isPoisoned: Bool
    private var pieces: [Piece]

    init(token: SessionToken, mapping: PersistentMapping) {
        self.token = token
        registration = mapping.registration.rawValue
        pool = mapping.pool.rawValue
        isPoisoned = mapping.isPoisoned
        pieces = mapping.pieces.map { piece in
            Piece(
                address: UInt64(piece.address), firstPage: UInt32(clamping: piece.offset.rawValue / basePageSize),
                pages: UInt32(clamping: piece.length.rawValue / basePageSize))
        }
    }

    func mapping(_ id: MappingID, _ userfaults: SharedDescriptor) -> PersistentMapping {
        PersistentMapping(
            id: id, registration: MappingID(rawValue: registration), pool: PoolID(rawValue: pool), userfaults: userfaults,
            pieces: pieces.map { piece in
                MappingPlace(
                    address: UInt(piece.address), offset: ByteCount(Int(piece.firstPage) * basePageSize),
                    length: ByteCount(Int(piece.pages) * basePageSize))
            }, isPoisoned: isPoisoned)
    }

    // MARK: Notes

    private static func head(_ id: MappingID) -> UInt64 { UInt64(id.rawValue) << 16 | 0xffff }
    private static func further(_ id: MappingID, _ set: UInt8, _ index: Int) -> UInt64 {
        UInt64(id.rawValue) << 16 | UInt64(set) << 8 | UInt64(index)
    }

    func keep(_ id: MappingID, in notes: ParkedNotes) -> Bool {
        let old = Self.find(id, in: notes)
        let set: UInt8 = old?.set == 0 ? 1 : 0
        var rest = pieces.dropFirst(Self.piecesInHead)
        guard pieces.count <= Self.pieceLimit else { return false }
        var count = 0
        while !rest.isEmpty {
            guard notes.keep(Self.kind, Self.further(id, set, count), Self.bytes(rest.prefix(Self.piecesInFurther))) else {
                for index in 0..<count { notes.remove(Self.kind, Self.further(id, set, index)) }
                return false
            }
            count += 1
            rest = rest.dropFirst(Self.piecesInFurther)
        }
        var head: [UInt8] = [Self.version, isPoisoned ? Self.poisoned : 0, set, UInt8(count)]
        for number in [registration, pool, UInt32(pieces.count)] { withUnsafeBytes(of: number) { head += $0 } }
        for number in [token.high, token.low] { withUnsafeBytes(of: number) { head += $0 } }
        head += Self.bytes(pieces.prefix(Self.piecesInHead))
        guard notes.keep(Self.kind, Self.head(id), head) else {
            for index in 0..<count { notes.remove(Self.kind, Self.further(id, set, index)) }
            return false
        }
        if let old { for index in 0..<old.further { notes.remove(Self.kind, Self.further(id, old.set, index)) } }
        return true
    }

    static func remove(_ id: MappingID, from notes: ParkedNotes) {
        guard let old = find(id, in: notes) else { return }
        notes.remove(kind, head(id))
        for index in 0..<old.further { notes.remove(kind, further(id, old.set, index)) }
    }

    private static func find(_ id: MappingID, in notes: ParkedNotes) -> (set: UInt8, further: Int)? {
        guard let head = notes.content(kind, head(id)), head.count >= headBytes else { return nil }
        return (head[2], Int(head[3]))
    }

    /// All mappings that were noted; notes that belong to none are removed.
    static func all(in notes: ParkedNotes) -> [MappingID: MappingNote] {
        let left = notes.all(kind)
        var found: [MappingID: MappingNote] = [:]
        var used: Set<UInt64> = []
        for (number, content) in left where number & 0xffff == 0xffff {
            let id = MappingID(rawValue: UInt32(truncatingIfNeeded: number >> 16))
            guard content.count >= headBytes, content.first == version else { continue }
            let numbers = (0..<Int(content[3])).map { further(id, content[2], $0) }
            let bytes = content.dropFirst(headBytes) + numbers.flatMap { left[$0] ?? [] }
            guard let note = MappingNote(content, pieces: Array(bytes)) else { continue }
            found[id] = note
            used.formUnion(numbers + [number])
        }
        for number in left.keys where !used.contains(number) { notes.remove(kind, number) }
        return found
    }

    private init?(_ head: [UInt8], pieces bytes: [UInt8]) {
        func number<T: FixedWidthInteger>(_ bytes: [UInt8], _ offset: Int, _ type: T.Type) -> T {
            bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: offset, as: type) }
        }
        let count = Int(number(head, 12, UInt32.self))
        guard bytes.count == count * Self.pieceBytes else { return nil }
        isPoisoned = head[1] & Self.poisoned != 0
        registration = number(head, 4, UInt32.self)
        pool = number(head, 8, UInt32.self)
        token = SessionToken(high: number(head, 16, UInt64.self), low: number(head, 24, UInt64.self))
        pieces = (0..<count).map { i in
            Piece(
                address: number(bytes, i * Self.pieceBytes, UInt64.self), firstPage: number(bytes, i * Self.pieceBytes + 8, UInt32.self),
                pages: number(bytes, i * Self.pieceBytes + 12, UInt32.self))
        }
    }

    private static func bytes(_ pieces: ArraySlice<Piece>) -> [UInt8] {
        var bytes: [UInt8] = []
        for piece in pieces {
            withUnsafeBytes(of: piece.address) { bytes += $0 }
            withUnsafeBytes(of: piece.firstPage) { bytes += $0 }
            withUnsafeBytes(of: piece.pages) { bytes += $0 }
        }
        return bytes
    }
}
