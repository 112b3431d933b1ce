import CShrinkLinux
public import SystemPackage

extension MemoryFile {
    /// Fixes content and size for good; the file must have no writable mapping. The corresponding C function is `fcntl(F_ADD_SEALS)`.
    public static func sealContent(_ fd: CInt) throws(Errno) {
        try retrying {
            shl_add_seals(fd, SHL_SEAL_WRITE.rawInt | SHL_SEAL_GROW.rawInt | SHL_SEAL_SHRINK.rawInt | SHL_SEAL_SEAL.rawInt)
        }
    }
}
