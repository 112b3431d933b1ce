import CShrinkLinux
import Glibc
public import SystemPackage

extension ThisProcess {
    /// Lets a thread (0: the calling one) run on one processor alone; nil: on any again. The corresponding C function is `sched_setaffinity`.
    public static func placeThread(_ thread: Int32, on processor: Int?) throws(Errno) {
        try check(shl_place_thread(thread, processor.map { CInt($0) } ?? -1))
    }

    /// This process's threads of a name (the first 15 bytes of it count), as the kernel numbers them.
    public static func threads(named name: String) throws(Errno) -> [Int32] {
        let directory = try Files.open("/proc/self/task", [.readOnly, .directory])
        var found: [Int32] = []
        let wanted = Array((String(decoding: Array(name.utf8.prefix(15)), as: UTF8.self) + "\n").utf8)
        try Files.forEachName(in: directory.number) { entry in
            if let number = Int32(entry), (try? Files.contents(of: "/proc/self/task/\(entry)/comm")) == wanted { found.append(number) }
        }
        return found
    }

    /// Runs `body` in a child that is a copy of this process and ends with what it returns; returns the child's exit status, or nil if a signal ended it.
    /// For programs of one thread: nothing else of the process lives on in the child. The corresponding C functions are `fork` and `waitpid`.
    public static func inForkedChild(_ body: () -> Int32) throws(Errno) -> Int32? {
        let child = try check(shl_fork())
        if child == 0 { _exit(body()) }
        var status: CInt = 0
        try retrying { waitpid(child, &status, 0) }
        return status & 0x7f == 0 ? (status >> 8) & 0xff : nil
    }
}
