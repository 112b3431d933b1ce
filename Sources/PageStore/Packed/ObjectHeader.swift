import ShrinkLinux

/// The first kilobyte of an index file: what is known of the object, twice.
///
/// Both copies are written at every change, one after the other, with a number that grows and a checksum: a process that dies in
/// one leaves the other whole, as it was before or as it is now, and a flipped bit in one of them loses nothing.
///
///     0 magic 8 · 8 CRC-32C of the copy 4 · 12 version 4 · 16 turn 8 · 24 store 16 · 40 object 4 · 44 priority 1, owner 1 and name 2 bytes long
///     48 size 8 · 56 created 8 + 4 · 72 modified 8 + 4 · 88 changed 8 + 4 · 104 owner ≤ 24 · 128 name ≤ 384
struct ObjectHeader: Equatable {
    static let magic: UInt64 = 0x3130_5844_494b_4350  // "PCKIDX01"
    static let copyBytes = 512
    static let totalBytes = 1024
    static let ownerLimit = 24
    static let nameLimit = 384

    var object: UInt32
    var turn: UInt64 = 0
    var sizeBytes = 0
    var created = FileTime(seconds: 0)
    var modified = FileTime(seconds: 0)
    var changed = FileTime(seconds: 0)
    var owner: [UInt8]?
    var name: [UInt8]?
    /// "0" … "3" as one byte.
    var priority: UInt8?

    init(object: UInt32) { self.object = object }

    /// The later of the whole copies at `base`, or nil if both are damaged or another store's.
    init?(reading base: UnsafeRawPointer, object: UInt32, store: StoreIdentity) {
        let copies = [Self(copy: base, object, store), Self(copy: base + Self.copyBytes, object, store)].compactMap { $0 }
        guard let latest = copies.max(by: { $0.turn < $1.turn }) else { return nil }
        self = latest
    }

    private init?(copy base: UnsafeRawPointer, _ object: UInt32, _ store: StoreIdentity) {
        guard base.load(as: UInt64.self) == Self.magic, base.load(fromByteOffset: 8, as: UInt32.self) == Self.sum(base),
            base.load(fromByteOffset: 12, as: UInt32.self) == UInt32(StoreSignature.version),
            base.load(fromByteOffset: 24, as: UInt64.self) == store.high, base.load(fromByteOffset: 32, as: UInt64.self) == store.low,
            base.load(fromByteOffset: 40, as: UInt32.self) == object
        else { return nil }
        self.object = object
        turn = base.load(fromByteOffset: 16, as: UInt64.self)
        sizeBytes = Int(truncatingIfNeeded: base.load(fromByteOffset: 48, as: UInt64.self))
        guard sizeBytes >= 0, sizeBytes <= maxObjectSizeBytes else { return nil }
        func time(_ offset: Int) -> FileTime {
            FileTime(
                seconds: Int(base.load(fromByteOffset: offset, as: Int64.self)),
                nanoseconds: Int(base.load(fromByteOffset: offset + 8, as: UInt32.self)))
        }
        created = time(56)
        modified = time(72)
        changed = time(88)
        let byte = base.load(fromByteOffset: 44, as: UInt8.self)
        priority = byte == 0 ? nil : byte
        func text(_ offset: Int, _ length: Int) -> [UInt8]? {
            length == 0 ? nil : Array(UnsafeRawBufferPointer(start: base + offset, count: length - 1))
        }
        // Lengths are stored plus one: none at all is another thing than an empty one.
        owner = text(104, min(Self.ownerLimit + 1, Int(base.load(fromByteOffset: 45, as: UInt8.self))))
        name = text(128, min(Self.nameLimit + 1, Int(base.load(fromByteOffset: 46, as: UInt16.self))))
    }

    mutating func write(to base: UnsafeMutableRawPointer, store: StoreIdentity) {
        turn += 1
        write(copy: base, store)
        write(copy: base + Self.copyBytes, store)
    }

    private func write(copy: UnsafeMutableRawPointer, _ store: StoreIdentity) {
        copy.initializeMemory(as: UInt8.self, repeating: 0, count: Self.copyBytes)
        copy.storeBytes(of: UInt32(StoreSignature.version), toByteOffset: 12, as: UInt32.self)
        copy.storeBytes(of: turn, toByteOffset: 16, as: UInt64.self)
        copy.storeBytes(of: store.high, toByteOffset: 24, as: UInt64.self)
        copy.storeBytes(of: store.low, toByteOffset: 32, as: UInt64.self)
        copy.storeBytes(of: object, toByteOffset: 40, as: UInt32.self)
        copy.storeBytes(of: priority ?? 0, toByteOffset: 44, as: UInt8.self)
        copy.storeBytes(of: UInt64(sizeBytes), toByteOffset: 48, as: UInt64.self)
        for (offset, time) in [(56, created), (72, modified), (88, changed)] {
            copy.storeBytes(of: Int64(time.seconds), toByteOffset: offset, as: Int64.self)
            copy.storeBytes(of: UInt32(time.nanoseconds), toByteOffset: offset + 8, as: UInt32.self)
        }
        if let owner {
            copy.storeBytes(of: UInt8(owner.count + 1), toByteOffset: 45, as: UInt8.self)
            (copy + 104).copyMemory(from: owner, byteCount: owner.count)
        }
        if let name {
            copy.storeBytes(of: UInt16(name.count + 1), toByteOffset: 46, as: UInt16.self)
            (copy + 128).copyMemory(from: name, byteCount: name.count)
        }
        copy.storeBytes(of: Self.magic, as: UInt64.self)
        copy.storeBytes(of: Self.sum(copy), toByteOffset: 8, as: UInt32.self)
    }

    private static func sum(_ copy: UnsafeRawPointer) -> UInt32 {
        Checksum.bytes(copy + 12, copyBytes - 12, continuing: Checksum.bytes(copy, 8))
    }

    /// Stands in for a header of which both copies are damaged: the object ends where its last page ends.
    static func guessed(from index: borrowing ObjectIndex, object: UInt32) -> ObjectHeader {
        var header = ObjectHeader(object: object)
        header.created = .now()
        header.modified = header.created
        header.changed = header.created
        var page = 0
        while let run = index.run(from: page, limit: index.capacity) {
            for page in run where !index.entry(page).isAbsent { header.sizeBytes = (page + 1) * basePageSize }
            page = run.upperBound
        }
        return header
    }
}
