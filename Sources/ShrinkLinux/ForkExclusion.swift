import CShrinkLinux
import Glibc
public import SystemPackage

extension MappedMemory {
    /// A child process does not get this mapping: what is there belongs to this process alone. The corresponding C function is `madvise(MADV_DONTFORK)`.
    public borrowing func excludeFromForks() throws(Errno) { try check(madvise(base, count, SHL_MADV_DONTFORK.rawInt)) }
}
