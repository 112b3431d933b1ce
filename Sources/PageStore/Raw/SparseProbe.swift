import ShrinkLinux
import SystemPackage

/// Finds out whether a file system keeps holes exact to the page, which the raw layout lives from.
enum SparseProbe {
    static func check(_ directory: CInt, path: String) throws(StoreError) {
        do throws(Errno) {
            let file = try Files.openUnnamed(in: directory)
            try Files.truncate(file.number, to: 64 * basePageSize)
            let run = [UInt8](repeating: 1, count: 8 * basePageSize)
            let written = run.withUnsafeBytes { Files.write(file.number, $0, at: 16 * basePageSize) }
            if let error = written.error { throw error }
            try Files.punch(file.number, at: 18 * basePageSize, length: basePageSize)
            // The && of several throwing calls would lose the type of the error.
            let first = try Files.nextData(file.number, from: 0)
            let firstEnd = try Files.nextHole(file.number, from: 16 * basePageSize)
            let second = try Files.nextData(file.number, from: 18 * basePageSize)
            let secondEnd = try Files.nextHole(file.number, from: 19 * basePageSize)
            let exact = [first, firstEnd, second, secondEnd] == [16, 18, 19, 24].map { $0 * basePageSize }
            if exact { return }
        } catch {
            guard error == .notSupported else { throw StoreDirectory.cannotWrite(path, error) }
        }
        throw StoreError(
            .unsupported,
            "the file system of \(path) does not keep holes exact to \(basePageSize) bytes; use tmpfs (without huge=), ext4, XFS or btrfs")
    }
}
