import ShrinkLinux
import SystemPackage

/// The file `used-ids`: exactly which ids were ever used, as long as that can be known.
///
/// A server that dies loses nothing that reached the page cache, so a short unsynced write per new object is enough to go on exactly where it was: ids
/// not yet given stay free, also those below the highest one. Only a machine that went down may have lost some of it; the file names the boot
/// that wrote it, and after another one `high-water` speaks instead.
///
///     0    "shrkids1"
///     8    the boot's id (36 characters), or spaces: closed in order, and synced
///     48   ranges of used ids: first and last, 32 bits each, little-endian; what is appended later may overlap
struct IdentifierJournal {
    private static let fileName = "used-ids"
    private static let magic = Array("shrkids1".utf8)
    private static let headerBytes = 48
    private static let noBoot = [UInt8](repeating: 32, count: 36)
    /// When it is this long it is written anew, with the ranges merged.
    private static let compactBytes = 2 << 20

    private var file: SharedDescriptor
    private var sizeBytes: Int
    private let boot: [UInt8]

    /// What an earlier server recorded; nil if there is nothing that still holds.
    static func read(in directory: CInt) throws(Errno) -> [ClosedRange<UInt32>]? {
        let bytes: [UInt8]
        do { bytes = try Files.contents(of: fileName, at: directory, limit: 2 * compactBytes) } catch {
            if error == .noSuchFileOrDirectory || error == .fileTooLarge { return nil }
            throw error
        }
        guard bytes.count >= headerBytes, bytes.starts(with: magic) else { return nil }
        let writer = Array(bytes[8..<44])
        let current = try bootID()
        guard writer == noBoot || writer == current else { return nil }
        var ranges: [ClosedRange<UInt32>] = []
        for at in stride(from: headerBytes, through: bytes.count - 8, by: 8) {
            let (low, high) = bytes.withUnsafeBytes {
                (
                    UInt32(littleEndian: $0.loadUnaligned(fromByteOffset: at, as: UInt32.self)),
                    UInt32(littleEndian: $0.loadUnaligned(fromByteOffset: at + 4, as: UInt32.self))
                )
            }
            guard low > 0, low <= high else { return nil }
            ranges.append(low...high)
        }
        return ranges
    }

    /// Begins the file anew for this boot, so that a clean mark of before can't be taken for the truth after a power cut.
    init(in directory: CInt, _ used: UsedIdentifiers) throws(Errno) {
        boot = try Self.bootID()
        (file, sizeBytes) = try Self.write(used, boot: boot, in: directory)
    }

    /// Records one id.
    mutating func append(_ id: UInt32, _ used: UsedIdentifiers, in directory: CInt) throws(Errno) {
        if sizeBytes > Self.compactBytes { (file, sizeBytes) = try Self.write(used, boot: boot, in: directory) }
        let written = Self.bytes(of: id...id).withUnsafeBytes { Files.write(file.number, $0, at: sizeBytes) }
        if let error = written.error { throw error }
        sizeBytes += 8
    }

    /// Makes it hold over a restart of the machine. No append follows.
    mutating func close(_ used: UsedIdentifiers, in directory: CInt) throws(Errno) {
        (file, sizeBytes) = try Self.write(used, boot: Self.noBoot, in: directory)
    }

    private static func write(_ used: UsedIdentifiers, boot: [UInt8], in directory: CInt) throws(Errno) -> (SharedDescriptor, Int) {
        var bytes = magic + boot + [UInt8](repeating: 0, count: headerBytes - magic.count - boot.count)
        for range in used.ranges { bytes += Self.bytes(of: range) }
        try Files.replaceContents(of: fileName, at: directory, with: bytes)
        try Files.sync(directory)
        return (SharedDescriptor(try Files.open(fileName, .readWrite, at: directory)), bytes.count)
    }

    private static func bytes(of range: ClosedRange<UInt32>) -> [UInt8] {
        [range.lowerBound, range.upperBound].flatMap { value in (0..<4).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) } }
    }

    /// Differs from boot to boot (random(4)).
    private static func bootID() throws(Errno) -> [UInt8] {
        let id = Array(try Files.contents(of: "/proc/sys/kernel/random/boot_id").prefix(36))
        guard id.count == 36 else { throw .ioError }
        return id
    }
}
