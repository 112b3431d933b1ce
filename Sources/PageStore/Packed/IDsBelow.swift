import ShrinkLinux
import SystemPackage

/// Which ids may have been used, on a tier that outlives the memory in which the store begins, so that none is used again when that is lost.
///
/// A line of `UsedIDs` is marked whole and synced before the first of its ids is given: one write and one sync for 448 objects. After the
/// first tier is lost all ids of these lines count as used, given or not.
struct IDsBelow: ~Copyable {
    let file: OwnedDescriptor
    private let tier: StoreTier
    private var lastMarked = -1

    init(on tier: StoreTier) throws(Errno) {
        let file = try Files.open(UsedIDs.fileName, [.readWrite, .create, .noFollow], at: tier.directory.number)
        try Files.sync(tier.directory.number)
        self.file = file
        self.tier = tier
    }

    /// A tier that fails stops nobody from making objects; it is counted, and tried again with the next id.
    mutating func mark(_ line: Int) {
        guard line != lastMarked else { return }
        do throws(Errno) {
            // The last byte of a line's bits: set in one that is marked whole.
            var byte: [UInt8] = [0]
            let got = try byte.withMutableBytes { bytes throws(Errno) in
                try Files.read(file.number, into: bytes, at: line * UsedIDs.lineBytes + 55)
            }
            if got != 1 || byte[0] != 0xff {
                if let error = UsedIDs.writeFull(line, to: file.number) { throw error }
                try Files.sync(file.number, dataOnly: true)
                KillPoint.idsMarkedBelow.pass()
            }
            lastMarked = line
        } catch {
            tier.note("noting used ids", error)
        }
    }
}
