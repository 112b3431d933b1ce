import ShrinkLinux
import SystemPackage

/// Which ids were ever used: one bit each, in the file `ids`, so that none is used again.
///
/// Lines of 64 bytes: 448 bits, then their CRC-32C. A line whose sum is wrong counts as used whole.
struct UsedIDs: ~Copyable {
    static let fileName = "ids"
    static let lineBytes = 64
    private static let idsPerLine = 448

    private let file: OwnedDescriptor
    /// Where the first tier is memory: ids used and about to be used, by whole lines, on the last tier.
    private var below: IDsBelow?
    private(set) var highest: UInt32
    let damagedLines: Int

    init(in directory: CInt) throws(Errno) {
        let file = try Files.open(Self.fileName, [.readWrite, .create, .noFollow], at: directory)
        (highest, damagedLines) = try Self.scan(file.number)
        self.file = file
    }

    /// From now on every line is marked below before an id of it is given. What a lost first tier had is taken over.
    mutating func keep(_ lines: consuming IDsBelow, firstIsLost: Bool) throws(Errno) {
        if firstIsLost {
            for line in try Self.lines(of: lines.file.number) {
                if let error = Self.writeFull(line, to: file.number) { throw error }
            }
            highest = try Self.scan(file.number).highest
            below = consume lines
        } else {
            // A store that had no tier below before.
            var lines = consume lines
            for line in try Self.lines(of: file.number) { lines.mark(line) }
            below = consume lines
        }
    }

    /// The numbers of the lines that are not empty.
    static func lines(of file: CInt) throws(Errno) -> [Int] {
        var lines: [Int] = []
        let buffer = try MappedMemory(anonymous: 1 << 20, populated: false)
        var position = 0
        while let data = try Files.nextData(file, from: position) {
            position = data / lineBytes * lineBytes
            let got = try Files.read(file, into: buffer.bytes, at: position)
            for offset in stride(from: 0, to: got - lineBytes + 1, by: lineBytes) where !isZero(buffer.base + offset, lineBytes) {
                lines.append((position + offset) / lineBytes)
            }
            if got < lineBytes { break }
            position += got / lineBytes * lineBytes
        }
        return lines
    }

    /// Marks all ids of a line.
    static func writeFull(_ line: Int, to file: CInt) -> Errno? {
        withUnsafeTemporaryAllocation(byteCount: lineBytes, alignment: 8) { bytes in
            bytes.initializeMemory(as: UInt8.self, repeating: 0xff)
            bytes.storeBytes(of: 0, toByteOffset: 56, as: UInt64.self)
            bytes.storeBytes(of: Checksum.bytes(bytes.baseAddress!, 56), toByteOffset: 56, as: UInt32.self)
            return Files.write(file, UnsafeRawBufferPointer(bytes), at: line * lineBytes).error
        }
    }

    private static func scan(_ file: CInt) throws(Errno) -> (highest: UInt32, damagedLines: Int) {
        var highest: UInt32 = 0
        var damagedLines = 0
        let buffer = try MappedMemory(anonymous: 1 << 20, populated: false)
        var position = 0
        while let data = try Files.nextData(file, from: position) {
            position = data / Self.lineBytes * Self.lineBytes
            let got = try Files.read(file, into: buffer.bytes, at: position)
            for offset in stride(from: 0, to: got - Self.lineBytes + 1, by: Self.lineBytes) {
                let line = buffer.base + offset
                if isZero(line, Self.lineBytes) { continue }
                guard Self.isWhole(line) else {
                    damagedLines += 1
                    continue
                }
                for bit in stride(from: Self.idsPerLine - 1, through: 0, by: -1) where Self.isSet(line, bit) {
                    highest = max(highest, UInt32(clamping: (position + offset) / Self.lineBytes * Self.idsPerLine + bit))
                    break
                }
            }
            if got < Self.lineBytes { break }
            position += got / Self.lineBytes * Self.lineBytes
        }
        return (highest, damagedLines)
    }

    private static func isWhole(_ line: UnsafeRawPointer) -> Bool {
        line.load(fromByteOffset: 56, as: UInt32.self) == Checksum.bytes(line, 56)
    }
    private static func isSet(_ line: UnsafeRawPointer, _ bit: Int) -> Bool {
        line.load(fromByteOffset: bit / 8, as: UInt8.self) >> UInt8(bit % 8) & 1 == 1
    }

    /// A line whose sum is wrong counts as used whole.
    func contains(_ id: UInt32) throws(Errno) -> Bool {
        let offset = Int(id) / Self.idsPerLine * Self.lineBytes
        var bytes = [UInt8](repeating: 0, count: Self.lineBytes)
        let got = try bytes.withMutableBytes { line throws(Errno) in try Files.read(file.number, into: line, at: offset) }
        return bytes.withUnsafeBytes { line -> Bool in
            guard let base = line.baseAddress, got == Self.lineBytes, !isZero(base, Self.lineBytes) else { return false }
            return !Self.isWhole(base) || Self.isSet(base, Int(id) % Self.idsPerLine)
        }
    }

    /// Marks an id as used; false if it was already.
    mutating func use(_ id: UInt32) throws(Errno) -> Bool {
        let offset = Int(id) / Self.idsPerLine * Self.lineBytes
        let bit = Int(id) % Self.idsPerLine
        var bytes = [UInt8](repeating: 0, count: Self.lineBytes)
        let got = try bytes.withMutableBytes { line throws(Errno) in try Files.read(file.number, into: line, at: offset) }
        let isNew = bytes.withUnsafeMutableBytes { line -> Bool in
            let base = line.baseAddress!
            if got == Self.lineBytes, !isZero(base, Self.lineBytes), !Self.isWhole(base) { return false }
            if Self.isSet(base, bit) { return false }
            base.storeBytes(
                of: base.load(fromByteOffset: bit / 8, as: UInt8.self) | 1 << UInt8(bit % 8), toByteOffset: bit / 8, as: UInt8.self)
            base.storeBytes(of: Checksum.bytes(base, 56), toByteOffset: 56, as: UInt32.self)
            return true
        }
        guard isNew else { return false }
        below?.mark(Int(id) / Self.idsPerLine)
        let written = bytes.withUnsafeBytes { Files.write(file.number, $0, at: offset) }
        if let error = written.error { throw error }
        highest = max(highest, id)
        return true
    }

    func sync() throws(Errno) { try Files.sync(file.number, dataOnly: true) }
}
