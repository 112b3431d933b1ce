public import ShrinkLinux
public import SystemPackage

extension PackedObject {
    /// Kept in memory at once and in the index at the next change, sync or close, as after a write.
    /// Times outside 1970 … 2255 are moved to the nearest, as file systems do with what they can't keep (utimensat(2)).
    public func setTimes(modified: FileTime) throws(Errno) {
        let seconds = min(max(modified.seconds, 0), 9_000_000_000)
        noteModified(FileTime(seconds: seconds, nanoseconds: seconds == modified.seconds ? modified.nanoseconds : 0))
    }
}
