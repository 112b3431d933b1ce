import Logging
import PageStore
import ShrinkLinux
import SystemPackage

extension StoreFlags {
    /// What is stored may be secret, and whoever may write the directory could put something else in its place.
    ///
    /// A directory that others may write is refused. With the sticky bit, as a tmpfs has it unless told otherwise, nobody can replace what is there: that
    /// is a warning.
    func checkWhoMayWrite(_ logger: Logger) throws(StoreError) {
        for path in directories {
            // One that is missing is told by who opens it.
            guard let directory = try? Files.open(path, [.readOnly, .directory]), let status = try? Files.status(directory.number) else {
                continue
            }
            guard status.mode & 0o022 != 0 else { continue }
            let mode = "0" + String(status.mode & 0o7777, radix: 8)
            guard status.mode & 0o1000 != 0 else {
                throw StoreError(
                    .usage,
                    "others than its owner may write \(path) (mode \(mode)), and could change what is stored; make it private: chmod 700 \(path)"
                )
            }
            logger.warning(
                "Others may make files in the store's directory: chmod 700 it, or mount it with mode=700.",
                metadata: ["path": "\(path)", "mode": "\(mode)"])
        }
    }
}
