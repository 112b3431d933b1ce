import ShrinkLinux
public import SystemPackage

/// Ends this program in order when whoever it works for is gone, even by SIGKILL.
///
/// The starter passes the reading end of a pipe that nobody writes to, named `Lifeline.name`. The writing end is open in every process
/// that this one works for. When the last of them has ended, reading ends too, and this program sends itself SIGTERM: it then does
/// what it does on any SIGTERM. (PR_SET_PDEATHSIG would know one parent only, and the file server must outlive the keeper as long as
/// the engine still brings pages home.)
public struct Lifeline {
    public static let name = "lifeline"

    /// Starts watching if the starter passed a lifeline; otherwise (systemd, a shell) does nothing.
    public static func watch(_ inherited: inout InheritedDescriptors) throws(Errno) {
        guard let line = inherited.take(name) else { return }
        let held = SharedDescriptor(line)
        _ = try DedicatedThread("lifeline", stackSize: 128 << 10) {
            var byte = [UInt8](repeating: 0, count: 16)
            while true {
                let count = byte.withUnsafeMutableBytes { bytes in (try? Files.readNext(held.number, into: bytes)) ?? 0 }
                if count == 0 { break }
            }
            ThisProcess.signalItself(Signal.terminate)
        }
    }
}

/// Names under which the programs keep descriptors at their starter. A starter needs to know one of them.
public enum KeptDescriptor {
    /// The file server's `/dev/fuse`: while it is kept, the mount lives on without a server and callers wait.
    public static let fuseDevice = "fuse"
}
