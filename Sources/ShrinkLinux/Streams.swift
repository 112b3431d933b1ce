import Glibc
public import SystemPackage

/// Files without a position of their own: pipes, terminals, standard streams.
public enum Streams {
    /// The next bytes, 0 at the end. The corresponding C function is `read`.
    public static func read(_ fd: CInt, into buffer: UnsafeMutableRawBufferPointer) throws(Errno) -> Int {
        try retrying { Glibc.read(fd, buffer.baseAddress, buffer.count) }
    }

    /// Writes everything. The corresponding C function is `write`.
    public static func write(_ fd: CInt, _ bytes: UnsafeRawBufferPointer) throws(Errno) {
        var done = 0
        while done < bytes.count {
            done += try retrying { Glibc.write(fd, bytes.baseAddress! + done, bytes.count - done) }
        }
    }

    /// True if somebody may be reading along. The corresponding C function is `isatty`.
    public static func isTerminal(_ fd: CInt) -> Bool { isatty(fd) == 1 }
}
