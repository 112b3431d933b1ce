import ShrinkLinux
import SystemPackage

/// The file `high-water`: after the machine went down, no id at or below the number in it is given again.
///
/// It is synced, and runs ahead of the ids in use by a block, so that creating an object seldom waits for the device. What is left of a block then is
/// lost, not used twice.
struct HighWater {
    private static let fileName = "high-water"
    private static let block: UInt32 = 1024

    /// The number in the file.
    private(set) var reserved: UInt32

    /// A store without the file has used no id, or those it lists.
    init(in directory: CInt, path: String, atLeast listed: UInt32) throws(StoreError) {
        let bytes: [UInt8]
        do throws(Errno) { bytes = try Files.contents(of: Self.fileName, at: directory, limit: 64) } catch {
            guard error == .noSuchFileOrDirectory else { throw StoreError(.system, "cannot read \(path)/\(Self.fileName)", errno: error) }
            reserved = listed
            return
        }
        let text = String(decoding: bytes, as: UTF8.self)
        guard text.hasSuffix("\n"), let value = UInt32(text.dropLast()) else {
            throw StoreError(
                .damaged,
                "\(path)/\(Self.fileName) is not a number; write the highest object id ever used into it, or a higher one, and start again")
        }
        reserved = max(value, listed)
    }

    /// Makes sure that `id` will count as used, whatever happens next.
    mutating func cover(_ id: UInt32, in directory: CInt) throws(Errno) {
        guard id > reserved else { return }
        let (next, overflow) = id.addingReportingOverflow(Self.block)
        try write(overflow ? .max : next, in: directory)
    }

    /// Gives back what was reserved and not used.
    mutating func settle(at id: UInt32, in directory: CInt) throws(Errno) {
        guard id != reserved else { return }
        try write(id, in: directory)
    }

    private mutating func write(_ value: UInt32, in directory: CInt) throws(Errno) {
        try Files.replaceContents(of: Self.fileName, at: directory, with: Array("\(value)\n".utf8))
        try Files.sync(directory)
        reserved = value
    }
}
