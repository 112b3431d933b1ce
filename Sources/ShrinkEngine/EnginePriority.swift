import ShrinkLinux
import SystemPackage

extension Engine {
    /// The nice value at which the threads of an engine whose clients are no strangers bring pages back fastest (sched(7)).
    ///
    /// Who writes a pool's file holds the file's lock, and the others wait for it. At one nice value with a file server, whose threads decompress for those
    /// others meanwhile, the writer gets no more of a processor than each of them. (With `clientsAreStrangers` one thread of the pool's own writes, and
    /// there it brings nothing.)
    public static let aheadOfServer: CInt = -10

    /// Gives the calling thread that nice value, unless it has one below 0 already. Threads inherit it from the one that starts them: called on the thread
    /// that makes the engine, before that, it is for the engine's copying threads. Returns whether it has one now, and if not, why.
    public static func takePriority() -> Feature {
        let name = "priority"
        if Niceness.ofThisThread < 0 { return Feature(name, isAvailable: true) }
        do throws(Errno) { try Niceness.setOfThisThread(aheadOfServer) } catch {
            return Feature(
                name, isAvailable: false,
                reason: """
                    the nice value can't be lowered to \(aheadOfServer) (\(error)), so recovering takes longer; it takes CAP_SYS_NICE, or \
                    RLIMIT_NICE of \(20 - aheadOfServer)
                    """)
        }
        return Feature(name, isAvailable: true)
    }
}
